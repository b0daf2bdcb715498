"""Markdown that the commands wrote, as HTML that can do nothing but be read."""

from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markupsafe import Markup

from tutorkd.files import RESULTS_TABLE
from tutorkd.report.section import Part

_OUTER = 2  # the level of the headings that stand around it


def rendered(text: str) -> Markup:
    """HTML of Markdown with tables; HTML, links and pictures in it stay text."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])
    tokens = parser.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + _OUTER)}"
    html = RendererHTML().render(tokens, parser.options, {})
    return Markup(html.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>"))


def results_table(folder: Path) -> list[Part]:
    """The tables that a command wrote, with their captions; nothing where they can't be read."""
    try:
        return [Part("Results", text=rendered((folder / RESULTS_TABLE).read_text(encoding="utf-8")))]
    except (OSError, ValueError):
        return []

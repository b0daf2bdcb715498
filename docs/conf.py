"""The documentation site: ``make docs``."""

import html
import re
from argparse import SUPPRESS, Action
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

from tutorkd import __version__
from tutorkd.cli.report import parser as report
from tutorkd.comparison.arguments import parser as comparison
from tutorkd.evaluation.arguments import parser as evaluation
from tutorkd.evaluation.predict_arguments import parser as prediction
from tutorkd.evaluation.task_arguments import parser as task_distillation
from tutorkd.export.arguments import parser as export
from tutorkd.glue.arguments import parser as glue
from tutorkd.inspection.arguments import parser as inspect
from tutorkd.methods import CAUSAL_METHODS, EMBEDDING_METHODS, METHODS
from tutorkd.options.parser import OptionParser
from tutorkd.pretraining.adapt_arguments import parser as adaptation
from tutorkd.pretraining.distill_arguments import parser as distillation
from tutorkd.vocabulary.arguments import parser as trimming

HERE = Path(__file__).parent
AT_THE_ROOT = ("RESULTS.md", "CONTRIBUTING.md")
PARSERS = {
    "trim": trimming,
    "adapt": adaptation,
    "distill": distillation,
    "evaluate": evaluation,
    "glue": glue,
    "export": export,
    "compare": comparison,
    "distill-task": task_distillation,
    "predict": prediction,
    "report": report,
    "inspect": inspect,
}

project, release = "tutorkd", __version__
copyright = "the tutorkd developers"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "sphinx_llms_txt"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
myst_fence_as_directive = ["math"]
nb_execution_mode = "off"  # what they keep is shown
autodoc_typehints = "description"
autodoc_member_order = "bysource"
html_theme = "furo"
html_title = "tutorkd"
html_math_renderer = "mathml"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
smartquotes = False  # which would make one dash of the two of an option
llms_txt_full_file = False
llms_txt_summary = "tutorkd makes a small, fast language model out of a large one, by distillation."


def setup(app: Sphinx) -> None:
    """What the site has beside the pages: formulas that browsers draw by themselves, options made from the code."""
    app.add_html_math_renderer("mathml", (_inline_formula, None), (_formula, None))
    app.connect("builder-inited", _write_pages)
    app.connect("source-read", _lead_links_to_pages)


def _inline_formula(translator: Any, node: nodes.math) -> None:
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _formula(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="formula">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def _write_pages(app: Sphinx) -> None:
    """The pages that git doesn't keep: options of the commands, and the files at the root of the repository."""
    (HERE / "options").mkdir(exist_ok=True)
    for command, parser in PARSERS.items():
        (HERE / f"options/{command}.md").write_text(_options(command, parser()), encoding="utf-8")
    for name in AT_THE_ROOT:
        text = (HERE.parent / name).read_text(encoding="utf-8")
        text = re.sub(r"\]\((?!https?:|#|docs/)", "](../", text).replace("](docs/", "](")
        (HERE / name.lower()).write_text(text, encoding="utf-8")


def _lead_links_to_pages(app: Sphinx, page: str, source: list[str]) -> None:
    """Links to files of the repository: some are pages here, source code is only named, data can be fetched.

    Notebooks lie in a folder of their own, where the same links lead to pages.
    """
    if page.startswith("notebooks/"):
        return
    source[0] = re.sub(r"(?<!!)\[([^\]]+)\]\(\.\./([^)#]+)(#[^)]*)?\)", _link, source[0])


def _link(found: re.Match) -> str:
    text, name, place = found[1], found[2], found[3] or ""
    if name in AT_THE_ROOT:
        return f"[{text}]({name.lower()}{place})"
    return found[0] if Path(name).suffix in (".json", ".png") else text


def _options(command: str, parser: OptionParser) -> str:
    """A page with a table for each group of a command's options, as its --help-all has them."""
    parts = [f"# tutorkd {command}", parser.description or ""]
    for group in parser._action_groups:
        shown = [(action, parser.rare.get(action, action.help or "")) for action in group._group_actions]
        parts += _table((group.title or "").capitalize(), shown)
    if command == "distill":
        kinds = ("", METHODS), ("causal models, ", CAUSAL_METHODS), ("embedding models, ", EMBEDDING_METHODS)
        for noun, methods in kinds:
            for name, method in methods.items():
                of_method = OptionParser(command, "", [method.settings], {}, takes_recipe=False)
                parts += _table(f"{noun}--method {name}", [(each, each.help or "") for each in of_method._actions])
    return "\n\n".join(parts) + "\n"


def _table(title: str, options: list[tuple[Action, str]]) -> list[str]:
    rows = []
    for action, text in options:
        if text == SUPPRESS or action.dest in ("help", "help_all"):
            continue
        choices = f" ({', '.join(map(str, action.choices))})" if action.choices else ""
        told = html.escape(text % vars(action)) + choices
        rows.append(f"| `{action.option_strings[0]}` | {_in_a_cell(told)} | {_in_a_cell(_default(action))} |")
    if not rows:
        return []
    return [f"## {title}", "\n".join(["| option | what it does | default |", "| --- | --- | --- |", *rows])]


def _in_a_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _default(action: Action) -> str:
    if action.dest == "bf16":
        return "true where the device multiplies it natively"
    return "" if action.default in (None, SUPPRESS, "") or action.default == [] else f"`{action.default}`"

"""The page: one HTML file with all that it needs in it."""

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib import resources
from pathlib import Path

import altair
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tutorkd import __version__
from tutorkd.report.charts import SERIES, dash
from tutorkd.report.section import Section
from tutorkd.runtime import describe


def page(folder: Path, sections: Sequence[Section], refresh: int | None = None) -> str:
    """The HTML of a report.

    Scripts and style are ours alone: every text is escaped, and a policy names the scripts that a browser may run by
    their digests and lets nothing be fetched. Vega makes functions of its own expressions, which it must allow.

    Args:
        refresh: seconds after which a browser reads the page again.
    """
    environment = Environment(
        loader=PackageLoader("tutorkd.report", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    scripts = [_charts_script(), _own("page.js")]
    digests = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    html = environment.get_template("page.html").render(
        sections=sections,
        title=sections[0].title if len(sections) == 1 else folder.absolute().name,
        folder=str(folder),
        refresh=refresh,
        version=__version__,
        when=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        machine=list(describe().items()),
        policy=f"default-src 'none'; script-src 'unsafe-eval' {digests}; style-src 'unsafe-inline'; img-src data:",
        style=Markup(_own("page.css")),
        charts_script=Markup(scripts[0]),
        page_script=Markup(scripts[1]),
        colours=SERIES,
        dash=dash,
    )
    return html.encode("utf-8", "replace").decode()  # JSON can escape halves of characters


def _own(name: str) -> str:
    return (resources.files("tutorkd.report") / name).read_text(encoding="utf-8")


@cache
def _charts_script() -> str:
    """Vega, Vega-Lite and vega-embed, of the version that Altair writes for."""
    version = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

"""An HTML document with all that it needs in it: what the pages of several commands have in common."""

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Any

import altair
import vl_convert
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tutorkd import __version__
from tutorkd.report.charts import SERIES, dash

_SHARED = "tutorkd.report"


def document(
    template: str, scripts: Sequence[str], style: str = "", connects: bool = False, package: str = "", **values: Any
) -> str:
    """The HTML of a template that extends ``document.html``.

    Scripts and style are ours alone: every text is escaped, and a policy names the scripts that a browser may run by
    their digests and lets nothing be fetched. Vega makes functions of its own expressions, which it must allow.

    Args:
        template: its name.
        scripts: names of files of scripts, in their order, behind that of the charts.
        style: name of a file of styles, behind those that all pages have.
        connects: whether the page asks the server that it came from.
        package: where template, scripts and style are looked for first; by default that of reports.
        values: what the template takes, beside ``version``, ``when`` and what ``part.html`` asks for.
    """
    packages = [package, _SHARED] if package else [_SHARED]
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(each, "") for each in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.globals |= {"colours": SERIES, "dash": dash}
    own = "\n".join(_own(name, packages) for name in ("charts.js", "tables.js", *scripts))
    read = [_charts_script(), own]
    digests = " ".join(f"'sha256-{_digest(script)}'" for script in read)
    policy = f"default-src 'none'; script-src 'unsafe-eval' {digests}; style-src 'unsafe-inline'; img-src data:"
    html = environment.get_template(template).render(
        version=__version__,
        when=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        policy=policy + "; connect-src 'self'" * connects,
        style=Markup("".join(_own(name, packages) for name in ("page.css", style) if name)),
        scripts=[Markup(script) for script in read],
        **values,
    )
    return html.encode("utf-8", "replace").decode()  # JSON can escape halves of characters


def _own(name: str, packages: Sequence[str]) -> str:
    files = (resources.files(each) / name for each in packages)
    return next(file for file in files if file.is_file()).read_text(encoding="utf-8")


@cache
def _charts_script() -> str:
    """Vega, Vega-Lite and vega-embed, of the version that Altair writes for."""
    version = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

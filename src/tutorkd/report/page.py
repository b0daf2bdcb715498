"""The page of a report, of ``page.html``, ``page.css`` and ``page.js``."""

from collections.abc import Sequence
from pathlib import Path

from tutorkd.report.document import document
from tutorkd.report.section import Section
from tutorkd.runtime import describe


def page(folder: Path, sections: Sequence[Section], refresh: int | None = None) -> str:
    """The HTML of a report, one file with all that it needs in it.

    Args:
        refresh: seconds after which a browser reads the page again.
    """
    return document(
        "page.html",
        ["page.js"],
        sections=sections,
        title=sections[0].title if len(sections) == 1 else folder.absolute().name,
        folder=str(folder),
        refresh=refresh,
        machine=list(describe().items()),
    )

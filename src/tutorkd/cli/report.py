"""``tutorkd report``: one page about what a command left in its folder."""

import os
import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from tutorkd.errors import UserError
from tutorkd.files import write_text
from tutorkd.locks import in_use
from tutorkd.options.parser import OptionParser

DESCRIPTION = (
    "Writes one HTML page about the folder of another command, finished or in progress: its settings, curves, tables "
    "and charts, and the command that repeats the run. The page needs no network."
)
PAGE = "report.html"
_FILES = ("run.yaml", "trainer_state.json", "results.json", "results.md", "result.json", "recipe.yaml")
_SECONDS = 5  # between two looks at the folder, and two of the browser at the page


@dataclass
class ReportArguments:
    """Where the page goes, and how long it is kept up to date."""

    output: str | None = field(
        default=None, metadata={"help": f"File for the page (a path); by default FOLDER/{PAGE}."}
    )
    watch: bool = field(
        default=False,
        metadata={"help": "Write the page again whenever a result or a checkpoint is saved, until the run ends."},
    )


def parser() -> OptionParser:
    """Options of the command, behind its folder."""
    options = OptionParser("report", DESCRIPTION, [ReportArguments], {}, takes_recipe=False)
    options.usage = "tutorkd report FOLDER [options]"
    return options


def run(argv: Sequence[str]) -> int:
    words = list(argv[: next((i for i, word in enumerate(argv) if word.startswith("-")), len(argv))])
    (args,) = parser().read(argv[len(words) :])
    if len(words) != 1:
        raise UserError(f"tutorkd report takes one folder, ahead of its options, not {len(words)}")
    if missing := _missing():
        raise UserError(f"a report needs {', '.join(missing)}: pip install 'tutorkd[report]'")
    folder = Path(words[0])
    file = Path(args.output) if args.output else folder / PAGE
    if args.watch:
        _watch(folder, file)
    else:
        _write(folder, file, None)
    print(f"written to {file}")
    return 0


def tell_page(folder: str | Path, label: str = "all of it on one page:") -> None:
    """Write the page about what a command just left in a folder, and print where it is.

    Where it can't be written, the line that writes it is printed: a run that went well isn't spoiled by its page.
    """
    if os.environ.get("RANK", "0") != "0":  # one process of several writes it
        return
    place = shlex.quote(str(folder))
    if _missing():
        print(f"{label} pip install 'tutorkd[report]', then tutorkd report {place}")
        return
    file = Path(folder) / PAGE
    try:
        _write(Path(folder), file, None)
    except Exception:
        print(f"{label} tutorkd report {place}")
        return
    print(f"{label} {file}")


def _missing() -> list[str]:
    return [name for name in ("altair", "vl_convert", "jinja2", "markdown_it") if find_spec(name) is None]


def _watch(folder: Path, file: Path) -> None:
    """Write the page when something has come, and once more when nobody is at the folder any more."""
    seen: object = None
    while in_use(folder):
        if (now := _changes(folder)) != seen:
            with suppress(UserError):  # nothing is there yet, or what is read is just being written
                _write(folder, file, _SECONDS)
            if seen is None:
                print(f"{file} is written again whenever something new is saved, until the run ends", flush=True)
            seen = now
        time.sleep(_SECONDS)
    _write(folder, file, None)


def _changes(folder: Path) -> list[tuple[str, int]]:
    """The files that a page is made of, with their times of change (ns)."""
    found = []
    for place, _, names in os.walk(folder):
        for name in set(names).intersection(_FILES):
            path = os.path.join(place, name)
            with suppress(OSError):  # an old checkpoint was just removed
                found.append((path, os.stat(path).st_mtime_ns))
    return sorted(found)


def _write(folder: Path, file: Path, refresh: int | None) -> None:
    from tutorkd.report.folders import sections  # its dependencies are an extra
    from tutorkd.report.page import page

    write_text(file, page(folder, sections(folder), refresh))

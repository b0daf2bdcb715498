"""What lies in a folder, and what a page says of it."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from altair.utils.schemapi import SchemaValidationError

from tutorkd.errors import UserError
from tutorkd.locks import in_use
from tutorkd.report import comparison, device, evaluation, glue, task, training
from tutorkd.report.section import Section
from tutorkd.words import one_line

# The order is that of a demo's stages. A comparison's folder is looked for first: its file is an evaluation's by name.
_KINDS: list[tuple[Callable[[Path], bool], Callable[[Path, bool], Section]]] = [
    (training.is_run, training.section),
    (comparison.is_comparison, comparison.section),
    (glue.is_glue, glue.section),
    (evaluation.is_evaluation, evaluation.section),
    (task.is_task, task.section),
    (device.is_export, device.section),
]
# What reading nested results can fail with that aren't as a command writes them.
_MISFITS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OSError, SchemaValidationError)
LOOKED_FOR = (
    "run.yaml of tutorkd distill or adapt, trainer_state.json of a Trainer in Python, "
    "results.json or cells of compare, results.json or runs of glue, "
    "results.json or MODEL/result.json of evaluate, results.json of distill-task, onnx/export.json of export, "
    "or folders in it that hold one of these, as a demo's does"
)


def sections(folder: Path) -> list[Section]:
    """What is known of a folder, or of those in it.

    Raises:
        UserError: if it holds nothing of this kind, or what it holds can't be read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} isn't a folder here")
    folder = folder.resolve()  # commands on the page name it, wherever they are run
    found = list(_of(folder, running=False))
    if not found:
        inside = sorted((path for path in folder.iterdir() if path.is_dir()), key=_place)
        named = [(path.name, section) for path in inside for section in _of(path, in_use(folder))]
        titles = Counter((section.kind, section.title) for _, section in named)
        found = [
            replace(section, title=f"{section.title} ({name})") if titles[section.kind, section.title] > 1 else section
            for name, section in named
        ]
    if not found:
        raise UserError(f"{folder} holds nothing to report on; looked for: {LOOKED_FOR}")
    return found


def _place(folder: Path) -> tuple[int, float, str]:
    """Runs first, the earlier before the later."""
    kind = next((number for number, (is_it, _) in enumerate(_KINDS) if is_it(folder)), len(_KINDS))
    return kind, folder.stat().st_mtime if kind else (folder / training.RUN_FILE).stat().st_mtime, folder.name


def _of(folder: Path, running: bool) -> Iterator[Section]:
    for is_it, section in _KINDS:
        if is_it(folder):
            try:
                yield section(folder, running)
            except _MISFITS as error:
                raise UserError(
                    f"the files in {folder} are damaged or of another version, so there is no report: {one_line(error)}"
                ) from error
            return

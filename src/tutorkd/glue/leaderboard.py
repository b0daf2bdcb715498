"""Answers to GLUE's test sets in the files that its leaderboard takes (gluebenchmark.com/faq)."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset

from tutorkd.evaluation.labelled import digest
from tutorkd.evaluation.metrics import answers_of
from tutorkd.files import replacing, write_text, writing
from tutorkd.glue.runs import Run, Unit, fine_tune, finite_logits, training_rows
from tutorkd.glue.tasks import TASKS, Task

FOLDER, _RECORD_FILE = "predictions", "made-of.json"
Tests = Mapping[str, tuple[list[int], Dataset]]  # file of the leaderboard to its rows' numbers and texts


def lacking(tasks: Sequence[str]) -> list[str]:
    """Files that the leaderboard wants, and that answers to these tasks don't give."""
    return [sent.file for name, task in TASKS.items() if name not in tasks for sent in task.submissions]


def answered(unit: Unit, tests: Tests) -> bool:
    """Whether the answers that stand there are of these tests, and of the run that would give them now."""
    record = unit.folder / FOLDER / _RECORD_FILE
    run = _best_run(unit)
    return run is not None and record.is_file() and record.read_text(encoding="utf-8") == _made_of(run, tests)


def predict_tests(unit: Unit, tests: Tests) -> None:
    """Write a unit's answers to its test sets, unless those of the same run stand there.

    They are those of the best validation score among the seeds of the selected setting, which is fine-tuned once more:
    no weights are kept of the grid. Where no run was finished nothing is written.

    Args:
        tests: as ``load_tests`` gives them.
    """
    if answered(unit, tests):
        return
    folder = unit.folder / FOLDER
    record = folder / _RECORD_FILE
    run = _best_run(unit)
    if run is None:
        record.unlink(missing_ok=True)
        return
    classifier, _ = fine_tune(unit, run, training_rows(unit))
    record.unlink(missing_ok=True)
    for file, (index, rows) in tests.items():
        logits = finite_logits(classifier, rows, run.settings.max_length)
        write_text(folder / file, tsv(unit.task, index, answers_of(unit.task.problem, logits)))
    write_text(record, _made_of(run, tests))


def _best_run(unit: Unit) -> Run | None:
    figure = unit.task.selected.name
    return max(unit.selected(), key=lambda each: each[1]["scores"][figure], default=(None, {}))[0]


def _made_of(run: Run, tests: Tests) -> str:
    data = {file: digest([rows]) for file, (_, rows) in tests.items()}
    return json.dumps({"run": run.identity, "tests": data}, indent=2)


def tsv(task: Task, index: Sequence[int], answered: np.ndarray) -> str:
    """Two columns under a header: the row's number, and its class's name or code, or its similarity from 0 to 5."""
    if task.regression:
        words = [f"{value:.3f}" for value in np.clip(answered, 0, 5)]
    else:
        words = [task.classes[code] if task.words else str(code) for code in answered.tolist()]
    lines = [f"{number}\t{word}" for number, word in zip(index, words, strict=True)]
    return "\n".join(["index\tprediction", *lines, ""])


def write_zip(units: Sequence[Unit], path: Path) -> list[str]:
    """Zip what the units of one model have answered, whole or not at all; returns the files that it holds.

    Raises:
        UserError: if it can't be written.
    """
    files = {
        submission.file: unit.folder / FOLDER / submission.file
        for unit in units
        for submission in unit.task.submissions
        if (unit.folder / FOLDER / _RECORD_FILE).is_file()
    }
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, file in files.items():
                archive.write(file, name)
    return list(files)

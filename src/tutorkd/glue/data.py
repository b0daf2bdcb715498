"""The rows of GLUE's tasks, from the Hub or from Parquet files laid out like it, checked before anything runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Value, concatenate_datasets

from tutorkd.data.columns import read_rows, texts_of, values_of
from tutorkd.errors import UserError
from tutorkd.evaluation.labelled import check_labelled, digest
from tutorkd.glue.tasks import HUB_NAME, TASKS, Task

LABEL, INDEX = "label", "idx"
_HIGHEST_SIMILARITY = 5
_SUBSET_SEED = 0


@dataclass(frozen=True)
class TaskRows:
    """The labelled rows of a task: columns ``text``, ``text_pair`` of pairs, and ``label``.

    Labels are class codes in the Hub's order, a ClassLabel; of STS-B similarities, 0 to 5.

    Attributes:
        train: those that are used.
        validation: by split.
    """

    train: Dataset
    validation: dict[str, Dataset]

    @property
    def validation_labels(self) -> dict[str, np.ndarray]:
        """(n,) of each split."""
        return {split: np.asarray(rows[LABEL][:]) for split, rows in self.validation.items()}

    @cached_property
    def digest(self) -> str:
        """What tells their content from others'."""
        return digest([self.train, *self.validation.values()])


def check_there(names: Sequence[str], data_dir: str | None, predict: bool) -> None:
    """Check that local data have all splits of the tasks.

    Raises:
        UserError: naming every file that is missing.
    """
    if data_dir is None:
        return
    if not Path(data_dir).is_dir():
        raise UserError(f"--data_dir {data_dir}: there is no such folder")
    missing = {
        name: [
            f"{config}/{split}.parquet"
            for config, split in _needed(TASKS[name], predict)
            if not _files(data_dir, config, split)
        ]
        for name in names
    }
    lacking = [file for files in missing.values() for file in files]
    if lacking:
        whole = [name for name, files in missing.items() if not files]
        other = f", or take those that are there: --tasks {' '.join(whole)}" if whole else ""
        raise UserError(
            f"{data_dir} lacks {', '.join(lacking)}: add them (the Hub's {HUB_NAME} has these files, and "
            f"without --data_dir they come from there){other}"
        )


def load_task(task: Task, data_dir: str | None, max_train_samples: int | None) -> TaskRows:
    """The labelled rows of a task.

    Args:
        max_train_samples: training rows to take, the same for all models and seeds.

    Raises:
        UserError: if rows can't be read, or lack a column, a text or a valid label.
    """
    train, *validation = (_labelled(task, split, data_dir) for split in ("train", *task.validation_splits))
    if max_train_samples is not None and max_train_samples < len(train):
        train = train.shuffle(seed=_SUBSET_SEED).select(range(max_train_samples))
    return TaskRows(train, dict(zip(task.validation_splits, validation, strict=True)))


def load_tests(task: Task, data_dir: str | None) -> dict[str, tuple[list[int], Dataset]]:
    """By file of the leaderboard, the numbers of the rows and their texts; what stands for labels isn't read.

    Raises:
        UserError: if rows can't be read, or lack a column or a text, or their numbers aren't numbers of their own.
    """
    tests = {}
    for test in task.submissions:
        texts: list[Dataset] = []
        index: list[int] = []
        for rows, source in _read(test.config, test.split, data_dir, task.columns):
            texts.append(Dataset.from_dict(_texts(task, rows, source)))
            first = len(index)
            index += values_of(rows, INDEX, source) if INDEX in rows.column_names else range(first, first + len(rows))
            if not all(isinstance(number, int) for number in index):
                raise UserError(f"{source}: column {INDEX!r} holds {rows.features[INDEX]}, not the numbers of the rows")
            if len(set(index)) < len(index):
                raise UserError(
                    f"{source}: column {INDEX!r} has a number twice; the leaderboard tells rows apart by it"
                )
        tests[test.file] = index, concatenate_datasets(texts)
    return tests


def _needed(task: Task, predict: bool) -> list[tuple[str, str]]:
    """(configuration, split) of all files that a task takes."""
    labelled = [(task.name, split) for split in ("train", *task.validation_splits)]
    return labelled + [(test.config, test.split) for test in task.submissions] * predict


def _files(data_dir: str, config: str, split: str) -> list[Path]:
    """``train.parquet``, or files named as on the Hub, such as ``train-00000-of-00001.parquet``."""
    folder = Path(data_dir) / config
    whole = folder / f"{split}.parquet"
    return [whole] if whole.is_file() else sorted(folder.glob(f"{split}-*-of-*.parquet"))


def _read(config: str, split: str, data_dir: str | None, columns: Sequence[str]) -> list[tuple[Dataset, str]]:
    """Rows, of one file or several, and what messages call each."""
    if data_dir is None:
        try:
            return [(read_rows(f"{HUB_NAME}:{config}", split, columns), f"{HUB_NAME}, {config}, {split}")]
        except UserError as error:
            raise UserError(f"{error}; or give the files with --data_dir") from error
    files = _files(data_dir, config, split)
    if not files:
        raise UserError(f"{data_dir} lacks {config}/{split}.parquet")
    return [(read_rows(str(file), split, columns, [INDEX]), str(file)) for file in files]


def _texts(task: Task, rows: Dataset, source: str) -> dict[str, list[str]]:
    return {
        name: texts_of(rows, column, source) for name, column in zip(("text", "text_pair"), task.columns, strict=False)
    }


def _labelled(task: Task, split: str, data_dir: str | None) -> Dataset:
    parts = _read(task.name, split, data_dir, [*task.columns, LABEL])
    return concatenate_datasets([_checked(task, rows, source) for rows, source in parts])


def _checked(task: Task, rows: Dataset, source: str) -> Dataset:
    texts = _texts(task, rows, source)
    labels, feature = values_of(rows, LABEL, source), rows.features[LABEL]
    check_labelled(labels, LABEL, source)
    if not all(isinstance(label, int | float) for label in labels):
        raise UserError(f"{source}: column {LABEL!r} holds {feature}, not the Hub's label codes")
    if task.regression:
        _check_similarities(labels, feature, source)
        label_feature = Value("float32")
    else:
        _check_codes(task, labels, feature, source)
        labels, label_feature = [int(label) for label in labels], ClassLabel(names=list(task.classes))
    features = Features({**dict.fromkeys(texts, Value("string")), LABEL: label_feature})
    return Dataset.from_dict({**texts, LABEL: labels}, features=features)


def _check_codes(task: Task, labels: list, feature: object, source: str) -> None:
    """Raises UserError unless labels are the task's class codes, in the Hub's order."""
    if isinstance(feature, ClassLabel) and feature.names != list(task.classes):
        raise UserError(
            f"{source}: its classes are {', '.join(feature.names)}; {task.title}'s are {', '.join(task.classes)}, in "
            "this order"
        )
    codes = range(len(task.classes))
    for row, label in enumerate(labels):
        if label not in codes:
            known = ", ".join(f"{code} {name}" for code, name in enumerate(task.classes))
            raise UserError(f"{source}: row {row + 1} has the label {label}; {task.title}'s are {known}")


def _check_similarities(labels: list, feature: object, source: str) -> None:
    """Raises UserError unless labels are similarities."""
    if isinstance(feature, ClassLabel):
        raise UserError(f"{source}: column {LABEL!r} holds classes; STS-B's labels are similarities, 0 to 5")
    out = np.flatnonzero((np.asarray(labels) < 0) | (np.asarray(labels) > _HIGHEST_SIMILARITY))
    if len(out):
        raise UserError(f"{source}: row {out[0] + 1} has the label {labels[out[0]]}; STS-B's go from 0 to 5")

"""GLUE's layout on disk, with tiny rows whose right answers can be read from their words."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import tiny

from tutorkd.glue.tasks import TASKS, Task

NEUTRAL = tiny.WORDS[40:]


def rows(task: Task, count: int, seed: int = 0) -> dict[str, list]:
    """Columns as on the Hub: a row of class c has a word from w10c to w10c+9; STS-B's label is how many of w0 to w9."""
    draw = random.Random(f"{task.name} {seed}")
    labels = [draw.randint(0, 5) if task.regression else row % len(task.classes) for row in range(count)]
    columns: dict[str, list] = {column: [] for column in task.columns}
    for label in labels:
        marks = [draw.randrange(10) for _ in range(label)] if task.regression else [10 * label + draw.randrange(10)]
        words = [*(tiny.WORDS[mark] for mark in marks), *draw.sample(NEUTRAL, 3)]
        draw.shuffle(words)
        for column in task.columns:
            columns[column].append(" ".join(words if column == task.columns[-1] else draw.sample(NEUTRAL, 3)))
    return {**columns, "label": labels, "idx": list(range(count))}


def write(folder: Path, config: str, split: str, columns: dict[str, list], regression: bool = False) -> None:
    """One split as Parquet, in the Hub's types."""
    types = {"label": pa.float32() if regression else pa.int64(), "idx": pa.int32()}
    table = pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()})
    (folder / config).mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / config / f"{split}.parquet")


def write_task(folder: Path, name: str, train: int = 24, validation: int = 12, test: int = 0) -> str:
    """All splits of a task, those of the leaderboard where ``test`` rows are asked for; returns the folder."""
    task = TASKS[name]
    for seed, split in enumerate(("train", *task.validation_splits)):
        count = validation if seed else train
        write(folder, name, split, rows(task, count, seed), task.regression)
    for seed, submission in enumerate(task.submissions if test else ()):
        unlabelled = {**rows(task, test, 10 + seed), "label": [-1] * test}
        write(folder, submission.config, submission.split, unlabelled, task.regression)
    return str(folder)

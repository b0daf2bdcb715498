"""Fine-tuning of one model on one task: a run for each setting and seed, each a result on disk."""

import dataclasses
import gc
import json
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from tutorkd.errors import UserError
from tutorkd.evaluation.arguments import FineTuneArguments
from tutorkd.evaluation.checkpoint import Checkpoint, check_checkpoint, load_classifier
from tutorkd.evaluation.classifier import Classifier
from tutorkd.evaluation.finetune import build_trainer, predict, run_training, tokenize
from tutorkd.evaluation.labelled import digest
from tutorkd.evaluation.soft_target_arguments import SoftTargetArguments
from tutorkd.evaluation.task_teacher import TaskTeacher
from tutorkd.files import stored_result, write_json, write_text, writing, written_whole
from tutorkd.glue.arguments import GlueArguments
from tutorkd.glue.data import TaskRows, load_task
from tutorkd.glue.metrics import score
from tutorkd.glue.selection import best_by_mean
from tutorkd.glue.tasks import TASKS, Task
from tutorkd.hub import CLASSIFICATION, load_tokenizer, quiet_transformers
from tutorkd.identity import difference
from tutorkd.words import one_line

RUNS_FOLDER = "runs"  # in that of the results
RESULT_FILE, ERROR_FILE = "result.json", "error.txt"
CLASSIFIER, MADE_OF_FILE = "classifier", "made-of.json"
_RESULT_TYPES = {"identity": dict[str, Any], "parameters": int, "train_seconds": float, "device": str, "threads": int}


@dataclass(frozen=True)
class Lesson:
    """Whom runs learn from beside the labels.

    Attributes:
        classifier: a classifier of the task, by path or Hub name; it may be made only after this.
        identity: what tells it from others, known before it is made.
        title: what it is called.
        unlabelled: further texts that its answers are learned on, in the columns of the task's rows.
    """

    classifier: str
    identity: dict[str, Any]
    title: str
    soft: SoftTargetArguments
    unlabelled: Dataset | None = None


@dataclass(frozen=True)
class Run:
    """One fine-tuning.

    Attributes:
        folder: of its result.
        settings: its learning rate, rows a step, epochs and seed among them.
        identity: all that its result depends on; where it is spread over threads or how fast isn't among it.
    """

    folder: Path
    settings: FineTuneArguments
    identity: dict[str, Any]

    @property
    def setting(self) -> str:
        """What it shares with the runs of other seeds."""
        s = self.settings
        return f"lr {s.learning_rate:g}, batch {s.per_device_train_batch_size}, epochs {s.num_train_epochs:g}"

    @property
    def name(self) -> str:
        return f"{self.setting}, seed {self.settings.seed}"

    @property
    def result(self) -> dict[str, Any] | None:
        """Its result, if it is finished and had this identity."""
        figures = {figure.name: float for figure in TASKS[self.identity["task"]].figures}
        types = {**_RESULT_TYPES, "scores": figures}
        result = stored_result(self.folder / RESULT_FILE, types)
        return None if result is None or difference(result["identity"], self.identity) else result

    @property
    def error(self) -> str | None:
        """Why it failed when it was last tried."""
        file = self.folder / ERROR_FILE
        return file.read_text(encoding="utf-8") if self.result is None and file.is_file() else None


@dataclass(frozen=True)
class Unit:
    """All runs of one model on one task, which share their tokenised rows and a process.

    Attributes:
        folder: of the unit; each run has a folder in it.
        settings: one for each run.
        lesson: by default runs learn from labels alone.
        keeps: whether the classifier of the first run is kept, for others to learn from.
    """

    checkpoint: Checkpoint
    task: Task
    rows: TaskRows
    folder: Path
    settings: Sequence[FineTuneArguments]
    lesson: Lesson | None = None
    keeps: bool = False

    @property
    def name(self) -> str:
        return f"{self.checkpoint.slug}/{self.task.name}"

    @property
    def classifier(self) -> Path:
        """Where the classifier of the first run is kept."""
        return self.folder / CLASSIFIER

    @cached_property
    def runs(self) -> list[Run]:
        shared = {"weights": self.checkpoint.identity, "task": self.task.name, "data_sha256": self.rows.digest}
        taught = ""
        if self.lesson:
            shared |= {**self.lesson.soft.settings(), "distill_from": self.lesson.identity}
            taught = "-soft-targets"  # beside the runs of labels alone
            if self.lesson.unlabelled is not None:
                shared["unlabelled"] = digest([self.lesson.unlabelled])
                taught += "-unlabelled"
        runs = []
        for s in self.settings:
            readable = f"lr{s.learning_rate:g}-batch{s.per_device_train_batch_size}-epochs{s.num_train_epochs:g}"
            identity = {**shared, **dataclasses.asdict(s), "bf16": s.uses_bfloat16()}
            runs.append(Run(self.folder / f"{readable}-seed{s.seed}{taught}", s, json.loads(json.dumps(identity))))
        return runs

    @property
    def rows_read(self) -> int:
        """How many rows an epoch of training has."""
        more = self.lesson.unlabelled if self.lesson else None
        return len(self.rows.train) + len(more or ())

    def to_do(self) -> list[Run]:
        """Runs that aren't finished; the first one is when its classifier is kept, where that is asked for."""
        left = [run for run in self.runs if run.result is None]
        first = self.runs[0]
        if self.keeps and first not in left and not self._is_kept(first):
            return [first, *left]
        return left

    def _is_kept(self, run: Run) -> bool:
        made_of = stored_result(self.classifier / MADE_OF_FILE, {"run": dict[str, Any]})
        return (
            made_of is not None
            and not difference(made_of["run"], run.identity)
            and any(self.classifier.glob("*.safetensors"))
        )

    def keep(self, run: Run, classifier: Classifier) -> None:
        """Keep the classifier of a run, whole or not at all.

        Raises:
            UserError: if it can't be written.
        """
        with writing(self.classifier), written_whole(self.classifier) as scratch, quiet_transformers():
            classifier.model.save_pretrained(scratch)
            classifier.tokenizer.save_pretrained(scratch)
            (scratch / MADE_OF_FILE).write_text(json.dumps({"run": run.identity}, indent=2), encoding="utf-8")

    def finished(self) -> dict[str, list[tuple[Run, dict[str, Any]]]]:
        """Finished runs and their results by setting, in the grid's order."""
        found: dict[str, list[tuple[Run, dict[str, Any]]]] = {}
        for run in self.runs:
            if (result := run.result) is not None:
                found.setdefault(run.setting, []).append((run, result))
        return found

    def selected(self) -> list[tuple[Run, dict[str, Any]]]:
        """The runs of the setting with the best mean of the task's selected figure, seed by seed."""
        finished, figure = self.finished(), self.task.selected.name
        best = best_by_mean({key: [result["scores"][figure] for _, result in runs] for key, runs in finished.items()})
        return finished[best] if best is not None else []


def units_of(checkpoints: Sequence[Checkpoint], tasks: Sequence[str], args: GlueArguments) -> list[Unit]:
    """Each model on each of the tasks; the small tasks, which give answers first, ahead.

    Raises:
        UserError: if a model can't be fine-tuned on such rows, or rows can't be read.
    """
    positions = [check_checkpoint(checkpoint, args.max_length) for checkpoint in checkpoints]
    rows = {name: load_task(TASKS[name], args.data_dir, args.max_train_samples) for name in tasks}
    folder = Path(args.output_dir) / RUNS_FOLDER
    return [
        Unit(checkpoint, TASKS[name], rows[name], folder / checkpoint.slug / name, args.runs(TASKS[name], longest))
        for name in sorted(tasks, key=lambda name: len(rows[name].train))
        for checkpoint, longest in zip(checkpoints, positions, strict=True)
    ]


def result_files(output_dir: Path) -> list[Path]:
    """The results of all runs in an output folder."""
    return sorted((output_dir / RUNS_FOLDER).glob(f"*/*/*/{RESULT_FILE}"))


def run_unit(unit: Unit) -> dict[str, str]:
    """Run what isn't finished; a run that fails doesn't keep the others from running.

    Returns:
        Of each run that failed, by name, why.

    Raises:
        UserError: if the rows can't be tokenised for this model.
    """
    left = unit.to_do()
    if not left:
        return {}
    rows = training_rows(unit)
    failed = {}
    for number, run in enumerate(left):
        tqdm.write(f"{unit.name}: {run.name} ({len(left) - number} to go)", file=sys.stderr)
        try:
            result = _result(unit, run, rows)
        except Exception as error:  # whatever it is, hours of other runs aren't to be lost to it
            failed[run.name] = one_line(error)
            if not isinstance(error, UserError):
                traceback.print_exc()
            write_text(run.folder / ERROR_FILE, failed[run.name])
        else:
            write_json(run.folder / RESULT_FILE, result)
            (run.folder / ERROR_FILE).unlink(missing_ok=True)
        gc.collect()  # a trainer, its model and its optimizer hold one another
    return failed


class TrainingRows(NamedTuple):
    """The training rows of a unit as token ids, and the teacher that gave them soft targets."""

    tokens: Dataset
    teacher: TaskTeacher | None


def training_rows(unit: Unit) -> TrainingRows:
    """Those that all runs of a unit share.

    Raises:
        UserError: if the rows can't be tokenised for this model, or not be learned from this teacher.
    """
    max_length, rows, teacher = unit.settings[0].max_length, unit.rows.train, None
    if unit.lesson:
        soft = dataclasses.replace(unit.lesson.soft, distill_from=unit.lesson.classifier)
        teacher = TaskTeacher(soft, unit.task.problem, unit.task.classes)
        rows = teacher.taught(rows, max_length, unit.lesson.unlabelled)
    tokenizer = load_tokenizer(unit.checkpoint.folder, "model", needed=CLASSIFICATION)
    return TrainingRows(tokenize(rows, tokenizer, max_length), teacher)


def fine_tune(unit: Unit, run: Run, rows: TrainingRows) -> tuple[Classifier, float]:
    """A new classifier that was trained, and the seconds that it took.

    Raises:
        UserError: if the checkpoint isn't a whole encoder.
    """
    model, tokenizer = load_classifier(unit.checkpoint, list(unit.task.classes), run.settings.seed)
    title = f"{unit.checkpoint.title}, {unit.task.title}"
    trainer = build_trainer(model, tokenizer, rows.tokens, run.settings, str(run.folder), title, rows.teacher)
    seconds = run_training(trainer)
    return Classifier(title, model.eval(), tokenizer, None), seconds


def finite_logits(classifier: Classifier, rows: Dataset, max_length: int) -> np.ndarray:
    """Logits (n, classes) for n rows of text.

    Raises:
        UserError: if they aren't finite.
    """
    logits = predict(classifier, rows, max_length)
    if not np.isfinite(logits).all():
        raise UserError("diverged: its answers aren't finite; lower the learning rate")
    return logits


def _result(unit: Unit, run: Run, rows: TrainingRows) -> dict[str, Any]:
    classifier, seconds = fine_tune(unit, run, rows)
    if unit.keeps and run is unit.runs[0]:
        unit.keep(run, classifier)
    validation = unit.rows.validation
    logits = {split: finite_logits(classifier, of, run.settings.max_length) for split, of in validation.items()}
    return {
        "identity": run.identity,
        "scores": score(unit.task, unit.rows.validation_labels, logits),
        "rows": {"train": len(unit.rows.train), **{split: len(of) for split, of in validation.items()}},
        "parameters": classifier.model.num_parameters(),
        "train_seconds": seconds,
        "device": str(classifier.model.device),
        "threads": torch.get_num_threads(),
    }

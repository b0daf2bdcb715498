"""The student of ``tutorkd distill-task`` from its first step to a folder on disk."""

import json
import sys
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tqdm.auto import tqdm

from tutorkd.data.readers import naming
from tutorkd.errors import UserError
from tutorkd.evaluation.checkpoint import check_checkpoint, find_checkpoint, save_checkpoint
from tutorkd.evaluation.classifier import Classifier, check_trained
from tutorkd.evaluation.finetune import build_trainer, run_training, tokenize
from tutorkd.evaluation.labelled import column_options, digest, load_task, load_unlabelled, tell_repeated
from tutorkd.evaluation.problem import class_names_of, problem_of
from tutorkd.evaluation.records import check_summary
from tutorkd.evaluation.soft_target_arguments import SoftTargetArguments, SoftTargetWeights
from tutorkd.evaluation.task_arguments import SUMMARY, TaskStudentArguments
from tutorkd.evaluation.task_student import in_order_of, make_student, no_rows
from tutorkd.evaluation.task_teacher import TaskTeacher
from tutorkd.files import stored_result, write_json, writing
from tutorkd.hub import load_config
from tutorkd.identity import difference
from tutorkd.locks import contents, empty
from tutorkd.options.recipes import FIRST_STAGE_SECTION
from tutorkd.pretraining.distill_arguments import Distillation
from tutorkd.pretraining.distillation import distill, told
from tutorkd.settings import resolved
from tutorkd.students import has_weights, sizes_of

_RECORD_FILE = "distillation.json"
_IRRELEVANT = ("output_dir", "dry_run", "restart")
_ROWS_OF_START = 256  # rows of the task by which slices are chosen


@dataclass(frozen=True)
class TaskDistillation:
    """A teacher and the rows that its student learns from, found to fit.

    Attributes:
        first: the run that makes the student, if there is to be one.
        train: labelled rows, of which there may be none.
        unlabelled: text alone, or None.
    """

    args: TaskStudentArguments
    teacher: TaskTeacher
    train: Dataset
    unlabelled: Dataset | None
    validation: Dataset
    first: Distillation | None = None

    @property
    def classifier(self) -> Classifier:
        return self.teacher.classifier

    @property
    def folder(self) -> Path:
        """Of the student."""
        return Path(self.args.output_dir) / "student"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the student depends on."""
        own = {key: value for key, value in asdict(self.args).items() if key not in _IRRELEVANT}
        rows = [self.train, self.validation, *([self.unlabelled] if self.unlabelled else [])]
        first = resolved(self.first.arguments) if self.first else {}
        return {
            **own,
            FIRST_STAGE_SECTION: {key: value for key, value in first.items() if key not in _IRRELEVANT} or None,
            **self.teacher.soft.settings(),
            "distill_from": self.teacher.checkpoint.identity,
            "bf16": self.args.uses_bfloat16(),
            "data_sha256": digest(rows)[:12],
        }

    def finished(self) -> bool:
        """Whether the student stands there.

        Raises:
            UserError: if another one does, or something else.
        """
        check_summary(Path(self.args.output_dir), SUMMARY, "distill-task")
        record = stored_result(self.folder / _RECORD_FILE, {"settings": dict[str, Any], "finished": bool})
        if record is None and self.folder.is_dir() and contents(self.folder):
            raise UserError(
                f"{self.folder} holds something that tutorkd distill-task didn't write: choose another --output_dir"
            )
        if record is None or self.args.restart:
            return False
        if found := difference(record["settings"], json.loads(json.dumps(self.settings))):
            raise UserError(
                f"{self.args.output_dir} holds another run ({found}); choose another --output_dir, or --restart to "
                "throw that run away"
            )
        return record["finished"] and any(self.folder.glob("*.safetensors"))


def prepare(
    args: TaskStudentArguments, weights: SoftTargetWeights, first: Distillation | None = None
) -> TaskDistillation:
    """Load the teacher and the rows, and see that they fit.

    Raises:
        UserError: if they don't, can't be found or read, or there is nothing to train or to measure on.
    """
    if not args.teacher:
        raise UserError("give the classifier to distil: --teacher PATH_OR_NAME")
    if not args.validation:
        raise UserError("no validation data: --validation takes a csv, jsonl or parquet file, or a Hub name:config")
    if args.train is None and args.unlabelled is None:
        raise UserError("nothing to train on: give labelled rows with --train, text with --unlabelled, or both")
    soft = SoftTargetArguments(distill_from=args.teacher, **asdict(weights))
    if args.train is None:
        soft = replace(soft, soft_target_weight=1.0)  # there are no labels
    elif args.unlabelled is not None and soft.soft_target_weight == 0:
        raise UserError("text without labels only has soft targets: give a soft_target_weight above 0")
    config = load_config(find_checkpoint(args.teacher).folder, "teacher")
    check_trained(config, args.teacher, "teacher")
    problem = problem_of(config)
    for name in (args.teacher, *([args.student] if has_weights(args.student) else [])):  # presets have its positions
        check_checkpoint(find_checkpoint(name), args.max_length, problem)
    # All rows are read before a model is loaded: it is in them that most mistakes are.
    validation = load_task(args.validation, "validation", *args.labelled_columns)
    labelled = None if args.train is None else load_task(args.train, "train", *args.labelled_columns)
    unlabelled = None
    if args.unlabelled is not None:
        with naming(column_options(*args.text_columns)):
            unlabelled, left_out = load_unlabelled(args.unlabelled, *args.text_columns, [validation])
        if left_out:
            words = f"{left_out:,} of {len(unlabelled) + left_out:,} rows are also in the validation set and left out"
            tqdm.write(f"text without labels: {words}", file=sys.stderr)
    teacher = TaskTeacher(soft, problem, class_names_of(config))
    classifier = teacher.classifier
    validation = in_order_of(classifier, validation)
    if labelled is None:
        train = no_rows(classifier, [name for name in validation.column_names if name != "label"])
    else:
        train = in_order_of(classifier, labelled)
        if args.max_train_samples is not None and args.max_train_samples < len(train):
            train = train.shuffle(seed=args.seed).select(range(args.max_train_samples))
    tell_repeated(validation, train)
    return TaskDistillation(args, teacher, train, unlabelled, validation, first)


def train_student(task: TaskDistillation) -> None:
    """Train the student and save it, a plain transformers model; what an earlier run left in its folder is removed.

    A first stage that is finished isn't run again.

    Raises:
        UserError: if there is no such student, it can't learn from this teacher, diverges, or can't be written.
    """
    args, record, settings, first = task.args, task.folder / _RECORD_FILE, task.settings, None
    if task.first is not None:
        print(f"stage 1 of 2: {told(task.first)}", flush=True)
        first = distill(task.first)  # which refuses, before it trains, what it can't be made with
        print("stage 2 of 2: the task")
    read = partial(_read_some, task)
    student, tokenizer, start = make_student(args.student, task.classifier, sizes_of(args), args.seed, first, read)
    print(f"student: {start}", flush=True)
    rows = tokenize(task.teacher.taught(task.train, args.max_length, task.unlabelled), tokenizer, args.max_length)
    trainer = build_trainer(student, tokenizer, rows, args, str(task.folder), "student", task.teacher)
    # From here on the folder is this run's; what can't be trained at all leaves it as it is.
    empty(task.folder)
    write_json(record, {"settings": settings, "finished": False})
    run_training(trainer)
    if not all(bool(torch.isfinite(weight).all()) for weight in student.parameters()):
        raise UserError("the student diverged: its weights aren't finite; lower the learning_rate")
    with writing(task.folder):
        save_checkpoint(student, tokenizer, task.folder)
    write_json(record, {"settings": settings, "finished": True})


def _read_some(task: TaskDistillation) -> None:
    """Have the teacher read as much of the text that is trained on as says which of its dimensions matter there."""
    rows = task.train if len(task.train) else task.unlabelled
    assert rows is not None
    some = rows.shuffle(seed=task.args.seed).select(range(min(len(rows), _ROWS_OF_START)))  # files are often sorted
    texts = [list(some[column]) for column in ("text", "text_pair") if column in some.column_names]
    task.classifier.logits(*texts, max_length=task.args.max_length)

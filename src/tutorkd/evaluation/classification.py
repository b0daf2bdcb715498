"""Comparison of encoders by fine-tuning each on one labelled data set."""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from datasets import Dataset
from sklearn.metrics import accuracy_score, f1_score
from tqdm.auto import tqdm

from tutorkd.errors import UserError
from tutorkd.evaluation.arguments import CLASSIFIER, NOT_SETTINGS, EvaluateArguments
from tutorkd.evaluation.checkpoint import Checkpoint, check_checkpoint, find_checkpoint, load_classifier
from tutorkd.evaluation.cost import milliseconds_per_sentence
from tutorkd.evaluation.finetune import FineTuneArguments, build_trainer, predict, tokenize
from tutorkd.evaluation.labelled import align_labels, digest, load_labelled, load_texts, text_columns, without
from tutorkd.evaluation.records import earlier, machine, record_of, take_up
from tutorkd.evaluation.report import EvaluationResult, markdown_table
from tutorkd.evaluation.soft_targets import TaskDistillationArguments
from tutorkd.evaluation.task_teacher import TaskTeacher
from tutorkd.files import write_text, writing, written_whole
from tutorkd.hub import quiet_transformers
from tutorkd.locks import held

FIGURE_TYPES = get_type_hints(EvaluationResult)
_RECORD_TYPES = {"settings": dict[str, Any], "weights": dict[str, Any], "classifier": bool, "result": FIGURE_TYPES}
_TIMED_SENTENCES = 200


@dataclass(frozen=True)
class _Evaluation:
    """What is compared, and on which rows; found to be usable.

    Attributes:
        unlabelled: rows of text alone, of which none is a row of the validation set.
        left_out: how many were.
    """

    args: EvaluateArguments
    checkpoints: list[Checkpoint]
    train: Dataset
    validation: Dataset
    soft: TaskDistillationArguments | None = None
    teacher: TaskTeacher | None = None
    unlabelled: Dataset | None = None
    left_out: int = 0

    @property
    def words_of_unlabelled(self) -> str:
        left_out = f", {self.left_out:,} rows of the validation set left out" if self.left_out else ""
        return f"{len(self.unlabelled or ()):,} rows{left_out}"

    @cached_property
    def taught(self) -> Dataset:
        """The rows to train on, with the teacher's answers where there is one."""
        if self.teacher is None:
            return self.train
        return self.teacher.taught(self.train, self.args.max_length, self.unlabelled)

    @property
    def settings(self) -> dict[str, Any]:
        """All that a result depends on beside the weights; the data also by their content."""
        settings = {key: value for key, value in asdict(self.args).items() if key not in NOT_SETTINGS}
        if self.soft and self.teacher:
            settings |= {**asdict(self.soft), "distill_from": self.teacher.checkpoint.identity}
        return {
            **settings,
            "bf16": self.args.uses_bfloat16(),
            "data_sha256": digest([self.train, self.validation, *([self.unlabelled] if self.unlabelled else [])])[:12],
            **machine(),
        }


def evaluate_models(
    models: list[str], args: EvaluateArguments, soft: TaskDistillationArguments | None = None
) -> list[EvaluationResult]:
    """Fine-tune and measure each model, and write results.json and results.md to ``args.output_dir``.

    A model whose result stands there for the same weights isn't run again; results of other data or settings are
    refused. ``args.restart`` throws both away. On another device or number of threads, models are measured anew.
    Whatever can be checked is checked for all models before the first one runs.

    Args:
        soft: a classifier that the models learn from beside the labels.

    Returns:
        One result a model, in the order of ``models`` (``args.models`` isn't read).

    Raises:
        UserError: for a model or data that can't be used, for a folder that holds results of other data or settings,
            and where training diverges.
    """
    evaluation = _prepare(models, args, soft)
    with held(Path(args.output_dir)):
        return _evaluate(evaluation, args)


def _evaluate(evaluation: _Evaluation, args: EvaluateArguments) -> list[EvaluationResult]:
    settings, output = evaluation.settings, Path(args.output_dir)
    take_up(output, _RECORD_TYPES, settings, args.restart)
    if evaluation.left_out:
        tqdm.write(f"text without labels: {evaluation.words_of_unlabelled}", file=sys.stderr)
    results = []
    for checkpoint in evaluation.checkpoints:
        record = record_of(output, checkpoint)
        classifier = record.with_name(CLASSIFIER) if args.save_models else None
        result = _earlier(record, settings, checkpoint, args.save_models)
        if result is None:
            result, save = evaluate_checkpoint(
                checkpoint, evaluation.taught, evaluation.validation, args, str(record.parent), evaluation.soft
            )
            content = {"settings": settings, "weights": checkpoint.identity, "result": asdict(result)}
            write_text(record, json.dumps({**content, "classifier": False}, indent=2))
            if classifier:  # the larger part, for which there may be no space, comes second
                remedy = f"the result is in {record}; free space, then the same command fine-tunes the model again"
                with writing(classifier, remedy):
                    save(classifier)
                write_text(record, json.dumps({**content, "classifier": True}, indent=2))
            note = f"fine-tuned in {result.train_seconds:.0f} s"
        else:
            note = f"finished before, in {record}"
        if result.only_class is not None:
            note += f"; it hasn't learned: every row is given the class {result.only_class!r}"
        if classifier:
            note += f"; its classifier is {classifier}"
        accuracy = f"accuracy {100 * result.accuracy:.1f} ± {100 * result.standard_error:.1f} %"
        tqdm.write(f"{checkpoint.title}: {accuracy}, {note}", file=sys.stderr)
        results.append(result)
    summary = {"settings": settings, "results": [asdict(result) for result in results]}
    write_text(output / "results.json", json.dumps(summary, indent=2))
    write_text(output / "results.md", markdown_table(results))
    return results


def evaluation_plan(
    models: list[str], args: EvaluateArguments, soft: TaskDistillationArguments | None = None
) -> dict[str, str]:
    """What `evaluate_models` would do, after all the checks that it makes before the first model runs.

    Raises:
        UserError: as `evaluate_models`, before it trains.
    """
    evaluation = _prepare(models, args, soft)
    settings, train, validation = evaluation.settings, evaluation.train, evaluation.validation
    if not args.restart:
        take_up(Path(args.output_dir), _RECORD_TYPES, settings, restart=False)
    rows = len(train) + len(evaluation.unlabelled or ())
    steps = math.ceil(rows / args.per_device_train_batch_size) * args.num_train_epochs
    finished = [
        not args.restart
        and _earlier(record_of(Path(args.output_dir), checkpoint), settings, checkpoint, args.save_models)
        for checkpoint in evaluation.checkpoints
    ]
    return {
        **{
            f"model {checkpoint.title}": f"{checkpoint.bytes / 1e6:.1f} MB" + (", finished" if done else "")
            for checkpoint, done in zip(evaluation.checkpoints, finished, strict=True)
        },
        "rows": f"{len(train):,} to train on, {len(validation):,} to measure on",
        **({"without labels": evaluation.words_of_unlabelled} if evaluation.unlabelled else {}),
        "classes": ", ".join(train.features["label"].names),
        "steps": f"{math.ceil(steps):,} a model, of {args.per_device_train_batch_size} rows",
    }


def _prepare(models: list[str], args: EvaluateArguments, soft: TaskDistillationArguments | None) -> _Evaluation:
    """All checks but those of the output folder."""
    if not models:
        raise UserError("no model to evaluate: give one or more paths or Hub names")
    for name in ("train", "validation"):
        if not getattr(args, name):
            raise UserError(f"no {name} data: --{name} takes a csv, jsonl or parquet file, or a Hub name:config")
    checkpoints = [find_checkpoint(model) for model in models]
    for checkpoint in checkpoints:
        check_checkpoint(checkpoint, args.max_length)
    train, validation = _load_data(args)
    if soft is None or soft.distill_from is None:
        return _Evaluation(args, checkpoints, train, validation)
    teacher = TaskTeacher(soft.distill_from, "single_label_classification", train.features["label"].names)
    if soft.unlabelled is None:
        return _Evaluation(args, checkpoints, train, validation, soft, teacher)
    texts = load_texts(soft.unlabelled, "train", args.text_column, args.text_pair_column)
    unlabelled = without(texts, validation)
    if not len(unlabelled):
        raise UserError(f"{soft.unlabelled}: all of its {len(texts):,} rows are rows of the validation set")
    return _Evaluation(
        args, checkpoints, train, validation, soft, teacher, unlabelled, left_out=len(texts) - len(unlabelled)
    )


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    train: Dataset,
    validation: Dataset,
    args: FineTuneArguments,
    output_dir: str,
    soft: TaskDistillationArguments | None = None,
) -> tuple[EvaluationResult, Callable[[Path], None]]:
    """Fine-tune one checkpoint on ``train`` and measure it on ``validation``, as `load_labelled` gives them.

    Args:
        soft: how the soft targets are learned that ``train`` has of a `TaskTeacher`.

    Returns:
        The result, and what keeps the fine-tuned model and its tokenizer in a folder.

    Raises:
        UserError: if the checkpoint isn't a whole encoder, or training diverges.
    """
    model, tokenizer = load_classifier(checkpoint, train.features["label"].names, args.seed)
    tokenized = tokenize(train, tokenizer, args.max_length)
    trainer = build_trainer(model, tokenizer, tokenized, args, output_dir, checkpoint.title, soft)
    # Timed before training, which may leave the model under bfloat16 autocast.
    milliseconds = milliseconds_per_sentence(model, tokenizer, _timed_sentences(validation), args.max_length)
    train_seconds = trainer.train().metrics["train_runtime"]
    logits = predict(trainer, tokenize(validation, tokenizer, args.max_length))
    if not np.isfinite(logits).all():
        raise UserError(f"fine-tuning {checkpoint.name} diverged: its answers aren't finite; lower the learning_rate")
    labels, predicted = validation["label"][:], logits.argmax(-1)
    accuracy = float(accuracy_score(labels, predicted))
    result = EvaluationResult(
        name=checkpoint.name,
        parameters=model.num_parameters(),
        bytes=checkpoint.bytes,
        accuracy=accuracy,
        macro_f1=float(f1_score(labels, predicted, average="macro")),
        standard_error=math.sqrt(accuracy * (1 - accuracy) / len(labels)),
        train_rows=len(train),
        validation_rows=len(validation),
        milliseconds_per_sentence=milliseconds.median,
        milliseconds_first_quartile=milliseconds.first_quartile,
        milliseconds_third_quartile=milliseconds.third_quartile,
        only_class=train.features["label"].int2str(int(predicted[0])) if len(set(predicted)) == 1 else None,
        threads=torch.get_num_threads(),
        device=str(model.device),
        train_seconds=train_seconds,
    )

    def save(folder: Path) -> None:
        with written_whole(folder) as scratch, quiet_transformers():
            model.save_pretrained(scratch)
            tokenizer.save_pretrained(scratch)

    return result, save


def _load_data(args: EvaluateArguments) -> tuple[Dataset, Dataset]:
    columns = (args.text_column, args.text_pair_column, args.label_column)
    train = load_labelled(args.train, "train", *columns)
    validation = align_labels(load_labelled(args.validation, "validation", *columns), train, args.validation)
    if args.max_train_samples is not None and args.max_train_samples < len(train):
        # Shuffled first: files are often sorted by class.
        train = train.shuffle(seed=args.seed).select(range(args.max_train_samples))
        if len(set(train["label"])) < 2:
            raise UserError(f"the {args.max_train_samples} rows of max_train_samples hold one class only: take more")
    return train, validation


def _timed_sentences(rows: Dataset) -> list[tuple[str, ...]]:
    """Rows spread evenly over the data, so that sorted data give all kinds."""
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), _TIMED_SENTENCES)).astype(int)
    return list(zip(*text_columns(rows.select(chosen)), strict=True))


def _earlier(
    record: Path, settings: dict[str, Any], checkpoint: Checkpoint, with_classifier: bool
) -> EvaluationResult | None:
    """The result of an earlier run, if it had the same settings and weights, and kept its classifier where asked."""
    content = earlier(record, _RECORD_TYPES, settings, checkpoint)
    if content is None:
        return None
    if with_classifier and not (content["classifier"] and any(record.with_name(CLASSIFIER).glob("*.safetensors"))):
        return None
    return EvaluationResult(**{**{key: content["result"][key] for key in FIGURE_TYPES}, "name": checkpoint.name})

"""Comparison of encoders by fine-tuning each on one labelled data set."""

import math
import sys
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from tutorkd.data.readers import naming
from tutorkd.errors import UserError
from tutorkd.evaluation.arguments import CLASSIFIER, NOT_SETTINGS, EvaluateArguments
from tutorkd.evaluation.checkpoint import Checkpoint, check_checkpoint, load_classifier, save_checkpoint
from tutorkd.evaluation.classifier import Classifier
from tutorkd.evaluation.cost import milliseconds_per_sentence
from tutorkd.evaluation.finetune import build_trainer, predict, run_training, tokenize
from tutorkd.evaluation.heldout import evenly_spread
from tutorkd.evaluation.labelled import (
    align_labels,
    column_options,
    digest,
    labels_of,
    load_task,
    load_unlabelled,
    names_of_labels,
    problem_of_labels,
    tell_repeated,
    text_columns,
)
from tutorkd.evaluation.metrics import METRICS, answers_of, scores_of, standard_error_of
from tutorkd.evaluation.problem import Problem
from tutorkd.evaluation.records import (
    check_owner,
    earlier,
    machine,
    named_checkpoints,
    record_of,
    result_names,
    take_up,
)
from tutorkd.evaluation.report import (
    EvaluationResult,
    by_model,
    markdown_table,
    record_types,
    result_of,
    score_in_words,
    spreads,
)
from tutorkd.evaluation.soft_target_arguments import TaskDistillationArguments
from tutorkd.evaluation.task_teacher import TaskTeacher
from tutorkd.files import write_json, write_results, writing
from tutorkd.locks import held
from tutorkd.words import listed

_TIMED_SENTENCES = 200


@dataclass(frozen=True)
class _Evaluation:
    """What is compared, and on which rows; found to be usable.

    Attributes:
        names: of the checkpoints' folders.
        unlabelled: rows of text alone, of which none is a row of the validation set.
        left_out: how many were.
    """

    args: EvaluateArguments
    checkpoints: list[Checkpoint]
    names: list[str]
    train: Dataset
    validation: Dataset
    teacher: TaskTeacher | None = None
    unlabelled: Dataset | None = None
    left_out: int = 0

    @property
    def seeds(self) -> list[int | None]:
        """Those that make a run each; None where there is no choice of them."""
        return [*self.args.seeds] or [None]

    @property
    def runs(self) -> list["_Run"]:
        return [
            _Run(self, checkpoint, name, record_of(Path(self.args.output_dir), name, seed), seed)
            for checkpoint, name in zip(self.checkpoints, self.names, strict=True)
            for seed in self.seeds
        ]

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

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that a result depends on beside the weights; the data also by their content."""
        settings = {key: value for key, value in asdict(self.args).items() if key not in NOT_SETTINGS}
        if self.args.seeds and self.args.max_train_samples is None:
            settings["seed"] = None  # each run has one of its own, in its folder's name
        if self.teacher:
            settings |= {**self.teacher.soft.settings(), "distill_from": self.teacher.checkpoint.identity}
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
        One result a model, or of several seeds one a seed, in the order of ``models`` (``args.models`` isn't read).

    Raises:
        UserError: for a model or data that can't be used, for a folder that holds results of other data or settings,
            and where training diverges.
    """
    evaluation = _prepare(models, args, soft)
    with held(Path(args.output_dir)):
        return _evaluate(evaluation)


@dataclass(frozen=True)
class _Run:
    """One model fine-tuned with one seed."""

    evaluation: _Evaluation
    checkpoint: Checkpoint
    name: str  # of its folder
    record: Path
    seed: int | None

    @property
    def classifier(self) -> Path | None:
        """Where it is kept, if it is to be."""
        return self.record.with_name(CLASSIFIER) if self.evaluation.args.save_models else None

    @property
    def title(self) -> str:
        return self.name + ("" if self.seed is None else f", seed {self.seed}")

    def earlier(self) -> EvaluationResult | None:
        """That of an earlier run, if it had the same settings and weights, and kept its classifier where asked."""
        problem = problem_of_labels(self.evaluation.train)
        content = earlier(self.record, _record_types(problem), self.evaluation.settings, self.checkpoint)
        if content is None:
            return None
        if self.classifier and not (content["classifier"] and any(self.classifier.glob("*.safetensors"))):
            return None
        return self._named(result_of(content["result"], problem))

    def _named(self, result: EvaluationResult) -> EvaluationResult:
        """A result with what it was got from."""
        teacher, unlabelled = self.evaluation.teacher, self.evaluation.unlabelled
        return replace(
            result,
            name=self.checkpoint.name,
            seed=self.seed,
            distilled_from=teacher.checkpoint.title if teacher else None,
            unlabelled_rows=len(unlabelled) if unlabelled else None,
        )

    def make(self) -> EvaluationResult:
        """Fine-tune and measure it, and keep what came of it.

        Raises:
            UserError: if the checkpoint isn't a whole encoder, training diverges, or the classifier can't be written.
        """
        result, tuned = self._measure()
        content = {
            "settings": self.evaluation.settings,
            "weights": self.checkpoint.identity,
            "result": result.as_record(),
        }
        write_json(self.record, {**content, "classifier": False})
        if self.classifier:  # the larger part, for which there may be no space, comes second
            remedy = f"the result is in {self.record}; free space, then the same command fine-tunes the model again"
            with writing(self.classifier, remedy):
                save_checkpoint(tuned.model, tuned.tokenizer, self.classifier)
            write_json(self.record, {**content, "classifier": True})
        return result

    def _measure(self) -> tuple[EvaluationResult, Classifier]:
        evaluation = self.evaluation
        args = evaluation.args if self.seed is None else replace(evaluation.args, seed=self.seed)
        train, validation = evaluation.taught, evaluation.validation
        problem, names = problem_of_labels(train), names_of_labels(train)
        model, tokenizer = load_classifier(self.checkpoint, names, args.seed, problem)
        rows = tokenize(train, tokenizer, args.max_length)
        trainer = build_trainer(model, tokenizer, rows, args, str(self.record.parent), self.name, evaluation.teacher)
        (took,) = milliseconds_per_sentence([(model, tokenizer)], timed_sentences(validation), args.max_length)
        train_seconds = run_training(trainer)
        tuned = Classifier(self.name, model.eval(), tokenizer, None)
        logits = predict(tuned, validation, args.max_length)
        if not np.isfinite(np.ma.filled(logits, 0)).all():
            raise UserError(
                f"fine-tuning {self.checkpoint.name} diverged: its answers aren't finite; lower the learning_rate"
            )
        answers = answers_of(problem, logits)
        scores = scores_of(problem, names, labels_of(validation), answers)
        one_class = problem == "single_label_classification" and len(set(answers)) == 1
        result = EvaluationResult(
            name=self.checkpoint.name,
            parameters=model.num_parameters(),
            bytes=self.checkpoint.bytes,
            scores=scores,
            standard_error=standard_error_of(scores, len(answers)),
            train_rows=len(evaluation.train),
            validation_rows=len(validation),
            milliseconds_per_sentence=took.median,
            milliseconds_first_quartile=took.first_quartile,
            milliseconds_third_quartile=took.third_quartile,
            only_class=names[int(answers[0])] if one_class else None,
            threads=torch.get_num_threads(),
            device=str(model.device),
            train_seconds=train_seconds,
        )
        return self._named(result), tuned


def _record_types(problem: Problem) -> dict[str, Any]:
    return {"settings": dict[str, Any], "weights": dict[str, Any], "classifier": bool, "result": record_types(problem)}


def _evaluate(evaluation: _Evaluation) -> list[EvaluationResult]:
    args = evaluation.args
    output = Path(args.output_dir)
    _take_up(evaluation)
    tell_repeated(evaluation.validation, evaluation.train)
    if evaluation.left_out:
        tqdm.write(f"text without labels: {evaluation.words_of_unlabelled}", file=sys.stderr)
    results = []
    for run in evaluation.runs:
        result = run.earlier()
        if result is None:
            result = run.make()
            note = f"fine-tuned in {result.train_seconds:.0f} s"
        else:
            note = f"finished before, in {run.record}"
        if result.only_class is not None:
            note += f"; it hasn't learned: every row is given the class {result.only_class!r}"
        if run.classifier:
            note += f"; its classifier is {run.classifier}"
        title = METRICS[problem_of_labels(evaluation.train)][next(iter(result.scores))]
        tqdm.write(f"{run.title}: {title} {score_in_words([result])} %, {note}", file=sys.stderr)
        results.append(result)
    summary: dict[str, Any] = {"settings": evaluation.settings, "results": [each.as_record() for each in results]}
    if args.seeds:
        summary["over_seeds"] = [
            {"name": model[0].name, **{name: spread._asdict() for name, spread in spreads(model).items()}}
            for model in by_model(results)
        ]
    write_results(output, summary, markdown_table(results))
    return results


def _take_up(evaluation: _Evaluation) -> None:
    """Raises UserError for a folder that holds results of others."""
    args = evaluation.args
    take_up(Path(args.output_dir), evaluation.settings, args.restart)
    for run in evaluation.runs:
        check_owner(run.record, run.checkpoint)


def classifier_folders(models: list[str], args: EvaluateArguments) -> dict[str, Path]:
    """Where ``evaluate_models`` keeps its classifiers, by model, and seed where there are several."""
    checkpoints = named_checkpoints(models, args.names)
    seeds: list[int | None] = [*args.seeds] or [None]
    return {
        checkpoint.name + ("" if seed is None else f", seed {seed}"): record_of(
            Path(args.output_dir), name, seed
        ).with_name(CLASSIFIER)
        for checkpoint, name in zip(checkpoints, result_names(checkpoints, args.names), strict=True)
        for seed in seeds
    }


def evaluation_plan(
    models: list[str], args: EvaluateArguments, soft: TaskDistillationArguments | None = None
) -> dict[str, str]:
    """What `evaluate_models` would do, after all the checks that it makes before the first model runs.

    Raises:
        UserError: as `evaluate_models`, before it trains.
    """
    evaluation = _prepare(models, args, soft)
    train, validation = evaluation.train, evaluation.validation
    if not args.restart:
        _take_up(evaluation)
    rows = len(train) + len(evaluation.unlabelled or ())
    steps = math.ceil(rows / args.per_device_train_batch_size) * args.num_train_epochs
    plan = {}
    for run in evaluation.runs:
        done = not args.restart and run.earlier() is not None
        plan[f"model {run.title}"] = f"{run.checkpoint.bytes / 1e6:.1f} MB" + (", finished" * done)
    return {
        **plan,
        "rows": f"{len(train):,} to train on, {len(validation):,} to measure on",
        **({"without labels": evaluation.words_of_unlabelled} if evaluation.unlabelled else {}),
        "classes": ", ".join(names_of_labels(train)),
        "steps": f"{math.ceil(steps):,} a model, of {args.per_device_train_batch_size} rows",
    }


def _prepare(models: list[str], args: EvaluateArguments, soft: TaskDistillationArguments | None) -> _Evaluation:
    """All checks but those of the output folder."""
    if not models:
        raise UserError("no model to evaluate: give one or more paths or Hub names")
    for name in ("train", "validation"):
        if not getattr(args, name):
            raise UserError(f"no {name} data: --{name} takes a csv, jsonl or parquet file, or a Hub name:config")
    checkpoints = named_checkpoints(models, args.names)
    names = result_names(checkpoints, args.names)
    train, validation = _load_data(args)
    for checkpoint in checkpoints:
        check_checkpoint(checkpoint, args.max_length, problem_of_labels(train))
    if soft is None or soft.distill_from is None:
        return _Evaluation(args, checkpoints, names, train, validation)
    unlabelled, left_out = None, 0
    if soft.unlabelled is not None:
        with naming(column_options(*args.text_columns)):
            unlabelled, left_out = load_unlabelled(soft.unlabelled, *args.text_columns, [validation])
    teacher = TaskTeacher(soft, problem_of_labels(train), names_of_labels(train))
    return _Evaluation(args, checkpoints, names, train, validation, teacher, unlabelled, left_out)


def _load_data(args: EvaluateArguments) -> tuple[Dataset, Dataset]:
    train = load_task(args.train, "train", *args.labelled_columns)
    _tell_whole_numbers(train)
    validation = load_task(args.validation, "validation", *args.labelled_columns)
    validation = align_labels(validation, train, args.validation)
    if args.max_train_samples is not None and args.max_train_samples < len(train):
        # Shuffled first: files are often sorted by class.
        train = train.shuffle(seed=args.seed).select(range(args.max_train_samples))
        if problem_of_labels(train) == "single_label_classification" and len(set(train["label"])) < 2:
            raise UserError(f"the {args.max_train_samples} rows of max_train_samples hold one class only: take more")
    return train, validation


def _tell_whole_numbers(rows: Dataset) -> None:
    """Say that numbers to be predicted are all whole, as pandas writes the classes of a column with missing values."""
    if problem_of_labels(rows) == "regression" and all(map(float.is_integer, rows["label"])):
        numbers = listed([str(number) for number in sorted(set(rows["label"]))])
        words = "as decimals they are predicted as numbers; for classes, write them without a decimal point"
        tqdm.write(f"labels: {numbers}: {words}", file=sys.stderr)


def timed_sentences(rows: Dataset) -> list[tuple[Any, ...]]:
    """Rows spread evenly over the data, so that sorted data give all kinds."""
    chosen = rows.select(evenly_spread(range(len(rows)), _TIMED_SENTENCES))
    return list(zip(*text_columns(chosen), strict=True))

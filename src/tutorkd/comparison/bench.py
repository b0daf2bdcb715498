"""What a cell will take and costs, measured on fabricated rows."""

import copy
import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from typing import Any, cast

from datasets import Dataset
from transformers import PreTrainedModel

from tutorkd.cli.distill import make_student, prepare
from tutorkd.cli.training import ready_trainer
from tutorkd.comparison.matrix import Cell
from tutorkd.cost import seconds_a_step
from tutorkd.errors import UserError
from tutorkd.evaluation.cost import fine_tuning_seconds
from tutorkd.evaluation.labelled import align_labels, load_labelled
from tutorkd.hub import load_tokenizer
from tutorkd.trainer import DistillationTrainer, prepare_teacher


@contextmanager
def fabricated_trainer(arguments: Sequence[Any]) -> Iterator[DistillationTrainer]:
    """A cell's trainer without its text, to be measured.

    Args:
        arguments: ``Cell.distill``.
    """
    args, _, settings, config = arguments
    tokenizer = load_tokenizer(args.teacher, "teacher", args.trust_remote_code)
    teacher = prepare_teacher(args.teacher, config, args.trust_remote_code)
    with redirect_stdout(io.StringIO()):  # the student was or will be introduced by the run itself
        student = make_student(args, teacher, tokenizer, config.seed, settings.needs_mlm_head)
    row = {"input_ids": [tokenizer.cls_token_id, tokenizer.sep_token_id]}
    config = copy.copy(config)
    with tempfile.TemporaryDirectory() as scratch:  # Trainer makes its folder and repository at once
        config.output_dir, config.push_to_hub = scratch, False
        make = partial(
            DistillationTrainer,
            student,
            teacher,
            config,
            processing_class=tokenizer,
            method=args.method,
            settings=settings,
        )
        yield cast(DistillationTrainer, ready_trainer(make, [row], Dataset.from_list([row])))


def refusals(cells: Sequence[Cell]) -> dict[str, str]:
    """Of each cell that can't be trained, by name, why; found by putting its models together, on the processor.

    Raises:
        UserError: if the labelled data can't be used, without which no cell can be finished.
    """
    args = cells[0].evaluate
    columns = (args.text_column, args.text_pair_column, args.label_column)
    train = load_labelled(args.train, "train", *columns)
    align_labels(load_labelled(args.validation, "validation", *columns), train, args.validation)
    reasons: dict[tuple[str, str], str | None] = {}
    refused = {}
    for cell in cells:
        key = cell.variant, cell.student
        if cell.kind == "distilled" and key not in reasons:
            try:
                with redirect_stdout(io.StringIO()):
                    prepare(*cell.distill)
                reasons[key] = None
            except UserError as error:
                reasons[key] = str(error)
        if reason := reasons.get(key):
            refused[cell.name] = reason
    return refused


def estimate(cells: Sequence[Cell]) -> tuple[dict[str, float], dict[str, str]]:
    """What the cells will take, from timing one step for each variant and student.

    Returns:
        By cell's name, seconds of training and fine-tuning; and of each cell that can't run, why.
    """
    refused = refusals(cells)
    args = cells[0].evaluate
    rows = len(load_labelled(args.train, "train", args.text_column, args.text_pair_column, args.label_column))
    training: dict[tuple[str, str], float] = {}
    tuning: dict[str, float] = {}
    for cell in cells:
        key = cell.variant, cell.student
        if cell.kind != "distilled" or key in training or cell.name in refused:
            continue
        with fabricated_trainer(cell.distill) as trainer:
            seconds = seconds_a_step(trainer, cell.distill[1].max_length)
            training[key] = seconds * cell.distill[3].max_steps
            student, teacher = trainer.saved_model, trainer.teacher.requires_grad_(True)
            models = {cell.student: cast(PreTrainedModel, student.base_model), "": teacher.body}
        for name in models.keys() - tuning.keys():
            tuning[name] = fine_tuning_seconds(models[name], rows, args.max_length // 2, args)
    by_name = {cell.name: (cell.variant, cell.student) for cell in cells}
    seconds_of = {name: training.get(key, 0.0) + tuning.get(key[1], 0.0) for name, key in by_name.items()}
    return seconds_of, refused

"""What a cell will take and costs, measured on fabricated rows."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from transformers import PreTrainedModel

from tutorkd.comparison.matrix import Cell
from tutorkd.cost import seconds_a_step
from tutorkd.errors import UserError
from tutorkd.evaluation.cost import fine_tuning_seconds
from tutorkd.evaluation.labelled import align_labels, load_labelled
from tutorkd.hub import load_tokenizer
from tutorkd.pretraining.distillation import Distillation, load_pair, prepare, trainer_of
from tutorkd.pretraining.fabricated import on_fabricated_rows
from tutorkd.trainer import DistillationTrainer


@contextmanager
def fabricated_trainer(options: Distillation) -> Iterator[DistillationTrainer]:
    """A cell's trainer without its text, to be measured."""
    args = options.args
    tokenizer = load_tokenizer(args.teacher, "teacher", args.trust_remote_code)
    make = trainer_of(options, load_pair(options, tokenizer), tokenizer)
    with on_fabricated_rows(make, tokenizer, options.config) as trainer:
        yield trainer


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
                prepare(cell.distill)
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
            seconds = seconds_a_step(trainer, cell.distill.text.max_length)
            training[key] = seconds * cell.distill.config.max_steps
            student, teacher = trainer.saved_model, trainer.teacher.requires_grad_(True).body
            if trainer.teacher.quantised:  # what is in 8 bits isn't fine-tuned
                teacher = type(teacher)(teacher.config)
            models = {cell.student: cast(PreTrainedModel, student.base_model), "": teacher}
        for name in models.keys() - tuning.keys():
            tuning[name] = fine_tuning_seconds(models[name], rows, args.max_length // 2, args)
    by_name = {cell.name: (cell.variant, cell.student) for cell in cells}
    seconds_of = {name: training.get(key, 0.0) + tuning.get(key[1], 0.0) for name, key in by_name.items()}
    return seconds_of, refused

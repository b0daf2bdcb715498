"""What a cell will take and costs, measured on fabricated rows."""

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from tutorkd.comparison.matrix import Cell
from tutorkd.cost import StepCost, measure_step, seconds_a_step
from tutorkd.errors import UserError
from tutorkd.pretraining.distill_arguments import Distillation
from tutorkd.pretraining.distillation import prepare
from tutorkd.pretraining.fabricated import on_fabricated_rows
from tutorkd.pretraining.run import Prepared
from tutorkd.trainer import DistillationTrainer

_OWN_TOKENIZER = (
    "the student has another tokenizer than the teacher, so its perplexity and its distance from the teacher can't be "
    "compared with those of others: train it with tutorkd distill, and compare bits per byte with tutorkd evaluate"
)


@contextmanager
def fabricated_trainer(options: Distillation) -> Iterator[tuple[DistillationTrainer, Prepared]]:
    """A cell's trainer without its text, to be measured, and what it was made with."""
    prepared = prepare(options, start_unused=True)
    with on_fabricated_rows(prepared.make, prepared.tokenizer, options.config, prepared.beside) as trainer:
        assert isinstance(trainer, DistillationTrainer)
        yield trainer, prepared


def step_cost(options: Distillation) -> StepCost:
    """What a step costs, counted with one seed for all: how many tokens are masked differs a little from seed to seed,
    and a variant's runs are to have the same steps of a budget.

    A teacher that is asked before training counts with what it takes to ask it about the step's tokens: methods are
    compared as if each row were read once, and the teacher asked for one run alone.
    """
    config = copy.copy(options.config)
    config.seed = config.data_seed = 0
    with fabricated_trainer(replace(options, config=config)) as (trainer, prepared):
        cost = measure_step(trainer, options.text.max_length)
    asking = prepared.asking(cost.tokens)[0] if prepared.asking else 0.0
    return replace(cost, flops=cost.flops + asking)


def refusals(cells: Sequence[Cell]) -> dict[str, str]:
    """Of each cell that can't be trained, by name, why; found by putting its models together, on the processor.

    Raises:
        UserError: if the data can't be used that students are measured on, without which no cell can be finished.
    """
    cells[0].measures.check(cells[0].evaluate)
    reasons: dict[tuple[str, str], str | None] = {}
    refused = {}
    for cell in cells:
        key = cell.variant, cell.student
        if cell.kind == "distilled" and key not in reasons:
            try:
                reasons[key] = _OWN_TOKENIZER if prepare(cell.distill).own_tokenizer else None
            except UserError as error:
                reasons[key] = str(error)
        if reason := reasons.get(key):
            refused[cell.name] = reason
    return refused


def estimate(cells: Sequence[Cell], loading: float) -> tuple[dict[str, float], dict[str, str]]:
    """What the cells will take, from timing one step for each variant and student.

    Args:
        loading: seconds in which each cell's process loads the code.

    Returns:
        By cell's name, seconds of starting, training and measuring; and of each cell that can't run, why.
    """
    refused = refusals(cells)
    training: dict[tuple[str, str], float] = {}
    measuring: dict[str, float] = {}
    for cell in cells:
        key = cell.variant, cell.student
        if cell.kind == "distilled" and key not in training and cell.name not in refused:
            training[key] = _time(cell, measuring)
    seconds_of = {
        cell.name: loading
        + training.get((cell.variant, cell.student), 0.0)
        + cell.points * measuring.get(cell.student, 0.0)
        for cell in cells
    }
    return seconds_of, refused


def _time(cell: Cell, measuring: dict[str, float]) -> float:
    """Seconds of a cell's start and training; adds to ``measuring`` those of its student and of the teacher, whose name
    is empty, unless they are there.
    """
    began = time.perf_counter()
    with fabricated_trainer(cell.distill) as (trainer, prepared):
        starting = 2 * (time.perf_counter() - began)  # to train, and to count what a step cost
        training = seconds_a_step(trainer, cell.distill.text.max_length) * cell.distill.config.max_steps
        if prepared.asking:  # at the rate of a step
            cost = measure_step(trainer, cell.distill.text.max_length)
            training *= 1 + prepared.asking(cost.tokens)[0] / cost.flops
        teacher = trainer.teacher.requires_grad_(True).model
        if trainer.teacher.quantised:  # what is in 8 bits isn't what is measured
            teacher = type(teacher)(teacher.config)
        models = {cell.student: (trainer.saved_model, teacher), "": (teacher, None)}
    for name in models.keys() - measuring.keys():
        measuring[name] = cell.measures.seconds(*models[name], cell.evaluate)
    return starting + training

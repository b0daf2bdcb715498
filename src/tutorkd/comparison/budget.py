"""How many steps a budget in operations of training pays for: a method whose step costs half has twice as many."""

import copy
from collections.abc import Sequence
from dataclasses import replace

from tutorkd.comparison.bench import step_cost
from tutorkd.comparison.matrix import Cell
from tutorkd.errors import UserError


def in_steps(cells: Sequence[Cell]) -> tuple[list[Cell], dict[str, str]]:
    """The cells, those whose budget is in operations with as many whole steps as it pays for.

    A step is counted once for each variant and student, forward and backward, on fabricated rows.

    Returns:
        The cells; and of each whose step can't be counted, or that can't pay for one, by name, why. These stay as they
        are.
    """
    costs: dict[tuple[str, str], float | str] = {}
    paid, failed = [], {}
    for cell in cells:
        if cell.flops is None:
            paid.append(cell)
            continue
        key = cell.variant, cell.student
        if key not in costs:
            costs[key] = _flops_a_step(cell)
        cost = costs[key]
        if isinstance(cost, float) and cost > cell.flops:
            cost = f"flops {cell.flops:.3g} are too few for one step, which takes {cost:.3g}"
        if isinstance(cost, str):
            failed[cell.name] = cost
            paid.append(cell)
            continue
        config = copy.copy(cell.distill.config)
        config.max_steps = int(cell.flops // cost)
        paid.append(replace(cell, flops=None, distill=replace(cell.distill, config=config)))
    return paid, failed


def _flops_a_step(cell: Cell) -> float | str:
    """Operations of a step, or why they can't be counted."""
    try:
        return float(step_cost(cell.distill).flops)
    except UserError as error:
        return str(error)

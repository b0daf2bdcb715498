"""What came of a comparison: figures of each cell, means over seeds, tables."""

import math
from collections.abc import Mapping, Sequence
from itertools import compress
from statistics import fmean
from typing import Any

from tutorkd import probe
from tutorkd.callbacks import LEARNING_RATE, SECONDS_LEFT, TIMES, TOKENS_PER_SECOND
from tutorkd.comparison.differences import column_headings, differences_from, in_columns, in_words
from tutorkd.comparison.matrix import Cell
from tutorkd.comparison.measures import ENCODERS, Column, Measures, learned_nothing
from tutorkd.seeds import nested, over_seeds
from tutorkd.step import LOSS
from tutorkd.tables import aligned, escaped
from tutorkd.words import by_error

ON_THE_WAY = (
    "The plot's curves show students in the middle of their training. Their learning rate is still high, so a student "
    "trained with only that many steps in all may be better."
)
_LINES = {figure.name for figure in (LOSS, *probe.FIGURES)}  # a line of the log with one of these has figures
_STEPS = Column("steps", "training_steps", lambda found: f"{found['mean']:,.0f}")
# What a line says of when it was written and how fast the run was.
_WHEN = {"step", "epoch", LEARNING_RATE.name, TOKENS_PER_SECOND.name, SECONDS_LEFT, *TIMES}


def figures(result: Mapping[str, Any], measures: Measures = ENCODERS) -> dict[str, float]:
    """The figures of a finished cell that have a mean over seeds: scores, costs, and what its log last said."""
    training, shown = result["training"], measures.figures(result["evaluation"])
    shown |= {f"training_{key}": training[key] for key in ("steps", "tokens", "seconds", "flops") if training.get(key)}
    last: dict[str, Any] = {}
    for entry in training.get("log", []):
        if not _LINES.isdisjoint(entry):
            last |= entry
    return shown | {f"last_{key}": value for key, value in last.items() if key not in _WHEN}


def summarise(cells: Sequence[Cell], failed: Mapping[str, str], baseline: str | None = None) -> dict[str, Any]:
    """What ``results.json`` says.

    Args:
        cells: of the whole matrix.
        failed: names of cells to their errors.
        baseline: the variant that the others are compared with, by default the first.

    Returns:
        ``rows``: one for each variant and student, and for each reference, with ``figures`` as mean, standard
        deviation and number of seeds, of those that were measured with several seeds also as ``nested`` tells them
        apart, and the ``curve`` of its score on the way; ``cells``: each with its figures, settings, evaluation and
        machine, or its error; ``paired``: of each other variant and student how far it is from the ``baseline``, as
        ``seeds.paired`` gives it, over the seeds that both have.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    listed = []
    for cell in cells:
        row = rows.setdefault(
            (cell.variant, cell.student),
            {
                "kind": cell.kind,
                "variant": cell.variant,
                "student": cell.student,
                "method": cell.distill.args.method if cell.kind == "distilled" else None,
                "seeds": [],
                "failed": {},
                "figures": [],
                "repeated": [],
                "curve": {},
            },
        )
        entry: dict[str, Any] = {"name": cell.name, **{k: row[k] for k in ("kind", "variant", "student", "method")}}
        entry["seed"] = cell.seed
        result = cell.result
        if result is None:
            entry["error"] = row["failed"][str(cell.seed)] = failed.get(cell.name, "not finished")
        else:
            row["seeds"].append(cell.seed)
            found = figures(result, cell.measures)
            row["figures"].append(found)
            row["repeated"].append(cell.measures.repeated(result["evaluation"]) if cell.measures.repeated else {})
            score = cell.measures.score.name
            for step, there in result.get("on_the_way", {}).items():
                value = cell.measures.figures(there["evaluation"]).get(score)
                if value is not None:
                    row["curve"].setdefault(int(step), []).append((there["flops"], value))
            entry |= {"figures": found, **{key: result[key] for key in ("evaluation", "settings")}}
            entry["machine"] = result.get("machine", {})  # older results lack it
        listed.append(entry)
    for row in rows.values():
        names = dict.fromkeys(name for each in row["figures"] for name in each)
        row["figures"] = {name: _spread([each[name] for each in row["figures"] if name in each]) for name in names}
        row["curve"] = [
            {"step": step, "flops": fmean(flops for flops, _ in those), **_spread([value for _, value in those])}
            for step, those in sorted(row["curve"].items())
        ]
        repeated, trained = row.pop("repeated"), row["kind"] == "distilled"
        for name in repeated[0] if repeated else ():
            row["figures"][name] |= nested([each[name] for each in repeated], trained)._asdict()
    baseline = baseline or next((cell.variant for cell in cells if cell.kind == "distilled"), None)
    several = [name for row in rows.values() for name, each in row["figures"].items() if "fine_tuning_sd" in each]
    compared = list(dict.fromkeys([cells[0].measures.score.name, *several]))
    return {
        "rows": list(rows.values()),
        "cells": listed,
        "baseline": baseline,
        "paired": differences_from(baseline, listed, compared),
    }


def _spread(values: Sequence[float]) -> dict[str, float | int | None]:
    found = over_seeds(values)
    return {"mean": found.mean, "sd": found.sd, "n": found.n}


def markdown(summary: Mapping[str, Any], measures: Measures = ENCODERS) -> str:
    """The table of a comparison, best mean score first, references on top; columns without any figure are left out."""
    failures = any(row["failed"] for row in summary["rows"])
    steps = _steps(summary)
    columns = [*measures.columns, *([_STEPS] * (len(steps) > 1))]
    headings = ["variant", "student", "seeds", *(column.heading for column in columns)]
    differences = {
        (each["variant"], each["student"]): each for each in summary["paired"] if each["figure"] == measures.score.name
    }
    headings += column_headings(summary["baseline"]) * bool(differences)
    headings += ["missing"] * failures
    lines: list[list[str]] = []
    score = measures.score

    def order(row: Mapping[str, Any]) -> tuple[bool, float]:
        distilled, found = row["kind"] == "distilled", row["figures"]
        if score.name in found:
            mean = found[score.name]["mean"] * (1 if score.lower_is_better else -1)
            return distilled, mean if math.isfinite(mean) else math.inf
        return distilled, -math.inf if found else math.inf  # a teacher's distance from itself isn't measured

    for row in sorted(summary["rows"], key=order):
        found = row["figures"]
        words = [row["variant"], row["student"] or "-", str(len(row["seeds"]))]
        for column in columns:
            words.append(column.words(found[column.figure]) if column.figure in found else "-")
        if differences:
            words += in_columns(differences.get((row["variant"], row["student"])), measures.score)
        if failures:
            words.append(_failures(row["failed"]))
        lines.append(words)
    known = [place < 3 or any(line[place] != "-" for line in lines) for place in range(len(headings))]
    headings, *lines = [list(compress(line, known)) for line in (headings, *lines)]
    parts = [aligned(headings, lines, words=2, last_word=failures)]
    if told := [cell["name"] for cell in summary["cells"] if learned_nothing(cell)]:
        parts.append(escaped(f"These learned nothing and give every row the same class: {', '.join(told)}."))
    parts.append(_caption(summary, measures))
    if differences:
        parts.append(in_words(summary["baseline"], list(differences.values()), measures.score))
    errors = {cell["name"]: cell["error"] for cell in summary["cells"] if "error" in cell}
    if errors:
        listed = escaped("; ".join(f"{', '.join(names)} ({error})" for error, names in by_error(errors).items()))
        parts.append(f"Missing, {len(errors)} of {len(summary['cells'])} cells: {listed}.")
    return "\n\n".join(parts) + "\n"


def _caption(summary: Mapping[str, Any], measures: Measures) -> str:
    finished = [cell for cell in summary["cells"] if "evaluation" in cell]
    if not finished:
        return "No cell was finished."
    steps = _steps(summary)
    budget = f"{steps[0]:,} steps of training. " if len(steps) == 1 else ""
    way = f" {ON_THE_WAY}" if any(row["curve"] for row in summary["rows"]) else ""
    return f"{budget}{measures.caption(finished)}{way}"


def _steps(summary: Mapping[str, Any]) -> list[int]:
    """The numbers of steps that there are; several where the budget is in operations."""
    figures = [cell["figures"] for cell in summary["cells"] if "figures" in cell]
    return sorted({int(found["training_steps"]) for found in figures if "training_steps" in found})


def _failures(errors: Mapping[str, str]) -> str:
    """Each error once, with its seeds."""
    return "; ".join(f"seed {', '.join(seeds)}: {error}" for error, seeds in by_error(errors).items()) or "-"

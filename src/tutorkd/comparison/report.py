"""What came of a comparison: figures of each cell, means over seeds, tables."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import t as student_t

from tutorkd import probe
from tutorkd.callbacks import LEARNING_RATE, SECONDS_LEFT, TIMES, TOKENS_PER_SECOND
from tutorkd.comparison.matrix import Cell
from tutorkd.comparison.measures import ENCODERS, Column, Measures, Score
from tutorkd.seeds import nested, over_seeds, paired
from tutorkd.step import LOSS
from tutorkd.tables import aligned, escaped

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
        apart; ``cells``: each with its figures, settings and evaluation, or its error; ``paired``: of each other
        variant and student how far it is from the ``baseline``, as ``seeds.paired`` gives it, over the seeds that both
        have.
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
            entry |= {"figures": found, **{key: result[key] for key in ("evaluation", "settings")}}
        listed.append(entry)
    for row in rows.values():
        names = dict.fromkeys(name for each in row["figures"] for name in each)
        row["figures"] = {name: _spread([each[name] for each in row["figures"] if name in each]) for name in names}
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
        "paired": _against(baseline, listed, compared),
    }


def _against(baseline: str | None, listed: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Of each variant but the baseline, student and figure: its difference from the baseline's, seed by seed."""
    found: dict[tuple[str, str], dict[int, Mapping[str, float]]] = {}
    for entry in listed:
        if entry["kind"] == "distilled" and "figures" in entry:
            found.setdefault((entry["variant"], entry["student"]), {})[entry["seed"]] = entry["figures"]
    differences = []
    for (variant, student), by_seed in found.items():
        others = found.get((str(baseline), student), {})
        for name in names if variant != baseline else ():
            pairs = {
                seed: (by_seed[seed][name], others[seed][name])
                for seed in sorted(by_seed.keys() & others.keys())
                if all(math.isfinite(figures.get(name, math.nan)) for figures in (by_seed[seed], others[seed]))
            }
            if pairs:
                about = {"variant": variant, "student": student, "figure": name, "seeds": list(pairs)}
                differences.append({**about, **paired(*zip(*pairs.values(), strict=True))._asdict()})
    return differences


def _spread(values: Sequence[float]) -> dict[str, float | int | None]:
    found = over_seeds(values)
    return {"mean": found.mean, "sd": found.sd, "n": found.n}


def markdown(summary: Mapping[str, Any], measures: Measures = ENCODERS) -> str:
    """The table of a comparison, best mean score first, references on top."""
    failures = any(row["failed"] for row in summary["rows"])
    steps = _steps(summary)
    columns = [*measures.columns, *([_STEPS] * (len(steps) > 1))]
    headings = ["variant", "student", "seeds", *(column.heading for column in columns)]
    differences = {
        (each["variant"], each["student"]): each for each in summary["paired"] if each["figure"] == measures.score.name
    }
    headings += [f"against {summary['baseline']}", "beyond two errors"] * bool(differences)
    headings += ["missing"] * failures
    lines: list[list[str]] = []
    score = measures.score

    def order(row: Mapping[str, Any]) -> tuple[bool, float]:
        distilled, found = row["kind"] == "distilled", row["figures"]
        if score.name in found:
            return distilled, found[score.name]["mean"] * (1 if score.lower_is_better else -1)
        return distilled, -math.inf if found else math.inf  # a teacher's distance from itself isn't measured

    for row in sorted(summary["rows"], key=order):
        found = row["figures"]
        words = [row["variant"], row["student"] or "-", str(len(row["seeds"]))]
        for column in columns:
            words.append(column.words(found[column.figure]) if column.figure in found else "-")
        if differences:
            words += _difference(differences.get((row["variant"], row["student"])), measures.score)
        if failures:
            words.append(_failures(row["failed"]))
        lines.append(words)
    table = aligned(headings, lines, words=2, last_word=failures)
    parts = [table, _caption(summary, measures)]
    if differences:
        parts.append(_in_words(summary["baseline"], list(differences.values()), measures.score))
    errors = {cell["name"]: cell["error"] for cell in summary["cells"] if "error" in cell}
    if errors:
        listed = escaped("; ".join(f"{', '.join(names)} ({error})" for error, names in _by_error(errors).items()))
        parts.append(f"Missing, {len(errors)} of {len(summary['cells'])} cells: {listed}.")
    return "\n\n".join(parts) + "\n"


def _difference(found: Mapping[str, Any] | None, score: Score) -> list[str]:
    """Two columns: a difference ± its standard error, and whether it is more than two of them."""
    if found is None:
        return ["-", "-"]
    error = found["standard_error"]
    words = f"{score.scale * found['difference']:+{score.form}}"
    if error is None:
        return [words, "-"]
    return [f"{words} ± {score.scale * error:{score.form}}", "yes" if found["beyond_two_errors"] else "no"]


def _in_words(baseline: str, differences: Sequence[Mapping[str, Any]], score: Score) -> str:
    """A sentence for each variant and student, the baseline's first; and what two standard errors are worth."""
    lines = []
    for found in differences:
        size = f"{score.scale * abs(found['difference']):{score.form}} {score.unit}"
        better = (found["difference"] < 0) == score.lower_is_better
        line = f"- {found['variant']}, {found['student']}: {size} {'better' if better else 'worse'} than {baseline}"
        seeds = len(found["seeds"])
        if found["standard_error"] is None:
            line += " with one seed, which tells no standard error."
        else:
            line += f" over {seeds} paired seeds, standard error {score.scale * found['standard_error']:{score.form}}: "
            line += (
                "more than two standard errors, so they are told apart."
                if found["beyond_two_errors"]
                else "not more than two standard errors, so these seeds don't tell them apart."
            )
        lines.append(escaped(line))
    numbers = sorted({len(found["seeds"]) for found in differences} - {1})
    chances = [f"{count} pairs of seeds in {100 * _chance(count):.0f} %" for count in numbers]
    note = f"\n\nVariants that don't differ pass two standard errors, too: {', '.join(chances)} of cases (Student's t)."
    return "\n".join(lines) + (note if chances else "")


def _chance(pairs: int) -> float:
    """How often the mean of so many differences around 0 is more than two of its standard errors away."""
    return 2 * float(student_t.sf(2, pairs - 1))


def _caption(summary: Mapping[str, Any], measures: Measures) -> str:
    finished = [cell for cell in summary["cells"] if "evaluation" in cell]
    if not finished:
        return "No cell was finished."
    steps = _steps(summary)
    budget = f"{steps[0]:,} steps of training. " if len(steps) == 1 else ""
    return f"{budget}{measures.caption(finished)}"


def _steps(summary: Mapping[str, Any]) -> list[int]:
    """The numbers of steps that there are; several where the budget is in operations."""
    figures = [cell["figures"] for cell in summary["cells"] if "figures" in cell]
    return sorted({int(found["training_steps"]) for found in figures if "training_steps" in found})


def _failures(errors: Mapping[str, str]) -> str:
    """Each error once, with its seeds."""
    return "; ".join(f"seed {', '.join(seeds)}: {error}" for error, seeds in _by_error(errors).items()) or "-"


def _by_error(errors: Mapping[str, str]) -> dict[str, list[str]]:
    return {error: [what for what in errors if errors[what] == error] for error in errors.values()}

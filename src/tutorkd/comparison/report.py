"""What came of a comparison: figures of each cell, means over seeds, tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from tutorkd import probe
from tutorkd.callbacks import LEARNING_RATE, SECONDS_LEFT, TIMES, TOKENS_PER_SECOND
from tutorkd.comparison.matrix import Cell
from tutorkd.seeds import over_seeds
from tutorkd.step import LOSS
from tutorkd.tables import aligned
from tutorkd.words import duration

_LINES = {figure.name for figure in (LOSS, *probe.FIGURES)}  # a line of the log with one of these has figures
# What a line says of when it was written and how fast the run was.
_WHEN = {"step", "epoch", LEARNING_RATE.name, TOKENS_PER_SECOND.name, SECONDS_LEFT, *TIMES}
_AUC = f"last_{probe.AUC.name}"
_FIGURES = ("accuracy", "standard_error", "macro_f1", "parameters", "milliseconds_per_sentence")


def figures(result: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a finished cell that have a mean over seeds: scores, costs, and what its log last said."""
    training, evaluation = result["training"], result["evaluation"]
    shown = {key: evaluation[key] for key in _FIGURES}
    shown |= {f"training_{key}": training[key] for key in ("steps", "tokens", "seconds", "flops") if training.get(key)}
    last: dict[str, Any] = {}
    for entry in training.get("log", []):
        if not _LINES.isdisjoint(entry):
            last |= entry
    return shown | {f"last_{key}": value for key, value in last.items() if key not in _WHEN}


def summarise(cells: Sequence[Cell], failed: Mapping[str, str]) -> dict[str, Any]:
    """What ``results.json`` says.

    Args:
        cells: of the whole matrix.
        failed: names of cells to their errors.

    Returns:
        ``rows``: one for each variant and student, and for each reference, with ``figures`` as mean, standard
        deviation and number of seeds; ``cells``: each with its figures, settings and evaluation, or its error.
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
            },
        )
        entry: dict[str, Any] = {"name": cell.name, **{k: row[k] for k in ("kind", "variant", "student", "method")}}
        entry["seed"] = cell.seed
        result = cell.result
        if result is None:
            entry["error"] = row["failed"][str(cell.seed)] = failed.get(cell.name, "not run")
        else:
            row["seeds"].append(cell.seed)
            row["figures"].append(figures(result))
            entry |= {"figures": figures(result), **{key: result[key] for key in ("evaluation", "settings")}}
        listed.append(entry)
    for row in rows.values():
        names = dict.fromkeys(name for each in row["figures"] for name in each)
        row["figures"] = {name: _spread([each[name] for each in row["figures"] if name in each]) for name in names}
    return {"rows": list(rows.values()), "cells": listed}


def _spread(values: Sequence[float]) -> dict[str, float | int | None]:
    found = over_seeds(values)
    return {"mean": found.mean, "sd": found.sd, "n": found.n}


def markdown(summary: Mapping[str, Any]) -> str:
    """The table of a comparison, best mean accuracy first, references on top."""
    failures = any(row["failed"] for row in summary["rows"])
    headings = ["variant", "student", "seeds", "accuracy %", "macro F1 %", "parameters", "training", "training TFLOP"]
    headings += [probe.AUC.label] + ["failed"] * failures
    lines: list[list[str]] = []

    def order(row: Mapping[str, Any]) -> tuple[bool, float]:
        return row["kind"] == "distilled", -row["figures"].get("accuracy", {"mean": -1})["mean"]

    for row in sorted(summary["rows"], key=order):
        found = row["figures"]
        words = [row["variant"], row["student"] or "-", str(len(row["seeds"]))]
        words += [_percent(found.get("accuracy")), _percent(found.get("macro_f1"))]
        words.append(f"{found['parameters']['mean'] / 1e6:.1f} M" if "parameters" in found else "-")
        words.append(duration(found["training_seconds"]["mean"]) if "training_seconds" in found else "-")
        words.append(_tera(found["training_flops"]["mean"]) if "training_flops" in found else "-")
        words.append(f"{found[_AUC]['mean']:.3f}" if _AUC in found else "-")
        if failures:
            words.append(_failures(row["failed"]))
        lines.append(words)
    table = aligned(headings, lines, words=2, last_word=failures)
    return f"{table}\n\n{_caption(summary)}\n"


def _caption(summary: Mapping[str, Any]) -> str:
    finished = [cell for cell in summary["cells"] if "evaluation" in cell]
    if not finished:
        return "No cell was finished."
    evaluation = finished[0]["evaluation"]
    error = 100 * max(cell["evaluation"]["standard_error"] for cell in finished)
    steps = {int(cell["figures"]["training_steps"]) for cell in finished if "training_steps" in cell["figures"]}
    budget = f"{' or '.join(f'{each:,}' for each in sorted(steps))} steps of training. " if steps else ""
    return (
        f"{budget}Scores: mean ± standard deviation over seeds, each on {evaluation['validation_rows']:,} rows after "
        f"fine-tuning on {evaluation['train_rows']:,}; the standard error of one accuracy is at most {error:.1f} "
        "points. Parameters: of the classifier. Training: mean time, held-out looks included, and floating-point "
        f"operations of matrix products, on {evaluation['device']}, threads: {evaluation['threads']}."
        f"{_one_class(finished)}"
    )


def _one_class(finished: Sequence[Mapping[str, Any]]) -> str:
    """A warning about cells whose accuracy is a share of the rows, not something learned."""
    told = [cell["name"] for cell in finished if cell["evaluation"].get("only_class") is not None]
    return f" Not learned, one class for every row: {', '.join(told)}." if told else ""


def _percent(spread: Mapping[str, Any] | None) -> str:
    if spread is None:
        return "-"
    return f"{100 * spread['mean']:.1f}" + (f" ± {100 * spread['sd']:.1f}" if spread["sd"] is not None else "")


def _tera(flops: float) -> str:
    return f"{flops / 1e12:,.0f}" if flops >= 1e14 else f"{flops / 1e12:.3g}"


def _failures(errors: Mapping[str, str]) -> str:
    """Each error once, with its seeds."""
    seeds = {error: [seed for seed in errors if errors[seed] == error] for error in errors.values()}
    return "; ".join(f"seed {', '.join(those)}: {error}" for error, those in seeds.items()) or "-"

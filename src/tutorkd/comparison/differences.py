"""Variants compared with a baseline seed by seed: differences, in columns and in words."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import t as student_t

from tutorkd.comparison.measures import Score
from tutorkd.seeds import paired
from tutorkd.tables import escaped


def differences_from(
    baseline: str | None, listed: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Of each variant but the baseline, student and figure: its difference from the baseline's, seed by seed.

    Args:
        listed: cells as ``results.json`` has them.
        names: of the figures.
    """
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


def column_headings(baseline: str) -> list[str]:
    """Of the columns that ``in_columns`` fills."""
    return [f"against {baseline}", "beyond two errors"]


def in_columns(found: Mapping[str, Any] | None, score: Score) -> list[str]:
    """Two columns: a difference ± its standard error, and whether it is more than two of them."""
    if found is None:
        return ["-", "-"]
    error = found["standard_error"]
    words = f"{score.scale * found['difference']:+{score.form}}"
    if error is None:
        return [words, "-"]
    return [f"{words} ± {score.scale * error:{score.form}}", "yes" if found["beyond_two_errors"] else "no"]


def in_words(baseline: str, differences: Sequence[Mapping[str, Any]], score: Score) -> str:
    """A sentence for each variant and student, and how often chance alone passes two standard errors."""
    lines = []
    for found in differences:
        size = f"{score.scale * abs(found['difference']):{score.form}}"
        better = (found["difference"] < 0) == score.lower_is_better
        how = f"{size} {score.unit} {'better' if better else 'worse'} than" if float(size) else "rounded, as good as"
        line = f"- {found['variant']}, {found['student']}: {how} {baseline}"
        seeds = len(found["seeds"])
        if found["standard_error"] is None:
            line += " with one seed, so there is no standard error."
        else:
            line += f" over {seeds} paired seeds, standard error {score.scale * found['standard_error']:{score.form}}: "
            line += (
                "more than two standard errors."
                if found["beyond_two_errors"]
                else "not more than two standard errors, so these seeds don't tell them apart."
            )
        lines.append(escaped(line))
    pairs = [len(found["seeds"]) for found in differences if found["standard_error"] is not None]
    chances = [f"with {count} pairs of seeds in {100 * _chance(count):.0f} % of cases" for count in sorted(set(pairs))]
    note = "\n\nVariants that don't differ are more than two standard errors apart by chance alone: "
    note += f"{', '.join(chances)} (Student's t)."
    if len(pairs) > 1:
        note += f" If none differed, that would be {sum(map(_chance, pairs)):.1f} of these {len(pairs)} on average."
    return "\n".join(lines) + (note if chances else "")


def _chance(pairs: int) -> float:
    """How often the mean of so many differences around 0 is more than two of its standard errors away."""
    return 2 * float(student_t.sf(2, pairs - 1))

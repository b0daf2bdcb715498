"""How good embeddings are for telling similar sentences, paraphrases and answers, with standard errors."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

from tutorkd.evaluation.pairs import Data, ScoredPairs, Search

_RESAMPLES = 500  # so that a standard error is known to 3 %
_BEST = 10  # passages that are looked at
_QUERIES_AT_ONCE = 256

CLOSENESS = "cosine with the teacher's vectors"
ASYMMETRIC = ", asymmetric"  # ends the name of a figure of a model's vectors against the teacher's

Sides = tuple[np.ndarray, np.ndarray]
"""Vectors of first sentences or queries, and of second ones or passages: a row each."""

Statistic = Callable[[np.ndarray], float]  # of the numbers of rows, (n,), one row perhaps several times


@dataclass(frozen=True)
class Estimate:
    """A figure, and what it is over resamples of the rows: for one seed the same ones for all models on these rows."""

    value: float
    resampled: list[float]


def figures_of(
    data: Data, own: Mapping[str, Sides], theirs: Mapping[str, Sides] | None, seed: int
) -> dict[str, Estimate]:
    """Figures of a model's vectors by name, and with a teacher's vectors those of asymmetric use and their closeness.

    In asymmetric use one side is the model's and the other the teacher's, such as queries by a small model and an index
    of passages by the large one (LEAF: Vujanic and Rueckstiess, arXiv 2509.12539).

    Args:
        own: for each data set the two sides' vectors, (n, d) and (m, d).
        theirs: the teacher's, of the same size; None without a teacher.
        seed: of the resamples.
    """
    found = {}
    for name, each in data.items():
        figures = _of_data(each, own[name], seed)
        mixed = _of_data(each, (own[name][0], theirs[name][1]), seed) if theirs else {}
        for figure, estimate in figures.items():
            found[f"{name}: {figure}"] = estimate
            if theirs:
                found[f"{name}: {figure}{ASYMMETRIC}"] = mixed[figure]
    if theirs:
        close = [cosines(*sides) for name in data for sides in zip(own[name], theirs[name], strict=True)]
        found[CLOSENESS] = _mean(np.concatenate(close), seed)
    return found


def _of_data(data: ScoredPairs | Search, sides: Sides, seed: int) -> dict[str, Estimate]:
    if isinstance(data, Search):
        return estimates(of_search(*sides, data.answers), len(data.queries), seed)
    kind = of_scores if data.graded else of_paraphrases
    return estimates(kind(cosines(*sides), np.array(data.scores)), len(data.scores), seed)


def _mean(values: np.ndarray, seed: int) -> Estimate:
    return estimates({"": lambda rows: float(values[rows].mean())}, len(values), seed)[""]


def estimates(statistics: Mapping[str, Statistic], rows: int, seed: int) -> dict[str, Estimate]:
    """Figures of ``rows`` rows with their bootstrap (Efron, 1979)."""
    generator = np.random.default_rng(seed)
    draws = [generator.integers(rows, size=rows) for _ in range(_RESAMPLES)]
    everything = np.arange(rows)
    return {
        name: Estimate(statistic(everything), [statistic(draw) for draw in draws])
        for name, statistic in statistics.items()
    }


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of each row's vector with that of the other array, (n, d) and (n, d) to (n,); 0 where a vector is 0."""
    return (_normalised(first) * _normalised(second)).sum(-1)


def of_scores(found: np.ndarray, scores: np.ndarray) -> dict[str, Statistic]:
    """Rank and linear correlation of cosines with scores, (n,) each; 0 where either doesn't vary."""

    def correlation(one: np.ndarray, other: np.ndarray) -> float:
        if np.ptp(one) == 0 or np.ptp(other) == 0:
            return 0.0
        return float(np.corrcoef(one, other)[0, 1])  # scipy's work out a p-value too, for each resample

    return {
        "Spearman": lambda rows: correlation(rankdata(found[rows]), rankdata(scores[rows])),
        "Pearson": lambda rows: correlation(found[rows], scores[rows]),
    }


def of_paraphrases(found: np.ndarray, labels: np.ndarray) -> dict[str, Statistic]:
    """Average precision of pairs ordered by cosine, the highest first; labels are 1 and 0, (n,)."""

    def precision(rows: np.ndarray) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a resample of few rows may have no paraphrase
            return float(average_precision_score(labels[rows], found[rows]))

    return {"average precision": precision}


def of_search(queries: np.ndarray, passages: np.ndarray, answers: Sequence[Sequence[int]]) -> dict[str, Statistic]:
    """How well queries, (q, d), find their answers among all passages, (p, d), by cosine.

    Accuracy@1 is the share of queries whose nearest passage answers them, MRR@10 the mean of 1 / rank of the first
    answer and recall@10 the mean share of the answers that are found, both among the ten nearest.
    """
    first, recall = np.zeros(len(queries)), np.zeros(len(queries))  # 1 / rank, 0 behind the tenth
    ranked = torch.from_numpy(_normalised(passages))
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        batch = torch.from_numpy(_normalised(queries[start : start + _QUERIES_AT_ONCE]))
        best = (batch @ ranked.T).topk(min(_BEST, len(ranked)), dim=1).indices.numpy()
        for query, nearest in enumerate(best, start):
            hits = np.isin(nearest, answers[query])
            first[query] = 1 / (1 + hits.argmax()) if hits.any() else 0
            recall[query] = hits.sum() / len(answers[query])
    return {
        "accuracy@1": lambda rows: float((first[rows] == 1).mean()),
        f"MRR@{_BEST}": lambda rows: float(first[rows].mean()),
        f"recall@{_BEST}": lambda rows: float(recall[rows].mean()),
    }


def _normalised(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)

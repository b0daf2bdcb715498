"""Pairs of texts, with a number each or as queries and passages, whatever they come from."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from datasets import ClassLabel, Dataset

from tutorkd.data.columns import read_rows, texts_of, values_of
from tutorkd.data.readers import naming
from tutorkd.errors import UserError
from tutorkd.evaluation.embedding_arguments import EmbeddingArguments

_SPLIT = "validation"  # of a data set of the Hub


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs of sentences with a number each.

    Attributes:
        scores: how similar they are, on any scale, or 1 for a paraphrase and 0 for none.
        graded: whether it is the former.
    """

    first: list[str]
    second: list[str]
    scores: list[float]
    graded: bool

    @property
    def sides(self) -> tuple[list[str], list[str]]:
        return self.first, self.second


@dataclass(frozen=True)
class Search:
    """Queries, and passages to find among.

    Attributes:
        queries, passages: each text once.
        answers: for each query the numbers of the passages that answer it, one or more.
    """

    queries: list[str]
    passages: list[str]
    answers: list[list[int]]

    @property
    def sides(self) -> tuple[list[str], list[str]]:
        return self.queries, self.passages


Data = dict[str, ScoredPairs | Search]
"""What is measured on, by the name that its figures have."""


def read_scored(source: str, columns: Sequence[str]) -> ScoredPairs:
    """Pairs of sentences and their scores.

    Args:
        columns: of the two sentences and the score.

    Raises:
        UserError: if they can't be read, a value is missing or a score isn't a finite number, or all scores are equal.
    """
    return _read(source, columns, graded=True)


def read_paraphrases(source: str, columns: Sequence[str]) -> ScoredPairs:
    """Pairs of sentences, and 1 for a paraphrase or 0 for none.

    Raises:
        UserError: as `read_scored`, and where a label is neither.
    """
    pairs = _read(source, columns, graded=False)
    for row, score in enumerate(pairs.scores, 1):
        if score not in (0, 1):
            raise UserError(
                f"{source}: row {row} has {score:g} in column {columns[2]!r}; labels are 1 for a paraphrase, 0 for none"
            )
    return pairs


def read_search(source: str, columns: Sequence[str], label: str) -> Search:
    """Queries and passages; those without a query that they answer are there to be told from the others.

    Args:
        columns: of query and passage, and perhaps of what tells whether one answers the other.
        label: what that says where it does, a class or its number.

    Raises:
        UserError: if they can't be read, a value is missing, no row is an answer, or there is one passage only.
    """
    with naming(dict.fromkeys(columns, "retrieval_columns")):
        rows = read_rows(source, _SPLIT, columns)
    queries, passages = (texts_of(rows, column, source) for column in columns[:2])
    is_answer = [True] * len(rows)
    if len(columns) == 3:
        feature = rows.features[columns[2]]
        named = isinstance(feature, ClassLabel) and label in feature.names
        wanted = str(feature.str2int(label)) if named else label
        is_answer = [str(value) == wanted for value in values_of(rows, columns[2], source)]
        if not any(is_answer):
            raise UserError(f"{source}: no row has {label} in column {columns[2]!r}, which --retrieval_label asks for")
    numbers = {passage: number for number, passage in enumerate(dict.fromkeys(passages))}
    if len(numbers) < 2:
        raise UserError(f"{source}: every row has the same passage, so there is nothing to search")
    answers: dict[str, set[int]] = {}
    for query, passage, answer in zip(queries, passages, is_answer, strict=True):
        if answer:
            answers.setdefault(query, set()).add(numbers[passage])
    return Search(list(answers), list(numbers), [sorted(found) for found in answers.values()])


def read_data(embedding: EmbeddingArguments) -> Data:
    """What is measured on, by the name that its figures have.

    Raises:
        UserError: if something can't be read or used.
    """
    data: Data = {}
    if embedding.sts:
        data["STS"] = read_scored(embedding.sts, embedding.sts_columns)
    if embedding.paraphrases:
        data["paraphrases"] = read_paraphrases(embedding.paraphrases, embedding.paraphrase_columns)
    if embedding.retrieval:
        columns, label = embedding.retrieval_columns, embedding.retrieval_label
        data["retrieval"] = read_search(embedding.retrieval, columns, label)
    return data


def described(data: Data) -> list[str]:
    """A sentence about each data set."""
    sentences = []
    for name, each in data.items():
        if isinstance(each, Search):
            sentences.append(f"{name}: {len(each.queries):,} queries, {len(each.passages):,} passages to find among.")
        elif each.graded:
            sentences.append(f"{name}: {len(each.first):,} pairs, cosines against scores.")
        else:
            share = 100 * sum(each.scores) / len(each.scores)
            sentences.append(f"{name}: {len(each.first):,} pairs ordered by cosine, {share:.1f} % of them paraphrases.")
    return sentences


def digest(data: ScoredPairs | Search) -> str:
    """What tells the content of pairs from others, however they are stored."""
    return hashlib.sha256(json.dumps(asdict(data)).encode()).hexdigest()[:12]


def _read(source: str, columns: Sequence[str], graded: bool) -> ScoredPairs:
    with naming(dict.fromkeys(columns, "sts_columns" if graded else "paraphrase_columns")):
        rows = read_rows(source, _SPLIT, columns)
    first, second = (texts_of(rows, column, source) for column in columns[:2])
    scores = _numbers(rows, columns[2], source)
    if len(set(scores)) < 2:
        raise UserError(f"{source}: every row has {scores[0]:g} in column {columns[2]!r}; two values are needed")
    return ScoredPairs(first, second, scores, graded)


def _numbers(rows: Dataset, column: str, source: str) -> list[float]:
    numbers = []
    for row, value in enumerate(values_of(rows, column, source), 1):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"{source}: row {row} has {str(value)[:40]!r} in column {column!r}, which isn't a number")
        numbers.append(number)
    return numbers

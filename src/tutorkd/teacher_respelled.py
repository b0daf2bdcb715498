"""The likeliest next tokens of a causal teacher, said in the tokens of a student that has another tokenizer."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from tutorkd.alignment import read_answers, read_packed
from tutorkd.data.chats import ANSWERED
from tutorkd.data.taught import TAUGHT, TAUGHT_ANSWERED
from tutorkd.errors import UserError
from tutorkd.positions import longest_row
from tutorkd.reader import Ask
from tutorkd.spelling import UNKNOWN, Places, Spelling
from tutorkd.teacher import Teacher

_AT_ONCE = 256  # positions whose distributions over both vocabularies are there at once
_LOOKED_AT = 256  # rows
_MOST_LONG = 0.1  # of the rows; some have more tokens than others
_LEAST = 1e-30  # a probability whose logarithm float16 holds, far below any that counts


@torch.no_grad()
def likeliest_respelled(
    teacher: Teacher, rows: Sequence[Mapping[str, Any]], spelling: Spelling, k: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """What ``teacher_likeliest`` keeps, of rows of the student's: ids (P, K) and log-probabilities (P, K + 1).

    Where the teacher knows nothing of a token, that of the text has probability 1. So it is behind the last of its
    tokens that it can read.

    Args:
        rows: of text, or of conversations with what the teacher reads of them.

    Raises:
        UserError: the teacher's tokenizer has more tokens than the teacher.
    """
    check_tokens(teacher, spelling)
    positions = longest_row(teacher.body)
    read, places, own = zip(*(_cut(_read(spelling, row), positions) for row in rows), strict=True)
    lengths = np.array([len(each) for each in read])
    each = [one.moved(before) for one, before in zip(places, np.cumsum(lengths) - lengths, strict=True)]
    said = Places(*map(np.concatenate, zip(*each, strict=True)))
    asked, tokens = np.concatenate(own), np.concatenate(read)
    following = np.append(tokens[1:], 0)  # the teacher's, behind each of its positions

    ids, values = _of_text(asked, k)
    sums = np.ones(len(asked), np.float32)  # of all that the teacher says of the student's tokens
    logs = np.empty(len(following))  # of the teacher's own next token
    known = np.flatnonzero(said.speaks != UNKNOWN)
    start = 0
    for features in _features(teacher, tokens, lengths, device).split(_AT_ONCE):
        probabilities = teacher.head(features).float().softmax(-1)
        end = start + len(features)
        of_next = probabilities.gather(-1, torch.from_numpy(following[start:end, None]).to(device)).squeeze(-1)
        logs[start:end] = of_next.clamp(min=_LEAST).log().cpu().numpy()
        some = known[slice(*np.searchsorted(said.speaks[known], (start, end)))]
        if len(some):
            here = Places(*(each[some] for each in said))
            distribution = spelling.said(probabilities[torch.from_numpy(here.speaks - start).to(device)], here)
            # A token that holds several of the teacher's is kept whatever it has: more will come to it.
            sure = torch.from_numpy((2.0 * (here.last != UNKNOWN)).astype(np.float32)).to(device).unsqueeze(-1)
            top = distribution.scatter_add(-1, torch.from_numpy(asked[some, None]).to(device), sure).topk(k).indices
            ids[some], values[some] = top.cpu().numpy(), distribution.gather(-1, top).cpu().numpy()
            sums[some] = distribution.sum(-1).cpu().numpy()
        start = end
    _give_to_several(ids, values, sums, said, asked, logs, spelling.first[following])
    outcomes = np.concatenate([values, np.maximum(sums[:, None] - values.sum(-1, keepdims=True), 0)], -1)
    nothing = outcomes.sum(-1) < _LEAST  # so unlikely is the text that no number is left
    ids[nothing], outcomes[nothing, :-1] = _of_text(asked[nothing], k)
    return ids, np.log(np.maximum(outcomes / outcomes.sum(-1, keepdims=True), _LEAST))


def in_teachers_tokens(
    teacher: Teacher, rows: Iterable[Mapping[str, Any]], spelling: Spelling, device: torch.device
) -> Iterator[tuple[Tensor, None]]:
    """The text of each of a student's rows as its teacher reads it, ids (1, L) without a mask. Of a conversation, that
    is what the student reads of it, as if it were plain text.
    """
    positions = longest_row(teacher.body)
    for row in rows:
        ids, _ = read_packed(spelling, row["input_ids"])
        yield torch.tensor([ids[:positions]], device=device), None


def check_tokens(teacher: Teacher, spelling: Spelling) -> None:
    """Refuse a teacher that hasn't all tokens of its tokenizer.

    Raises:
        UserError: with both numbers.
    """
    if spelling.teachers_size > (size := teacher.config.vocab_size):
        raise UserError(
            f"the teacher's tokenizer has {spelling.teachers_size} tokens and the teacher {size}: put the tokenizer "
            "that belongs to it beside it"
        )


def share_unknown(teacher: Teacher, rows: Dataset, spelling: Spelling) -> float:
    """The share of the student's tokens of which the teacher knows nothing, of some rows all over a corpus.

    Raises:
        UserError: of more than a tenth of the rows the teacher can't read all.
    """
    some = rows.select(np.unique(np.linspace(0, len(rows) - 1, _LOOKED_AT).astype(int)))
    positions = longest_row(teacher.body)
    long = unknown = count = 0
    for row in some:
        found = _read(spelling, row)
        long += positions is not None and len(found[0]) > positions
        _, places, asked = _cut(found, positions)
        written = asked != (UNKNOWN if spelling.own.encoder.begin_id is None else spelling.own.encoder.begin_id)
        unknown += int((written & (places.speaks == UNKNOWN)).sum())
        count += int(written.sum())
    if long > _MOST_LONG * len(some):
        raise UserError(
            f"{long} of {len(some)} rows have more of the teacher's tokens than the {positions} that it reads at most: "
            "set a smaller --max_length"
        )
    return unknown / max(count, 1)


def _cut(found: tuple[np.ndarray, Places, np.ndarray], positions: int | None) -> tuple[np.ndarray, Places, np.ndarray]:
    """What ``_read`` gives, where the teacher reads no more than so many tokens."""
    read, places, asked = found
    if positions is None or len(read) <= positions:
        return found
    beyond = (places.speaks >= positions) | (places.last >= positions)
    speaks, last = (np.where(beyond, UNKNOWN, each) for each in (places.speaks, places.last))
    return read[:positions], places._replace(speaks=speaks, last=last), asked


def _read(spelling: Spelling, row: Mapping[str, Any]) -> tuple[np.ndarray, Places, np.ndarray]:
    """The teacher's ids for a row, where it speaks of the student's tokens, and the ids of these, (n,)."""
    ids = np.asarray(row["input_ids"])
    if ANSWERED not in row:
        read, places = read_packed(spelling, ids.tolist())
        return np.array(read), places, ids[1:]
    answered, theirs = np.asarray(row[ANSWERED], bool), np.asarray(row[TAUGHT])
    places = read_answers(spelling, ids, answered, theirs, np.asarray(row[TAUGHT_ANSWERED], bool))
    if not len(theirs):  # none of its answers is within a row
        theirs = np.array([spelling.teachers.end_id])
    return theirs, places, ids[1:][answered[1:]]


def _features(teacher: Teacher, tokens: np.ndarray, lengths: np.ndarray, device: torch.device) -> Tensor:
    """What the teacher's head reads at all positions of rows that are padded to be read together, (P, d)."""
    real = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(real.shape, np.int64)
    ids[real] = tokens
    mask = None if real.all() else torch.from_numpy(real.astype(np.int64)).to(device)
    positions = torch.from_numpy(np.flatnonzero(real) + 1).to(device)  # logits stand before what they are about
    features = teacher(torch.from_numpy(ids).to(device), mask, Ask(logits=False), positions).features
    assert features is not None
    return features


def _of_text(tokens: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """K tokens (n, K) of which the first is that of the text, and has probability 1, (n, K)."""
    others = np.tile(np.arange(k), (len(tokens), 1))
    others[:, 0] = np.where(tokens < k, 0, tokens)
    ids = np.where(others == tokens[:, None], others[:, :1], others)
    ids[:, 0] = tokens
    values = np.zeros(ids.shape, np.float32)
    values[:, 0] = 1
    return ids, values


def _give_to_several(
    ids: np.ndarray,
    values: np.ndarray,
    sums: np.ndarray,
    said: Places,
    asked: np.ndarray,
    logs: np.ndarray,
    first: np.ndarray,
) -> None:
    """Give to tokens that hold several of the teacher's what these have together, and take it from the first, in place.

    Args:
        ids, values: (n, K), tokens and their probabilities.
        sums: (n,), of the probabilities of all tokens; what comes from a token without a spelling is added.
        asked: (n,), what stands in the text.
        logs: the log-probability of the teacher's token behind each of its positions, and of that token
        first: the first of its spelling.
    """
    several = np.flatnonzero(said.last != UNKNOWN)
    until = np.append(0, np.cumsum(logs))
    likely = np.exp(until[said.last[several]] - until[said.speaks[several]])[:, None].astype(np.float32)
    here, before = asked[several, None], first[said.speaks[several], None]
    change = likely * (ids[several] == here) - likely * (ids[several] == before)
    values[several] = np.maximum(values[several] + change, 0)
    sums[several] += np.where(before == UNKNOWN, likely, 0).squeeze(-1)

"""A teacher's tokens spelled in those of a student that has another tokenizer.

What the teacher says of its next token is then said of the student's. With spell(t) the student's tokens for the text
of a teacher's token t, and p(t) the teacher's distribution where it has read the text up to the end of one of its own
tokens, the student's next token s is expected with

    P(s) = sum of p(t) over spell(t) = (s, ...)

where the student stands at the same place of the text, and, where it has read the beginning w of a token of the
teacher,

    P(s) = sum of p(t) over spell(t) = (w, s, ...) / sum of p(t) over spell(t) = (w, ...) longer than w.

Where all tokens of the teacher's end where some of the student's do, these are the teacher's probabilities of the
student's tokens. In other places they come near to them: there a token s of the student holds several of the teacher's.
Of the token y that stands in the text it is known how likely these are together, which is taken from their first one:

    P(y) += q,  P(first of spell(t_1)) -= q,  q = p(t_1) p(t_2 | t_1) ... p(t_n | t_1 ... t_n-1).

What the teacher gives to tokens that the student can't spell counts for nothing: P is divided by the sum of the others.
Nothing is known of a token of the text that is neither the next one of spell(t), t being the teacher's token there, nor
ends where a token of the teacher's ends; there the text itself is learned.

Projecting the teacher's distribution onto the student's vocabulary by how tokens are spelled: Sreenivas et al.,
"X-Token: Projection-Guided Cross-Tokenizer Knowledge Distillation", arXiv 2605.21699, 2026; there all tokens of
spell(t) get a share. Likelihoods of what covers the same text: Minixhofer et al., "Universal Cross-Tokenizer
Distillation via Approximate Likelihood Matching", NeurIPS 2025, arXiv 2503.20083.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tutorkd.token_bytes import Tokens

FORMAT = 3  # raise it when the same tokenizers come to be compared otherwise
UNKNOWN = -1
_PIECES_AT_ONCE = 1 << 14  # tokens whose embeddings are copied at once


class Places(NamedTuple):
    """Where a teacher speaks about the tokens that a student is asked about in a row, (n,) each.

    Attributes:
        speaks: the position of its row whose logits are about what begins there; UNKNOWN where none are.
        last: the position of the last of its tokens that the student's holds, where these are two or more; else
            UNKNOWN.
        depth: how many tokens the student has read of one of the teacher's; 0 where it is at the start of one.
        start, end: elsewhere, the teacher's tokens that begin with these, in the order of ``Spelling``.
    """

    speaks: np.ndarray
    last: np.ndarray
    depth: np.ndarray
    start: np.ndarray
    end: np.ndarray

    @classmethod
    def unknown(cls, count: int) -> "Places":
        """Of so many tokens of which nothing is known."""
        return cls(*np.full((2, count), UNKNOWN), *np.zeros((3, count), np.int64))

    def moved(self, by: int) -> "Places":
        """The same where the teacher's row stands behind so many other positions."""
        speaks, last = (np.where(each == UNKNOWN, UNKNOWN, each + by) for each in (self.speaks, self.last))
        return self._replace(speaks=speaks, last=last)


class Spelling:
    """The tokens of a teacher in those of a student.

    Args:
        teachers, own: the tokenizers of the teacher and of the student.
        chats: whether it is for conversations, in which other tokens end an answer than end a text.

    Attributes:
        tokenizer: the student's.
        chats: as given.
        teachers, own: both, with their tokens in bytes.
        teachers_size, own_size: how many ids they have, V_t and V_s.
        teachers_write: of each of the teacher's tokens whether it stands for text or ends it, (V_t,).
        first: of each of the teacher's tokens the first of its spelling, (V_t,); UNKNOWN where it has none.

    Raises:
        UserError: if one isn't a fast tokenizer with an end-of-text token, or its tokens don't say which bytes of a
            text they stand for.
    """

    def __init__(self, teachers: PreTrainedTokenizerBase, own: PreTrainedTokenizerBase, chats: bool = False):
        self.tokenizer, self.chats = own, chats
        self.teachers, self.own = (Tokens.of(each, chats) for each in (teachers, own))
        self.teachers_size, self.own_size = len(self.teachers.texts), len(self.own.texts)
        self.teachers_write = np.array([bool(text) for text in self.teachers.texts])
        self.teachers_write[self.teachers.end_id] = True
        spelled = sorted((spelling, token) for token, spelling in self._spelled())
        self._order = np.array([token for _, token in spelled])
        self._of = {token: spelling for spelling, token in spelled}
        lengths = np.array([len(spelling) for spelling, _ in spelled])
        self._starts = np.cumsum(lengths) - lengths
        self._flat = np.concatenate([np.array(spelling) for spelling, _ in spelled])
        self._beginnings = _beginnings([spelling for spelling, _ in spelled])
        self.first = np.full(self.teachers_size, UNKNOWN)
        self.first[self._order] = self._flat[self._starts]
        # What has no spelling is counted behind the student's tokens.
        self._columns = torch.from_numpy(np.where(self.first == UNKNOWN, self.own_size, self.first))

    def _spelled(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """The teacher's tokens that have a spelling, and that."""
        yield self.teachers.end_id, (self.own.end_id,)
        for token, text in enumerate(self.teachers.texts):
            if text and token != self.teachers.end_id and (spelling := self.own.spelled(text)):
                yield token, spelling

    def of(self, token: int) -> tuple[int, ...]:
        """The spelling of a token of the teacher's; empty where it has none."""
        return self._of.get(token, ())

    def begun(self, tokens: Sequence[int]) -> tuple[int, int]:
        """The first of the teacher's tokens, in the order of their spellings, that begin with some of the student's and
        go on, and the one behind the last of them.

        Raises:
            KeyError: where there are none.
        """
        return self._beginnings[tuple(tokens)]

    def said(self, probabilities: Tensor, places: Places) -> Tensor:
        """What the teacher says of the student's tokens at some places, before what is known of the text is added.

        Args:
            probabilities: (n, V_t) float32, the teacher's where it speaks of each, or of more ids.
            places: n of them, all known.

        Returns:
            (n, V_s) float32, each row the sums above the fraction bars; what these are divided by is their sum.
        """
        device, own_size = probabilities.device, self.own_size
        columns = self._columns = self._columns.to(device)
        found = probabilities.new_zeros(len(probabilities), own_size + 1)
        found.index_add_(1, columns, probabilities[:, : self.teachers_size])
        inside = np.flatnonzero(places.depth)
        if len(inside):
            counts = (places.end - places.start)[inside]
            of_place = np.repeat(inside, counts)
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            token = np.repeat(places.start[inside], counts) + within
            following = self._flat[self._starts[token] + np.repeat(places.depth[inside], counts)]
            row, old = (torch.from_numpy(each).to(device) for each in (of_place, self._order[token]))
            new = torch.from_numpy(of_place * (own_size + 1) + following).to(device)
            found[torch.from_numpy(inside).to(device)] = 0
            found.view(-1).index_add_(0, new, probabilities[row, old])
        return found[:, :own_size]

    def averaged(self, weight: Tensor) -> Tensor:
        """Embeddings of the student's tokens: of each the mean of those of the teacher's tokens for its text.

        Gee et al., "Fast Vocabulary Transfer for Language Model Compression", EMNLP 2022 (industry track), section 3.

        Args:
            weight: (V_t, ...), the teacher's, or of more ids.

        Returns:
            (V_s, ...) in the same number format; of special tokens that of the teacher's token of that name or, where
            there is none, the mean of all.
        """
        pieces: list[Sequence[int]] = [self._pieces(token) for token in range(self.own_size)]
        lengths = torch.tensor([len(each) for each in pieces])
        rows = torch.repeat_interleave(torch.arange(len(pieces)), lengths).to(weight.device)
        tokens = torch.tensor([token for each in pieces for token in each], device=weight.device)
        sums = torch.zeros(len(pieces), *weight.shape[1:], device=weight.device)
        for row, token in zip(rows.split(_PIECES_AT_ONCE), tokens.split(_PIECES_AT_ONCE), strict=True):
            sums.index_add_(0, row, weight[token].float())
        shape = -1, *[1] * (weight.dim() - 1)
        lengths = lengths.to(weight.device).view(shape)
        mean = weight[: self.teachers_size].mean(0, dtype=torch.float32)
        return torch.where(lengths > 0, sums / lengths.clamp(min=1), mean).to(weight.dtype)

    def _pieces(self, token: int) -> Sequence[int]:
        """The teacher's tokens for the text of one of the student's."""
        own, teachers = self.own, self.teachers
        if token in (own.end_id, own.encoder.sep_id):
            return [teachers.end_id if token == own.end_id else teachers.encoder.sep_id]
        if token == own.encoder.begin_id:
            return [teachers.encoder.sep_id if teachers.encoder.begin_id is None else teachers.encoder.begin_id]
        if (text := own.texts[token]) is None:  # special, or no token at all
            named = own.encoder.backend.id_to_token(token)
            same = None if named is None else teachers.encoder.backend.token_to_id(named)
            return [] if same is None or teachers.texts[same] is not None else [same]
        single = (text[place : place + 1] for place in range(len(text)))
        return teachers.spelled(text) or [teachers.by_bytes[byte] for byte in single if byte in teachers.by_bytes]


def _beginnings(spellings: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], tuple[int, int]]:
    """Of each beginning of sorted spellings the first of those that go on, and the one behind the last of these."""
    found: dict[tuple[int, ...], tuple[int, int]] = {}
    for place, spelling in enumerate(spellings):
        for depth in range(1, len(spelling)):
            start, _ = found.get(spelling[:depth], (place, place))
            found[spelling[:depth]] = start, place + 1
    return found

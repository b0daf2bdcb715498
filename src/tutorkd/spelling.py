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

Nothing is known where the two cut the text in ways that have nothing to do with each other; there the text itself is
learned.

Projecting the teacher's distribution onto the student's vocabulary by how tokens are spelled: Sreenivas et al.,
"X-Token: Projection-Guided Cross-Tokenizer Knowledge Distillation", arXiv 2605.21699, 2026; there all tokens of
spell(t) get a share. Likelihoods of what covers the same text: Minixhofer et al., "Universal Cross-Tokenizer
Distillation via Approximate Likelihood Matching", NeurIPS 2025, arXiv 2503.20083.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tutorkd.data.packing import Encoder
from tutorkd.token_bytes import SPACE, bytes_of_tokens

FORMAT = 1  # raise it when the same tokenizers come to be compared otherwise
_END = b"\xff"  # of a document; no text has this byte
UNKNOWN = -1


class Places(NamedTuple):
    """Where a teacher speaks about the tokens of a student's row, all but the first, (n - 1,) each.

    Attributes:
        speaks: the position of its row whose logits are about what begins there; UNKNOWN where none are.
        last: the position of the last of its tokens that the student's holds, where these are two or more; else
            UNKNOWN.
        start, end, depth: the teacher's tokens, in the order of ``Spelling``, that begin with what the student has read
            of one, so many of its own tokens.
    """

    speaks: np.ndarray
    last: np.ndarray
    start: np.ndarray
    end: np.ndarray
    depth: np.ndarray


class Spelling:
    """The tokens of a teacher in those of a student.

    Args:
        teachers, own: the tokenizers of the teacher and of the student.

    Attributes:
        own: the student's.
        teachers_size, own_size: how many ids they have, V_t and V_s.
        first: of each of the teacher's tokens the first of its spelling, (V_t,); UNKNOWN where it has none.

    Raises:
        UserError: if one isn't a fast tokenizer with an end-of-text token, or its tokens don't say which bytes of a
            text they stand for.
    """

    def __init__(self, teachers: PreTrainedTokenizerBase, own: PreTrainedTokenizerBase):
        self.own = own
        self._teachers, self._own = (_Tokens.of(each) for each in (teachers, own))
        self.teachers_size, self.own_size = len(self._teachers.texts), len(self._own.texts)
        spelled = sorted((spelling, token) for token, spelling in self._spelled())
        self._order = np.array([token for _, token in spelled])
        lengths = np.array([len(spelling) for spelling, _ in spelled])
        self._starts = np.cumsum(lengths) - lengths
        self._flat = np.concatenate([np.array(spelling) for spelling, _ in spelled])
        self._beginnings = _beginnings([spelling for spelling, _ in spelled])
        self.first = np.full(self.teachers_size, UNKNOWN)
        self.first[self._order] = self._flat[self._starts]

    def _spelled(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """The teacher's tokens that have a spelling, and that."""
        ends = self._teachers.encoder.sep_id, self._own.encoder.sep_id
        yield ends[0], (ends[1],)
        for token, text in enumerate(self._teachers.texts):
            if text and token != ends[0] and (spelling := self._own.spelled(text)):
                yield token, spelling

    def read(self, ids: Sequence[int]) -> tuple[list[int], Places]:
        """What the teacher reads in the place of a student's row of packed text, and where it speaks of its tokens.

        Args:
            ids: (n,), the student's.
        """
        read, ends, own_ends = self._retokenised(ids)
        starts, stops = own_ends[:-1], own_ends[1:]
        # Behind the last of its tokens that end there: one that begins a text has no length.
        speaks = np.searchsorted(ends, starts, side="right") - 1
        aligned = (speaks >= 0) & (ends[speaks] == starts) & (stops > starts)
        last = np.searchsorted(ends, stops, side="left")
        several = aligned & (last - speaks >= 2) & (ends[np.minimum(last, len(ends) - 1)] == stops)
        speaks[~aligned] = UNKNOWN
        places = Places(speaks, np.where(several, last, UNKNOWN), *np.zeros((3, len(ids) - 1), np.int64))
        places.end[aligned] = len(self._order)
        before = np.maximum.accumulate(np.where(aligned, np.arange(len(aligned)), UNKNOWN))
        for place in np.flatnonzero(~aligned & (before >= 0) & (stops > starts)):
            begun = before[place]
            known = self._beginnings.get(tuple(ids[int(begun) + 1 : int(place) + 1]))
            if known is not None:
                places.speaks[place] = speaks[begun]
                places.start[place], places.end[place] = known
                places.depth[place] = place - begun
        return read, places

    def _retokenised(self, ids: Sequence[int]) -> tuple[list[int], np.ndarray, np.ndarray]:
        """The teacher's ids, and where the tokens of both end in the text of a row, in bytes."""
        read: list[int] = []
        lengths: list[int] = []
        own_lengths = np.array([len(self._own.texts[token] or b"") for token in ids])
        documents = np.flatnonzero(np.asarray(ids) == self._own.encoder.sep_id)
        own_lengths[documents] = len(_END)
        bounds = [0, *(documents + 1).tolist(), len(ids)]
        for number, (first, behind) in enumerate(pairwise(bounds)):
            closed = behind > first and ids[behind - 1] == self._own.encoder.sep_id
            inside = range(first, behind - closed)
            text = b"".join(self._own.texts[ids[place]] or b"" for place in inside)
            begins = number or ids[first] == self._own.encoder.begin_id
            if self._own.prefixed and begins and text.startswith(b" "):
                text = text[1:]
                own_lengths[next(place for place in inside if own_lengths[place])] -= 1
            if number == 0 or len(inside):
                self._begin(read, lengths)
            self._append(text, read, lengths)
            if closed:
                read.append(self._teachers.encoder.sep_id)
                lengths.append(len(_END))
        return read, np.cumsum(lengths), np.cumsum(own_lengths)

    def _begin(self, read: list[int], lengths: list[int]) -> None:
        if (begin := self._teachers.encoder.begin_id) is not None:
            read.append(begin)
            lengths.append(0)

    def _append(self, text: bytes, read: list[int], lengths: list[int]) -> None:
        """Add the teacher's tokens of a text, which may begin and end amid a character."""
        whole, before, behind = _whole_characters(text)
        tokens = self._teachers.encode(whole.decode(errors="replace"))
        sizes = [len(self._teachers.texts[token] or b"") for token in tokens]
        if tokens:
            written = b"".join(self._teachers.texts[token] or b"" for token in tokens)
            if self._teachers.prefixed and written == b" " + whole:
                sizes[0] -= 1
            elif written != whole:  # it changes what it reads, and speaks of nothing within
                sizes = [len(whole), *[0] * (len(tokens) - 1)]
            sizes[0] += before
            sizes[-1] += behind
        elif not read or text:  # it must read something
            tokens, sizes = [self._teachers.encoder.sep_id], [len(text)]
        read += tokens
        lengths += sizes

    def said(self, probabilities: Tensor, places: Places) -> Tensor:
        """What the teacher says of the student's tokens at some places, before what is known of the text is added.

        Args:
            probabilities: (n, V_t) float32, the teacher's where it speaks of each, or of more ids.
            places: n of them, all known.

        Returns:
            (n, V_s) float32.
        """
        device, own_size = probabilities.device, self.own_size
        found = probabilities.new_zeros(len(probabilities), own_size)
        at_start = places.depth == 0
        order = torch.from_numpy(self._order).to(device)
        first = torch.from_numpy(self._flat[self._starts]).to(device)
        some = torch.from_numpy(np.flatnonzero(at_start)).to(device)
        found[some] = found[some].index_add_(1, first, probabilities[some][:, order])
        inside = np.flatnonzero(~at_start)
        if len(inside):
            counts = (places.end - places.start)[inside]
            of_place = np.repeat(inside, counts)
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            token = np.repeat(places.start[inside], counts) + within
            following = self._flat[self._starts[token] + np.repeat(places.depth[inside], counts)]
            row, old = (torch.from_numpy(each).to(device) for each in (of_place, self._order[token]))
            new = torch.from_numpy(of_place * own_size + following).to(device)
            found.view(-1).index_add_(0, new, probabilities[row, old])
        return found / found.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)

    def averaged(self, weight: Tensor) -> Tensor:
        """Embeddings of the student's tokens: of each the mean of those of the teacher's tokens for its text.

        Gee et al., "Fast Vocabulary Transfer for Language Model Compression", EMNLP 2022 (industry track), section 3.

        Args:
            weight: (V_t, ...), the teacher's, or of more ids.

        Returns:
            (V_s, ...) in the same number format; of tokens that stand for no text the mean of all.
        """
        pieces: list[Sequence[int]] = [self._pieces(token) for token in range(self.own_size)]
        lengths = torch.tensor([len(each) for each in pieces])
        rows = torch.repeat_interleave(torch.arange(len(pieces)), lengths).to(weight.device)
        tokens = torch.tensor([token for each in pieces for token in each], device=weight.device)
        values = weight.float()
        sums = values.new_zeros(len(pieces), *weight.shape[1:]).index_add_(0, rows, values[tokens])
        shape = -1, *[1] * (weight.dim() - 1)
        lengths = lengths.to(weight.device).view(shape)
        mean = values[: self.teachers_size].mean(0)
        return torch.where(lengths > 0, sums / lengths.clamp(min=1), mean).to(weight.dtype)

    def _pieces(self, token: int) -> Sequence[int]:
        """The teacher's tokens for the text of one of the student's."""
        own, teachers = self._own.encoder, self._teachers
        if token == own.sep_id:
            return [teachers.encoder.sep_id]
        if token == own.begin_id:
            return [teachers.encoder.sep_id if teachers.encoder.begin_id is None else teachers.encoder.begin_id]
        text = self._own.texts[token] or b""
        single = (text[place : place + 1] for place in range(len(text)))
        return teachers.spelled(text) or [teachers.by_bytes[byte] for byte in single if byte in teachers.by_bytes]


class _Tokens(NamedTuple):
    """A tokenizer, its tokens in bytes, and the tokens by these.

    Attributes:
        prefixed: whether it puts a space before a text.
    """

    encoder: Encoder
    texts: list[bytes | None]
    by_bytes: dict[bytes, int]
    prefixed: bool

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "_Tokens":
        encoder, found = Encoder.from_tokenizer(tokenizer, framed=False), bytes_of_tokens(tokenizer)
        encoder.backend.encode_special_tokens = True  # a special token's name in a text is text
        begun = b"".join(found[token] or b"" for token in encoder.backend.encode("a", add_special_tokens=False).ids)
        by_bytes = {text: token for token, text in enumerate(found) if text}
        return cls(encoder, found, by_bytes, begun == b" a")

    def encode(self, text: str) -> list[int]:
        return self.encoder.backend.encode(text, add_special_tokens=False).ids

    def spelled(self, text: bytes) -> tuple[int, ...]:
        """The tokens of what stands amid a text; none where these don't give it back."""
        try:
            tokens = self.encode(text.decode())
        except UnicodeDecodeError:  # a part of a character
            tokens = [self.by_bytes[text]] if text in self.by_bytes else []
        written = b"".join(self.texts[token] or b"" for token in tokens)
        if self.prefixed and written == b" " + text:
            model = self.encoder.backend.model
            tokens = [token.id for token in model.tokenize(text.decode().replace(" ", SPACE))]
            written = b"".join(self.texts[token] or b"" for token in tokens)
        return tuple(tokens) if written == text else ()


def _beginnings(spellings: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], tuple[int, int]]:
    """Of each beginning of sorted spellings the first of those that go on, and the one behind the last of these."""
    found: dict[tuple[int, ...], tuple[int, int]] = {}
    for place, spelling in enumerate(spellings):
        for depth in range(1, len(spelling)):
            start, _ = found.get(spelling[:depth], (place, place))
            found[spelling[:depth]] = start, place + 1
    return found


def _whole_characters(text: bytes) -> tuple[bytes, int, int]:
    """A text without the parts of characters at its ends, and how many bytes these have."""
    before = 0
    while before < min(len(text), 3) and 0x80 <= text[before] < 0xC0:
        before += 1
    behind = 0
    for count in range(1, min(3, len(text) - before) + 1):
        if (lead := text[-count]) >= 0xC0:
            behind = count if count < (2 if lead < 0xE0 else 3 if lead < 0xF0 else 4) else 0
            break
    return text[before : len(text) - behind], before, behind

"""What a teacher reads in the place of a student's row, having another tokenizer, and where it speaks of its tokens."""

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import groupby, pairwise
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from tutorkd.spelling import UNKNOWN, Places, Spelling
from tutorkd.token_bytes import Tokens, whole_characters

_END = b"\xff"  # of a text or an answer; no text has this byte


def read_packed(spelling: Spelling, ids: Sequence[int]) -> tuple[list[int], Places]:
    """The teacher's ids for a student's row of packed text, and where it speaks of all tokens but the first.

    Args:
        ids: (n,), the student's.
    """
    read = _Read(spelling.teachers)
    own, begun = spelling.own, []
    own_sizes = np.array([len(own.texts[token] or b"") for token in ids])
    closing = np.flatnonzero(np.asarray(ids) == own.end_id)
    own_sizes[closing] = len(_END)
    bounds = [0, *(closing + 1).tolist(), len(ids)]
    for number, (first, behind) in enumerate(pairwise(bounds)):
        closed = behind > first and ids[behind - 1] == own.end_id
        inside = range(first, behind - closed)
        text = own.written(ids[first : behind - closed])
        if number or ids[first] == own.encoder.begin_id:
            begun.append(own_sizes[:first].sum())
            if own.prefixed and text.startswith(b" "):
                text = text[1:]
                own_sizes[next(place for place in inside if own_sizes[place])] -= 1
        if number == 0 or len(inside):
            read.begin()
        read.append(text)
        if closed:
            read.end()
    ends = np.cumsum(own_sizes)
    starts, stops = ends[:-1], ends[1:]
    # Of two of which one puts a space before a text, none has the other's first token.
    apart = np.isin(starts, begun) if own.prefixed != spelling.teachers.prefixed else np.zeros(len(starts), bool)
    following = np.array([*read.ids[1:], UNKNOWN])
    return read.ids, _places(spelling, np.asarray(ids)[1:], starts, stops, ~apart, np.cumsum(read.sizes), following)


class _Read:
    """What a teacher reads of a text, and how many of its bytes each token stands for."""

    def __init__(self, tokens: Tokens):
        self.tokens = tokens
        self.ids: list[int] = []
        self.sizes: list[int] = []

    def begin(self) -> None:
        """Add what stands before a text."""
        if (begin := self.tokens.encoder.begin_id) is not None:
            self._add([begin], [0])

    def end(self) -> None:
        """Add what ends a text."""
        self._add([self.tokens.end_id], [len(_END)])

    def append(self, text: bytes) -> None:
        """Add a text, which may begin and end amid a character."""
        whole, before, behind = whole_characters(text)
        characters = whole.decode(errors="replace")
        encoding = self.tokens.encoding(characters)
        ids = encoding.ids
        texts = [self.tokens.texts[token] or b"" for token in ids]
        sizes = [len(each) for each in texts]
        if ids:
            if self.tokens.prefixed and b"".join(texts) == b" " + whole:
                sizes[0] -= 1
            elif b"".join(texts) != whole:  # the tokenizer changes what it reads
                sizes = _covered(encoding.offsets, texts, characters)
                sizes[-1] += len(whole) - sum(sizes)
            sizes[0] += before
            sizes[-1] += behind
        elif text or not self.ids:  # it must read something
            ids, sizes = [self.tokens.end_id], [len(text)]
        self._add(ids, sizes)

    def _add(self, ids: list[int], sizes: list[int]) -> None:
        self.ids += ids
        self.sizes += sizes


def _covered(offsets: Sequence[tuple[int, int]], texts: Sequence[bytes], text: str) -> list[int]:
    """How many bytes of a text each token covers, by their places in it: their own where those of a place have as many
    together, else the first has all.
    """
    until = np.cumsum([0, *(len(character.encode()) for character in text)])
    sizes: list[int] = []
    reached = 0
    for (_, end), tokens in groupby(zip(offsets, texts, strict=True), key=itemgetter(0)):
        parts = [len(each) for _, each in tokens]
        covered = max(int(until[end]) - reached, 0)
        sizes += parts if sum(parts) == covered else [covered, *[0] * (len(parts) - 1)]
        reached += covered
    return sizes


def read_answers(
    spelling: Spelling, ids: np.ndarray, answered: np.ndarray, teachers_ids: np.ndarray, teachers_answered: np.ndarray
) -> Places:
    """Where the teacher speaks of the student's tokens in the answers of a conversation, which each reads in its own
    chat template.

    Args:
        ids, answered: (n,), the student's row, and which of its tokens are part of an answer.
        teachers_ids, teachers_answered: (m,), the same of the teacher's.
    """
    found = Places.unknown(int(answered[1:].sum()))
    runs, teachers_runs = _runs(answered), _runs(teachers_answered)
    said = [_written(spelling.own, ids[run]) for run in runs]
    teachers_said = [_written(spelling.teachers, teachers_ids[run]) for run in teachers_runs]
    starts = np.cumsum([0, *map(len, runs)])
    for number, teachers_number in _same_answers([each.text for each in said], [each.text for each in teachers_said]):
        own, theirs = runs[number], teachers_runs[teachers_number]
        written = said[number], teachers_said[teachers_number]
        places = _in_answer(spelling, ids[own], teachers_ids[theirs], *written).moved(int(theirs[0]) - 1)
        for into, values in zip(found, places, strict=True):
            into[starts[number] : starts[number + 1]] = values
    return found


def _same_answers(said: Sequence[bytes], teachers_said: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """The answers of a conversation that are the same in two chat templates, of which one may leave some out, or mark
    fewer, and a row may end within one; those that stand alike between others may be written otherwise.
    """
    texts, others = ([each.removesuffix(_END).strip() for each in some] for some in (said, teachers_said))
    for kind, start, end, first, behind in SequenceMatcher(None, texts, others, autojunk=False).get_opcodes():
        for own, theirs in zip(range(start, end), range(first, behind), strict=False):
            one, other = texts[own], others[theirs]
            if kind == "equal" or end - start == behind - first or one.startswith(other) or other.startswith(one):
                yield own, theirs


def _runs(answered: np.ndarray) -> list[np.ndarray]:
    """The places of each run of tokens that are part of an answer, without the first of a row."""
    places = np.flatnonzero(answered[1:]) + 1
    return [run for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1) if len(run)]


class _Written(NamedTuple):
    """A text, and how many of its bytes each token stands for."""

    sizes: np.ndarray
    text: bytes


def _in_answer(
    spelling: Spelling, ids: np.ndarray, teachers_ids: np.ndarray, written: _Written, teachers_written: _Written
) -> Places:
    """Where a teacher speaks of the tokens of an answer, with positions counted from the one before its own."""
    (sizes, text), (teachers_sizes, teachers_text) = written, teachers_written
    lead, teachers_lead = (len(each) - len(each.lstrip()) for each in (text, teachers_text))
    if lead == teachers_lead:  # then it is part of the answer
        lead = teachers_lead = 0
    common = _common(text[lead:], teachers_text[teachers_lead:])
    stops = np.cumsum(sizes) - lead
    starts = np.maximum(stops - sizes, 0)
    ends = np.maximum(np.cumsum([0, *teachers_sizes]) - teachers_lead, 0)
    # Where templates put other white space before an answer, the first token of the one isn't the other's.
    may = (stops <= common) & ((starts > 0) | (text[:lead] == teachers_text[:teachers_lead]))
    return _places(spelling, ids, starts, stops, may, ends, np.append(teachers_ids, UNKNOWN))


def _common(one: bytes, other: bytes) -> int:
    """How many bytes two texts have in common at their beginning."""
    size = min(len(one), len(other))
    differing = np.flatnonzero(np.frombuffer(one[:size], np.uint8) != np.frombuffer(other[:size], np.uint8))
    return int(differing[0]) if len(differing) else size


def _written(tokens: Tokens, ids: np.ndarray) -> _Written:
    """What the tokens of an answer write; what ends it has one byte."""
    texts = [_END if token == tokens.end_id else tokens.texts[token] or b"" for token in ids.tolist()]
    return _Written(np.array([len(each) for each in texts]), b"".join(texts))


def _places(
    spelling: Spelling,
    asked: np.ndarray,
    starts: np.ndarray,
    stops: np.ndarray,
    may: np.ndarray,
    ends: np.ndarray,
    following: np.ndarray,
) -> Places:
    """Where a teacher speaks of tokens that follow each other in a text.

    Args:
        asked: (n,), the student's.
        starts, stops: (n,), where each of them begins and ends in the text, in bytes.
        may: (n,), whether it can say something of each.
        ends: (m,), where the teacher's tokens end.
        following: (m,), the token behind each of these; UNKNOWN behind the last.
    """
    # Behind the last of the teacher's that end there: some have no length.
    speaks = np.searchsorted(ends, starts, side="right") - 1
    aligned = may & (stops > starts) & (speaks >= 0) & (ends[speaks] == starts) & (following[speaks] != UNKNOWN)
    spelled = aligned & (spelling.first[following[speaks]] == asked)
    last = np.searchsorted(ends, stops, side="right") - 1
    unwritten = np.append(0, np.cumsum(~spelling.teachers_write[following]))  # such as an unknown token
    several = aligned & ~spelled & (ends[last] == stops) & (unwritten[last] == unwritten[speaks])
    places = Places.unknown(len(asked))
    places.speaks[spelled | several] = speaks[spelled | several]
    places.last[several] = last[several]
    for place in np.flatnonzero(spelled).tolist():
        spelling_there = spelling.of(int(following[speaks[place]]))
        for depth in range(1, min(len(spelling_there), len(asked) - place)):
            inside = place + depth
            if asked[inside] != spelling_there[depth] or not may[inside]:
                break
            places.speaks[inside], places.depth[inside] = speaks[place], depth
            places.start[inside], places.end[inside] = spelling.begun(spelling_there[:depth])
    return places

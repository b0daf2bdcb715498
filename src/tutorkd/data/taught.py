"""Texts and conversations, a row each, as a student and a teacher read them that have a tokenizer, or a text, of their
own.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from datasets import Features

from tutorkd.data.chats import ANSWERED, ChatEncoder
from tutorkd.data.documents import nonblank_pairs
from tutorkd.data.texts import Taught, TextEncoder, WholeRows

TAUGHT = "teacher_ids"
"""The column of rows that has what the teacher reads."""
TAUGHT_ANSWERED = "teacher_assistant_masks"
"""The column of conversations that says of each token of these whether it is part of an answer, 1 or 0."""

_OWN, _TEACHERS, _ALSO = range(3)  # the student's reading, the teacher's, and the student's of the teacher's text
_BITS = 2


@dataclass(frozen=True)
class TaughtEncoder:
    """Two tokenizers: texts or conversations to rows of the student's ids with the teacher's beside them.

    A document is what both read or, where the teacher has a column of its own, a pair of texts. Such a pair
    gives one row, of what the student reads of its text, or two, if it reads the teacher's text as well. Ids travel to
    the rows with two bits behind them that say whose they are, so that a pair is held out as a whole.

    Attributes:
        own, teachers: what cuts texts, or conversations, for the student, and for the teacher.
        column: of the teacher's texts; `None` where both read the same.
        both: whether a pair gives two rows.
    """

    own: TextEncoder | ChatEncoder
    teachers: TextEncoder | ChatEncoder
    column: str | None
    both: bool
    dtype: ClassVar[np.dtype] = np.dtype(np.int32)
    """Of ids with these bits."""

    @classmethod
    def beside(cls, own: TextEncoder | ChatEncoder, taught: Taught) -> "TaughtEncoder":
        """Put a teacher's tokenizer beside a student's.

        Raises:
            UserError: the teacher's isn't a fast one, or has no chat template where conversations are read.
        """
        teachers: TextEncoder | ChatEncoder
        if isinstance(own, ChatEncoder):
            teachers = ChatEncoder.from_tokenizer(taught.tokenizer, own.max_length)
        else:
            teachers = TextEncoder.from_tokenizer(taught.tokenizer, own.texts, own.max_length)
        return cls(own, teachers, taught.column, taught.column is not None and taught.both)

    @property
    def features(self) -> Features:
        """Those of rows."""
        names = {"input_ids": TAUGHT, ANSWERED: TAUGHT_ANSWERED}
        return Features({**self.own.features, **{names[name]: kind for name, kind in self.teachers.features.items()}})

    @property
    def unknown_id(self) -> int | None:
        """The student's."""
        return self.own.unknown_id

    @property
    def rows(self) -> int:
        """Of a document."""
        return 2 if self.both else 1

    @property
    def added(self) -> int:
        """The student's special tokens of a document."""
        return self.rows * self.own.added

    def identity(self) -> dict[str, Any]:
        """Return what the rows depend on, beside their longest."""
        of_teacher = {"taught": self.teachers.identity(), "column": self.column, "learn_both": self.both}
        return {**self.own.identity(), **of_teacher}

    def split(self, documents: Iterable[Any]) -> Iterator[Any]:
        """Yield the texts, or pairs of texts, that some documents hold."""
        return self.own.split(documents) if self.column is None else nonblank_pairs(documents)

    def packer(self, max_length: int, rest: list[int]) -> WholeRows:
        """Return what makes rows of tokenised documents."""
        return WholeRows(pa.list_(pa.from_numpy_dtype(self.dtype)))

    def ids(self, tokens: np.ndarray) -> np.ndarray:
        """The student's ids, without the bits behind them."""
        return self.own.ids(tokens[tokens % (1 << _BITS) != _TEACHERS] >> _BITS)

    def __call__(self, document: Any) -> Iterator[np.ndarray]:
        """Yield what is read of a document, each (n,) of `dtype`; nothing of one in which the student has no row."""
        text, of_teacher = (document, document) if self.column is None else document
        readings = [(_OWN, self.own, text), (_TEACHERS, self.teachers, of_teacher)]
        for whose, encoder, read in [*readings, *[(_ALSO, self.own, of_teacher)] * self.both]:
            pieces = [*encoder(read)]
            if whose == _OWN and not pieces:
                return
            ids = np.concatenate([*pieces, np.empty(0, self.dtype)]).astype(self.dtype)
            yield (ids << _BITS) + whose

    def columns(self, rows: pa.ListArray) -> list[pa.Array]:
        """The columns of rows, of tokenised documents."""
        count, tokens = len(rows), rows.flatten().to_numpy()
        whose, document = tokens % (1 << _BITS), np.repeat(np.arange(count), rows.value_lengths())

        def reading(wanted: int, dtype: np.dtype) -> pa.ListArray:
            chosen = whose == wanted
            ends = np.bincount(document[chosen], minlength=count).cumsum()
            return pa.ListArray.from_arrays(
                np.append(0, ends).astype(np.int32), (tokens[chosen] >> _BITS).astype(dtype)
            )

        own, teachers = reading(_OWN, self.own.dtype), reading(_TEACHERS, self.teachers.dtype)
        if not self.both:
            return [*self.own.columns(own), *self.teachers.columns(teachers)]
        side_by_side = np.arange(2 * count).reshape(2, count).T.ravel()
        each = pa.concat_arrays([own, reading(_ALSO, self.own.dtype)]).take(pa.array(side_by_side))
        return [each, teachers.take(pa.array(np.arange(count).repeat(2)))]

"""Sentences to look at: of a run's held-out rows, of a text, or typed."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

from tutorkd.data import PackedCorpus
from tutorkd.data.documents import Layout
from tutorkd.data.texts import TextEncoder, Texts, units
from tutorkd.errors import UserError
from tutorkd.evaluation.heldout import evenly_spread, read_text

_ROWS = 2000  # held-out rows that sentences are taken from
_FEWEST_TOKENS = 8  # of a sentence that is chosen; the typed ones may be shorter
MOST_CHARACTERS = 2000


class Sentence(NamedTuple):
    """A text as a row of tokens, and how it is read.

    Attributes:
        input_ids: with the special tokens around it.
        before: how many of these stand before it.
        pieces: the text of each token, with the white space before it; together they are the text.
        words: of each token the number of its word.
    """

    input_ids: list[int]
    before: int
    pieces: list[str]
    words: list[int]


class SentenceReader:
    """Texts to sentences, for models of a tokenizer that read ``max_length`` tokens.

    Raises:
        UserError: the tokenizer isn't a fast one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int):
        self.encoder = TextEncoder.from_tokenizer(tokenizer, Texts("sentence"), max_length)
        self.encoder.backend.encode_special_tokens = True  # "[MASK]" that somebody wrote is text

    def read(self, text: str) -> Sentence:
        """A text as it is.

        Raises:
            UserError: if it holds no token, or more characters or tokens than are looked at.
        """
        most = self.encoder.max_length - self.encoder.added
        if len(text) > MOST_CHARACTERS:
            raise UserError(f"the text has {len(text):,} characters, and {MOST_CHARACTERS:,} are read: shorten it")
        found = self._encoded(text)
        if not found.ids:
            raise UserError("there is no word in the text: write a sentence")
        if len(found.ids) > most:
            raise UserError(f"the text has {len(found.ids)} tokens, and the run's rows hold {most}: shorten it")
        encoder = self.encoder
        ends = np.maximum.accumulate([end for _, end in found.offsets]).tolist()
        ends[-1] = len(text)
        pieces = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        keys = [("in no word", place) if word is None else word for place, word in enumerate(found.word_ids)]
        words = [number for number, (_, group) in enumerate(groupby(keys)) for _ in group]
        return Sentence([*encoder.before, *found.ids, *encoder.behind], len(encoder.before), pieces, words)

    def _encoded(self, text: str) -> Encoding:
        return self.encoder.backend.encode(text, add_special_tokens=False)

    def _beginning(self, text: str) -> str:
        """As much of a text as a row holds."""
        text = text[:MOST_CHARACTERS]
        ends = [end for _, end in self._encoded(text).offsets]
        most = self.encoder.max_length - self.encoder.added
        return text if len(ends) <= most else text[: ends[most - 1]]

    def spread(self, texts: Sequence[str], count: int) -> list[Sentence]:
        """As many of these as there are that aren't too short, spread evenly over them; of long ones the beginnings.

        Raises:
            UserError: if there is none.
        """
        fair = [text for text in texts if len(self._encoded(text[:MOST_CHARACTERS]).ids) >= _FEWEST_TOKENS]
        if not fair:
            raise UserError(f"no sentence of the text has {_FEWEST_TOKENS} tokens: name another with --text")
        return [self.read(self._beginning(text)) for text in evenly_spread(fair, count)]


def sentences_of_files(names: Sequence[str], column: str) -> list[str]:
    """The sentences of files, folders, globs or Hub data sets.

    Raises:
        UserError: if they can't be found or read, or one of them holds no text.
    """
    return list(units(read_text(names, Layout(column)).documents, "sentence"))


def heldout_sentences(corpus: PackedCorpus, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The sentences of the first rows that a run held out.

    Raises:
        UserError: if it held nothing out.
    """
    rows = corpus.heldout
    if not len(rows):
        raise UserError("the run held no text out (--heldout 0): name a text with --text")
    documents = _documents(rows[: min(_ROWS, len(rows))]["input_ids"], tokenizer)
    return list(units((str(tokenizer.decode(ids)) for ids in documents), "sentence"))


def _documents(rows: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    """Documents that run on over rows, without the special tokens that frame rows and part documents."""
    text = (token for row in rows for token in row[1:-1])
    for parts, document in groupby(text, lambda token: token == tokenizer.sep_token_id):
        if not parts:
            yield list(document)

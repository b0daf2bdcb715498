"""What makes rows of documents: packed text, texts that stay apart, those that a teacher reads otherwise, or
conversations."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from tutorkd.data.chats import ChatEncoder
from tutorkd.data.documents import Document, characters
from tutorkd.data.packing import Encoder
from tutorkd.data.taught import TaughtEncoder
from tutorkd.data.texts import TextEncoder, Texts
from tutorkd.errors import UserError

RowEncoder = Encoder | TextEncoder | TaughtEncoder | ChatEncoder

_BEGINNING = 1 << 18  # characters


def encoder_for(
    tokenizer: PreTrainedTokenizerBase, max_length: int, framed: bool, texts: Texts | None, chats: bool
) -> RowEncoder:
    """The encoder that makes rows of documents.

    Args:
        framed: whether rows are a masked model's.
        texts: where each text is a row of its own; of conversations only whether the teacher reads them otherwise.
        chats: whether documents are conversations.

    Raises:
        UserError: the tokenizer doesn't fit, or conversations are for a model that isn't causal.
    """
    if chats and (framed or (texts and not texts.taught)):
        raise UserError(
            "messages_column is for causal language models, which learn from conversations; name a column of text "
            "with text_column"
        )
    encoder: TextEncoder | ChatEncoder
    if chats:
        encoder = ChatEncoder.from_tokenizer(tokenizer, max_length)
    elif texts is not None:
        encoder = TextEncoder.from_tokenizer(tokenizer, texts._replace(taught=None), max_length)
    else:
        return Encoder.from_tokenizer(tokenizer, framed)
    return encoder if texts is None or texts.taught is None else TaughtEncoder.beside(encoder, texts.taught)


def of_chats(encoder: RowEncoder) -> ChatEncoder | None:
    """What makes the student's rows of conversations; None of texts."""
    own = encoder.own if isinstance(encoder, TaughtEncoder) else encoder
    return own if isinstance(own, ChatEncoder) else None


def of_heldout(encoder: RowEncoder) -> RowEncoder:
    """What makes the rows that are held out, of the same tokenised documents: of pairs of texts those in which the
    student reads its own text, so that a figure is of one language.
    """
    return replace(encoder, both=False) if isinstance(encoder, TaughtEncoder) else encoder


def tokenize_batch(encoder: RowEncoder, documents: Sequence[Document]) -> pa.ListArray:
    """Return the ids of documents, a list for each that has a token."""
    pieces, lengths = [np.empty(0, encoder.dtype)], [0]
    for document in documents:
        if found := list(encoder(document)):
            pieces += found
            lengths.append(sum(map(len, found)))
    return pa.ListArray.from_arrays(np.cumsum(lengths, dtype=np.int32), np.concatenate(pieces))


def row_batch(encoder: RowEncoder, rows: pa.ListArray) -> pa.RecordBatch:
    """Rows as an encoder's packer gives them, with the columns that rows have."""
    return pa.record_batch(encoder.columns(rows), schema=encoder.features.arrow_schema)


def unknown_count(encoder: RowEncoder, ids: np.ndarray) -> int:
    """How many of some ids are the tokenizer's unknown token."""
    return 0 if encoder.unknown_id is None else int(np.count_nonzero(ids == encoder.unknown_id))


def unknown_at_beginning(documents: Iterable[Document], encoder: RowEncoder) -> float:
    """Return the share of unknown tokens at the beginning of a corpus, from 0 to 1.

    Args:
        documents: as the encoder splits them.
    """
    tokens = unknown = 0
    left = _BEGINNING
    for document in documents:
        beginning: Any = document[:left] if isinstance(document, str) else document
        for piece in list(encoder(beginning))[:-1]:
            ids = encoder.ids(piece)
            tokens += len(ids)
            unknown += unknown_count(encoder, ids)
        left -= characters(document)
        if left <= 0:
            break
    return unknown / max(1, tokens)

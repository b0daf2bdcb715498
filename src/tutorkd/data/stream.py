"""One corpus, tokenised and packed as it is read, without a copy on disk."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
from datasets import Dataset, IterableDataset

from tutorkd.data.cache import cache_key
from tutorkd.data.cached import PackSettings, heldout_count
from tutorkd.data.documents import Document
from tutorkd.data.encoders import RowEncoder, of_chats, of_heldout, row_batch, tokenize_batch, unknown_at_beginning
from tutorkd.data.packing import require_known
from tutorkd.data.sources import Source, no_text
from tutorkd.data.writer import PackedWriter

STREAM_HELDOUT_DOCUMENTS = 1000
"""Documents held out from the head of a stream; of a stream shorter than twice that, the share asked for."""


@dataclass(frozen=True)
class StreamedPart:
    """The rows of one streamed corpus; how many there are to train on is known at the end of a pass only."""

    train: IterableDataset
    heldout: Dataset
    heldout_documents: int
    unknown_share: float
    digest: str


def streamed_corpus(source: Source, encoder: RowEncoder, settings: PackSettings) -> StreamedPart:
    """Return the rows of a source as a stream, and those of its first documents as the held-out part.

    Raises:
        UserError: the source can't be read, or the head of the stream holds no text or mostly unknown tokens.
    """
    # read again to be packed, not kept: documents may be large
    documents = _with_rows(_documents(source, encoder), encoder)
    count = sum(1 for _ in islice(documents, 2 * STREAM_HELDOUT_DOCUMENTS))
    if not count:
        raise no_text(source)
    unknown_share = unknown_at_beginning(_documents(source, encoder), encoder)
    require_known(source.name, unknown_share)
    held = heldout_count(count, settings.heldout)
    if held and count == 2 * STREAM_HELDOUT_DOCUMENTS:
        held = STREAM_HELDOUT_DOCUMENTS
    heldout = pa.BufferOutputStream()
    with PackedWriter(heldout, of_heldout(encoder), settings.max_length) as rows:
        for document in islice(_with_rows(_documents(source, encoder), encoder), held):
            rows.write(tokenize_batch(encoder, [document]))
    return StreamedPart(
        train=IterableDataset.from_generator(
            _train_rows,
            features=encoder.features,
            gen_kwargs={"source": source, "encoder": encoder, "settings": settings, "skip": held},
        ),
        heldout=Dataset.from_buffer(heldout.getvalue()),
        heldout_documents=held,
        unknown_share=unknown_share,
        digest=cache_key(
            source.identity(streaming=True),
            encoder.identity(),
            settings.identity(source.layout),
            {"heldout": rows.digest},
        ),
    )


def _train_rows(
    source: Source, encoder: RowEncoder, settings: PackSettings, skip: int
) -> Iterator[dict[str, list[int]]]:
    packer = encoder.packer(settings.max_length, [])
    documents = _documents(source, encoder)
    deque(islice(_with_rows(documents, encoder), skip), maxlen=0)
    for document in documents:
        for rows in packer.push(tokenize_batch(encoder, [document])):
            yield from row_batch(encoder, rows).to_pylist()
    yield from row_batch(encoder, packer.flush()).to_pylist()


def _with_rows(documents: Iterable[Document], encoder: RowEncoder) -> Iterator[Document]:
    """Documents without the conversations of which no answer is within a row."""
    chats = of_chats(encoder)
    return (document for document in documents if chats is None or [*chats(document)])


def _documents(source: Source, encoder: RowEncoder) -> Iterator[Document]:
    return encoder.split(source.stream())

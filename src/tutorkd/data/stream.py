"""One corpus, tokenised and packed as it is read, without a copy on disk."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice

import numpy as np
from datasets import Dataset, IterableDataset

from tutorkd.data.cache import cache_key
from tutorkd.data.cached import PackSettings, heldout_count
from tutorkd.data.packing import TOKEN_LISTS, Encoder, RowPacker, nonblank
from tutorkd.data.readers import batches
from tutorkd.data.sources import Source, no_text

STREAM_HELDOUT_DOCUMENTS = 1000
"""Documents held out from the head of a stream; of a stream shorter than twice that, the share asked for."""

_CHARACTERS_PER_BATCH = 1 << 16


@dataclass(frozen=True)
class StreamedPart:
    """The rows of one streamed corpus; how many there are to train on is known at the end of a pass only."""

    train: IterableDataset
    heldout: Dataset
    heldout_documents: int
    digest: str


def streamed_corpus(source: Source, encoder: Encoder, settings: PackSettings) -> StreamedPart:
    """Return the rows of a source as a stream, and those of its first documents as the held-out part.

    Raises:
        UserError: the source can't be read, or no document at the head of the stream holds text.
    """
    head = list(islice(nonblank(source.stream(settings.text_column)), 2 * STREAM_HELDOUT_DOCUMENTS))
    if not head:
        raise no_text(source.name)
    held = heldout_count(len(head), settings.heldout)
    if held and len(head) == 2 * STREAM_HELDOUT_DOCUMENTS:
        held = STREAM_HELDOUT_DOCUMENTS
    heldout = [row["input_ids"] for row in _rows(iter(head[:held]), encoder, settings.max_length)]
    return StreamedPart(
        train=IterableDataset.from_generator(
            _train_rows,
            features=TOKEN_LISTS,
            gen_kwargs={"source": source, "encoder": encoder, "settings": settings, "skip": held},
        ),
        heldout=Dataset.from_dict({"input_ids": heldout}, features=TOKEN_LISTS),
        heldout_documents=held,
        digest=cache_key(
            source.identity(streaming=True), encoder.identity(), asdict(settings), {"heldout_rows": heldout}
        ),
    )


def _train_rows(source: Source, encoder: Encoder, settings: PackSettings, skip: int) -> Iterator[dict[str, list[int]]]:
    documents = islice(nonblank(source.stream(settings.text_column)), skip, None)
    return _rows(documents, encoder, settings.max_length)


def _rows(documents: Iterator[str], encoder: Encoder, max_length: int) -> Iterator[dict[str, list[int]]]:
    packer = RowPacker(encoder, max_length)
    for batch in batches(documents, _CHARACTERS_PER_BATCH):
        for ids in encoder(batch):
            for row in packer.push(np.array(ids, np.int32)):
                yield {"input_ids": row.tolist()}
    for row in packer.flush():
        yield {"input_ids": row.tolist()}

"""A corpus cut into shards, each of which is read, tokenised and packed by itself.

Where the cuts are depends on the corpus alone, so that the rows are the same whoever reads which shard, and when.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from datasets import Dataset

from tutorkd.data.documents import Document, Layout
from tutorkd.data.readers import field_inside, kind_of_file, open_parquet, read_documents

BYTES_PER_SHARD = 1 << 23
"""Bytes of text from which on a shard ends: seconds of tokenising, which is what a killed process loses."""

_CUT_AT_LINES = {".txt", ".jsonl", ".json"}
_DOCUMENTS_PER_READ = 64

Part = tuple[Path, range | None]


@dataclass(frozen=True)
class Shard:
    """Documents that follow one another in a corpus.

    Attributes:
        size: bytes that are read, about.
        read: yields them in order.
    """

    size: int
    read: Callable[[], Iterator[Document]]


def cut_files(files: Sequence[Path], layout: Layout) -> list[Shard]:
    """Return the shards of some files: many small files, a part of a large one, or what lies between.

    Plain txt and jsonl are cut at lines, parquet between row groups; what is compressed, and csv, in which a line end
    may be within a field, is read whole.
    """
    shards: list[Shard] = []
    parts: list[Part] = []
    size = 0

    def close() -> None:
        shards.append(Shard(size, partial(_read_parts, tuple(parts), layout)))

    for file in files:
        for span, length in _spans(file):
            last, before = parts[-1] if parts else (None, None)
            if last == file and span and before:
                parts[-1] = file, range(before.start, span.stop)
            else:
                parts.append((file, span))
            size += length
            if size >= BYTES_PER_SHARD:
                close()
                parts, size = [], 0
    if parts:
        close()
    return shards


def cut_rows(texts: Dataset, places: Sequence[Sequence[str]], layout: Layout) -> list[Shard]:
    """Return the shards of a data set.

    Args:
        places: of each column that is read, its name and, where it is inside others, theirs before it.
    """
    count = max(1, -(-texts.data.nbytes // BYTES_PER_SHARD))
    borders = [len(texts) * number // count for number in range(count + 1)]
    return [
        Shard(texts.data.nbytes // count, partial(_read_rows, texts, range(*rows), places, layout))
        for rows in pairwise(borders)
    ]


def _spans(file: Path) -> list[tuple[range | None, int]]:
    """The parts that a file can be read in, with the bytes of each."""
    kind = kind_of_file(file)
    if kind == ".parquet":
        with open_parquet(file) as parquet:
            groups = range(parquet.num_row_groups)
            return [(range(group, group + 1), parquet.metadata.row_group(group).total_byte_size) for group in groups]
    size = file.stat().st_size
    if kind in _CUT_AT_LINES and kind == file.suffix.lower():  # else it is compressed
        starts = range(0, size, BYTES_PER_SHARD)
        spans = [range(start, min(start + BYTES_PER_SHARD, size)) for start in starts]
        return [(span, len(span)) for span in spans]
    return [(None, size)]


def _read_parts(parts: Sequence[Part], layout: Layout) -> Iterator[Document]:
    for file, span in parts:
        yield from read_documents(file, layout, span)


def _read_rows(texts: Dataset, rows: range, places: Sequence[Sequence[str]], layout: Layout) -> Iterator[Document]:
    for table in texts.select(rows).with_format("arrow").iter(_DOCUMENTS_PER_READ):
        values = [field_inside(table.column(name), inner).to_pylist() for name, *inner in places]
        yield from map(layout.document, zip(*values, strict=True))

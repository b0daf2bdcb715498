"""One corpus, tokenised and packed once and from then on mapped from the cache.

Shard by shard: some processes tokenise each its shard into a file of token ids, and this process, which alone knows
what came before, packs one such file after the other into the rows, in the order of the shards. After each it notes how
far the rows are and removes the tokens. A row may begin in one shard and end in another, so that rows don't depend on
where shards end; which documents are held out does, being drawn shard by shard.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets.utils import tqdm

from tutorkd.data.cache import build_once, cache_key, kept
from tutorkd.data.documents import Layout, batches
from tutorkd.data.encoders import RowEncoder, of_heldout, tokenize_batch, unknown_count
from tutorkd.data.packing import require_known
from tutorkd.data.shards import Shard
from tutorkd.data.sources import Source, no_text
from tutorkd.data.workers import in_order
from tutorkd.data.writer import PackedWriter
from tutorkd.errors import UserError
from tutorkd.files import flush, write_text

_FORMAT = 5  # raise it when the same settings come to give other rows, or the same as another type
_CHARACTERS_PER_BATCH = 1 << 20


@dataclass(frozen=True)
class PackSettings:
    """What the rows depend on besides the data and the tokenizer."""

    max_length: int
    heldout: float
    seed: int

    def identity(self, layout: Layout) -> dict[str, Any]:
        """Return these, with the column of the documents."""
        tools = {} if layout.tools is None else {"tools_column": layout.tools}
        return {**asdict(self), "text_column": layout.column, **tools}


@dataclass(frozen=True)
class PackedPart:
    """The rows of one corpus, and their counts."""

    train: Dataset
    heldout: Dataset
    documents: int
    heldout_documents: int
    tokens: int
    unknown: int
    digest: str
    path: Path
    reused: bool


def cached_corpus(
    source: Source, encoder: RowEncoder, settings: PackSettings, cache: Path, num_proc: int | None
) -> PackedPart:
    """Return the packed rows of a source, from the folder `cache` if they are there.

    Raises:
        UserError: the source can't be read, changes meanwhile, holds no text or mostly unknown tokens; the cache
            can't be written, or is damaged; or a process was killed.
    """
    identity = source.identity(streaming=False)
    folder = cache / cache_key({"format": _FORMAT}, identity, encoder.identity(), settings.identity(source.layout))

    def build(new: Path, scratch: Path) -> None:
        _build(source, encoder, settings, num_proc, new, scratch)
        if source.identity(streaming=False) != identity:
            raise UserError(
                f"corpus {source.name!r} changed while it was read; try again once its files stay as they are"
            )

    try:
        reused = build_once(folder, build)
    except BrokenProcessPool as error:
        raise UserError(
            f"corpus {source.name!r}: a process that tokenised it was killed, perhaps because memory ran short; the "
            "same command continues with the rest, and a lower --num_proc needs less memory"
        ) from error
    with kept(folder):
        counts = json.loads((folder / "corpus.json").read_text())["counts"]
        train, heldout = (Dataset.from_file(str(folder / f"{split}.arrow")) for split in ("train", "heldout"))
        return PackedPart(train, heldout, **counts, path=folder, reused=reused)


@dataclass
class _Progress:
    """How far the rows of a corpus are: whole shards, and what has to be known of them to go on."""

    shards: int = 0
    documents: int = 0
    heldout_documents: int = 0
    tokens: int = 0
    unknown: int = 0
    train: dict[str, Any] | None = None
    heldout: dict[str, Any] | None = None


def heldout_count(documents: int, share: float) -> int:
    """Return how many of some documents are held out: none of one, else at least one, and never all."""
    return min(documents - 1, max(1, round(documents * share))) if share > 0 and documents > 1 else 0


def _build(
    source: Source, encoder: RowEncoder, settings: PackSettings, num_proc: int | None, new: Path, scratch: Path
) -> None:
    shards = source.shards()
    for partial_file in scratch.glob(".*"):  # of processes that were killed
        partial_file.unlink()
    note = scratch / "progress.json"
    progress = _Progress(**json.loads(note.read_text())) if note.exists() else _Progress()
    left = range(progress.shards, len(shards))
    with (
        PackedWriter.resumed(new / "train.arrow", encoder, settings.max_length, progress.train) as train,
        PackedWriter.resumed(
            new / "heldout.arrow", of_heldout(encoder), settings.max_length, progress.heldout
        ) as heldout,
        _bar(shards, progress.shards) as bar,
    ):
        tokenize = partial(_tokenize, shards, encoder, scratch)
        for number in in_order(tokenize, left, min(num_proc or _cpus(), len(left))):
            tokens = _tokens(scratch, number)
            _pack(tokens, encoder, settings, train, heldout, progress)
            progress.train, progress.heldout = train.keep(), heldout.keep()
            write_text(note, json.dumps(asdict(progress)))
            tokens.unlink()
            bar.update(shards[number].size)
        if not progress.documents:
            raise no_text(source)
        require_known(source.name, progress.unknown / progress.tokens)
    counts = {name: getattr(progress, name) for name in ("documents", "heldout_documents", "tokens", "unknown")}
    counts["digest"] = cache_key({"train": train.digest, "heldout": heldout.digest})
    (new / "corpus.json").write_text(json.dumps({"source": source.name, "counts": counts}))


def _bar(shards: Sequence[Shard], done: int) -> tqdm:
    sizes = [shard.size for shard in shards]
    return tqdm(total=sum(sizes), initial=sum(sizes[:done]), desc="Tokenizing", unit="B", unit_scale=True)


def _tokens(scratch: Path, number: int) -> Path:
    return scratch / f"{number}.arrow"


def _tokenize(shards: Sequence[Shard], encoder: RowEncoder, scratch: Path, number: int) -> None:
    """Write the token ids of a shard's documents, unless they are there: a list each, which a separator closes."""
    path = _tokens(scratch, number)
    if path.exists():
        return
    partial = scratch / f".{number}.{os.getpid()}"
    schema = pa.schema([("ids", pa.list_(pa.from_numpy_dtype(encoder.dtype)))])
    with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for some in batches(encoder.split(shards[number].read()), _CHARACTERS_PER_BATCH):
            writer.write_batch(pa.record_batch([tokenize_batch(encoder, some)], schema=schema))
    flush(partial)
    partial.rename(path)


def _pack(
    path: Path,
    encoder: RowEncoder,
    settings: PackSettings,
    train: PackedWriter,
    heldout: PackedWriter,
    progress: _Progress,
) -> None:
    """Write the documents of the next shard, from its file of tokens, and count them; tokens without separators.

    As many are held out as make the share right for all documents so far.
    """
    with pa.memory_map(str(path)) as file:
        documents = sum(batch.num_rows for batch in pa.ipc.open_stream(file))
    held = heldout_count(progress.documents + documents, settings.heldout) - progress.heldout_documents
    drawn = np.random.default_rng([settings.seed, progress.shards])  # with a 0 behind it the seed is as if alone
    is_held = np.zeros(documents, bool)
    is_held[drawn.choice(documents, held, replace=False, shuffle=False)] = True
    first = 0
    with pa.OSFile(str(path)) as file:
        for batch in pa.ipc.open_stream(file):
            chosen = is_held[first : first + batch.num_rows]
            for rows, part in ((train, ~chosen), (heldout, chosen)):
                written = batch.column(0).filter(pa.array(part))
                rows.write(written)
                ids = encoder.ids(written.flatten().to_numpy())
                progress.tokens += len(ids)
                progress.unknown += unknown_count(encoder, ids)
            first += batch.num_rows
    progress.shards += 1
    progress.tokens -= documents * encoder.added
    progress.documents += documents
    progress.heldout_documents += held


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

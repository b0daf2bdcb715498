"""One corpus, tokenised and packed once and from then on mapped from the cache."""

import json
import os
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets.utils import tqdm

from tutorkd.data.cache import build_once, cache_key
from tutorkd.data.packing import Encoder, PackedWriter, nonblank, require_known
from tutorkd.data.sources import Source, no_text

_FORMAT = 3  # raise it when the same settings come to give other rows, or the same as another type
_BYTES_PER_WORKER = 8 << 20  # text that keeps one process busy for seconds; below, starting it costs more
_BYTES_PER_BATCH = 1 << 20


@dataclass(frozen=True)
class PackSettings:
    """What the rows depend on besides the data and the tokenizer."""

    max_length: int
    text_column: str
    heldout: float
    seed: int


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
    source: Source, encoder: Encoder, settings: PackSettings, cache: Path, num_proc: int | None
) -> PackedPart:
    """Return the packed rows of a source, from the folder `cache` if they are there.

    Raises:
        UserError: the source can't be read, holds no text or mostly unknown tokens, or the cache can't be written.
    """
    key = cache_key({"format": _FORMAT}, source.identity(streaming=False), encoder.identity(), asdict(settings))
    folder = cache / key
    reused = build_once(folder, partial(_build, source, encoder, settings, num_proc))
    counts = json.loads((folder / "corpus.json").read_text())["counts"]
    train, heldout = (Dataset.from_file(str(folder / f"{split}.arrow")) for split in ("train", "heldout"))
    return PackedPart(train, heldout, **counts, path=folder, reused=reused)


def heldout_count(documents: int, share: float) -> int:
    """Return how many of some documents are held out: none of one, else at least one, and never all."""
    return min(documents - 1, max(1, round(documents * share))) if share > 0 and documents > 1 else 0


def _build(
    source: Source, encoder: Encoder, settings: PackSettings, num_proc: int | None, new: Path, scratch: Path
) -> None:
    texts = source.load(settings.text_column, scratch)
    documents = _tokenize(texts, encoder, num_proc, scratch / "tokens.arrow") if len(texts) else texts
    if not len(documents):
        raise no_text(source.name)
    held = heldout_count(len(documents), settings.heldout)
    chosen = np.random.default_rng(settings.seed).choice(len(documents), held, replace=False, shuffle=False)
    counts = _pack(documents, np.sort(chosen), encoder, settings.max_length, new)
    require_known(source.name, counts["unknown"] / counts["tokens"])
    counts |= {"documents": len(documents), "heldout_documents": held}
    (new / "corpus.json").write_text(json.dumps({"source": source.name, "counts": counts}))


def _tokenize(texts: Dataset, encoder: Encoder, num_proc: int | None, path: Path) -> Dataset:
    if num_proc is None:
        num_proc = min(_cpus(), texts.data.nbytes // _BYTES_PER_WORKER)
    num_proc = min(num_proc, len(texts))
    try:
        return texts.with_format("arrow").map(
            partial(_tokenize_batch, encoder),
            batched=True,
            batch_size=_batch_size(texts),
            features=encoder.features,
            cache_file_name=str(path),
            load_from_cache_file=False,
            new_fingerprint="tokens",  # spares hashing the tokenizer; the cache's own key has it
            num_proc=num_proc if num_proc > 1 else None,
            desc="Tokenizing",
        )
    except Exception as error:
        # an interruption comes out of `map` as the time-out of the workers that it was waiting for
        if error.__context__ is None or isinstance(error.__context__, Exception):
            raise
        raise error.__context__ from None


def _tokenize_batch(encoder: Encoder, texts: pa.Table) -> pa.Table:
    pieces, lengths = [np.empty(0, encoder.dtype)], [0]
    for text in nonblank(value.as_py() for value in texts["text"]):
        if document := list(encoder(text)):
            pieces += document
            lengths.append(sum(map(len, document)))
    offsets = np.cumsum(lengths, dtype=np.int32)
    return pa.table({"input_ids": pa.ListArray.from_arrays(offsets, np.concatenate(pieces))})


def _pack(documents: Dataset, heldout: np.ndarray, encoder: Encoder, max_length: int, folder: Path) -> dict[str, Any]:
    """Write train.arrow and heldout.arrow; return the tokens, those unknown (no separators), and a digest."""
    tokens = unknown = first = 0
    with (
        PackedWriter(pa.OSFile(str(folder / "train.arrow"), "wb"), encoder, max_length) as train_rows,
        PackedWriter(pa.OSFile(str(folder / "heldout.arrow"), "wb"), encoder, max_length) as heldout_rows,
        tqdm(total=len(documents), desc="Packing", unit=" documents") as bar,
    ):
        for table in documents.with_format("arrow").iter(_batch_size(documents)):
            batch = table["input_ids"].combine_chunks()
            begin, end = np.searchsorted(heldout, [first, first + len(batch)])
            held = np.zeros(len(batch), bool)
            held[heldout[begin:end] - first] = True
            for rows, chosen in ((train_rows, ~held), (heldout_rows, held)):
                ids = batch.filter(pa.array(chosen)).flatten().to_numpy()
                rows.write(ids)
                tokens += len(ids)
                unknown += encoder.unknown(ids)
            first += len(batch)
            bar.update(len(batch))
    digest = cache_key({"train": train_rows.digest, "heldout": heldout_rows.digest})
    return {"tokens": tokens - len(documents), "unknown": unknown, "digest": digest}


def _batch_size(dataset: Dataset) -> int:
    """Documents that make a batch of about a mebibyte, be they sentences or books."""
    return max(1, _BYTES_PER_BATCH * len(dataset) // max(1, dataset.data.nbytes))


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

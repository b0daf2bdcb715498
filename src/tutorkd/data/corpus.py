"""Corpora as rows of token ids: `prepare_corpus`."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
from datasets import Dataset, IterableDataset, concatenate_datasets, interleave_datasets
from transformers import PreTrainedTokenizerBase

from tutorkd.data.cache import cache_key, cache_root
from tutorkd.data.cached import PackedPart, PackSettings, cached_corpus
from tutorkd.data.chats import ChatEncoder
from tutorkd.data.documents import Layout
from tutorkd.data.encoders import encoder_for, of_chats, unknown_at_beginning
from tutorkd.data.estimate import estimated_rows
from tutorkd.data.packing import require_known
from tutorkd.data.sources import GivenRows, LocalFiles, Source, resolve_source
from tutorkd.data.stream import StreamedPart, streamed_corpus
from tutorkd.data.texts import Texts
from tutorkd.data.writer import ROWS_PER_BATCH
from tutorkd.errors import UserError, kind_of

SourceName = str | os.PathLike[str]
Given: TypeAlias = SourceName | Dataset

SHORTEST_ROW = 8
STREAM_SHUFFLE_ROWS = 10_000
"""Rows in the buffer from which a streamed row is drawn at random."""

_MOST_MIXED_ROWS = 1 << 31
_CONVERSATIONS_LOOKED_AT = 200
_NOTABLE = 0.01  # share of conversations that are left out, above which it is told


@dataclass(frozen=True)
class CorpusCounts:
    """What is known of one corpus; `None` where a stream tells it at its end only.

    Attributes:
        source: the name it was given by.
        documents: documents that hold text, held-out ones included.
        heldout_documents: documents held out.
        tokens: tokens of text, held-out ones included, special tokens not counted.
        unknown_share: share of the tokens of text that are the tokenizer's unknown token, from 0 to 1; of a
            stream, at its beginning.
        train_rows: packed rows to train on, before any weighting.
        heldout_rows: packed rows held out.
        cache_path: the folder of its rows.
        reused: whether that folder was there before this call.
        notice: which files of a folder or glob were left out, in a line; `None` if all were read.
        digest: 20 hexadecimal digits that differ where the rows, their order or what is held out do. Of a stream
            they stand for what is known without reading all of it: the files' paths, sizes and times of change
            (or the Hub data set's name and declared size), the settings, and the rows held out.
    """

    source: str
    documents: int | None
    heldout_documents: int
    tokens: int | None
    unknown_share: float
    train_rows: int | None
    heldout_rows: int
    cache_path: Path | None
    reused: bool
    notice: str | None
    digest: str


@dataclass(frozen=True)
class PackedCorpus:
    """Rows of token ids, `input_ids` of at most `max_length`, and the counts of each corpus.

    Ids are uint16 if the tokenizer has none above 65,535, else int32.

    Attributes:
        train: rows to train on, in the order of the documents; if streamed, an `IterableDataset` that
            shuffles them.
        heldout: rows of documents that aren't in `train`; empty if nothing was held out.
        corpora: one entry for each source, in their order.
        digest: 20 hexadecimal digits for all rows in their order: those of `corpora`, and how they are mixed.
    """

    train: Dataset | IterableDataset
    heldout: Dataset
    corpora: tuple[CorpusCounts, ...]
    digest: str

    @property
    def documents(self) -> int | None:
        """Documents of all corpora, `None` if streamed."""
        return _total([corpus.documents for corpus in self.corpora])

    @property
    def tokens(self) -> int | None:
        """Tokens of text of all corpora, `None` if streamed."""
        return _total([corpus.tokens for corpus in self.corpora])


def prepare_corpus(
    sources: Given | Sequence[Given],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int = 128,
    text_column: str = "text",
    weights: Sequence[float] | None = None,
    heldout: float = 0.01,
    split: str = "train",
    revision: str | Sequence[str] | None = None,
    data_files: str | Sequence[str] | None = None,
    num_proc: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    streaming: bool = False,
    seed: int = 42,
    framed: bool = True,
    texts: Texts | None = None,
    lines: bool = False,
    messages_column: str | None = None,
    tools_column: str | None = None,
) -> PackedCorpus:
    """Tokenise corpora and pack them into rows without padding.

    A row is the cls token, `max_length` - 2 tokens of text, and the sep token. The text is the documents of one
    corpus in their order, with a sep token between two. No token is dropped, and only the last row of a corpus (and
    of its held-out part) is shorter. Blank documents are skipped, and so is white space around a document. A document
    may be as long as fits into memory as text. It is tokenised in parts, which gives the same ids (except in words of
    thousands of characters, where ids may differ near the place where two parts meet).

    Rows are kept on disk and memory-mapped, corpus by corpus, under a key made of the data (for local files: path,
    size and time of change), the tokenizer and the settings, so a second call reads no text. They are made shard by
    shard. A shard is some megabytes of text that one process tokenises, so the memory doesn't depend on the size of
    the text (but a compressed or csv file is one shard, and so is a row group of parquet). Rows continue across the
    borders of shards. If a run is killed, its finished shards stay, and the same call continues after them and gives
    the same rows. If several runs want the same rows, one makes them while the others wait; on a file system that
    several machines share this needs locks (`flock`) that work between them.

    Streaming reads, tokenises and packs the text during training and keeps nothing on disk. In exchange, the first
    `STREAM_HELDOUT_DOCUMENTS` documents are held out instead of the share (unless there are fewer than twice as many);
    rows aren't shuffled as a whole, but drawn from a buffer of `STREAM_SHUFFLE_ROWS`, in another order each epoch
    (`set_epoch`); to resume, the text up to that point must be read again; only the first data loader worker reads, so
    that the rows are the same for any number of workers; and there are no counts.

    Args:
        sources: one name or several, each a txt, jsonl (json with one object a line) or csv file, all of them also
            compressed (.gz, .bz2, .zst), a parquet file, a folder of such files, a glob, or a Hub data set `name` or
            `name:config`. Each row is a document; in txt, blank lines separate documents, and a document of more than
            a million characters is cut at a line end.
            Instead of a name you can give a `datasets.Dataset` with a column of text.
        tokenizer: a fast tokenizer with a cls and a sep token. Special tokens' names in the text are text.
        max_length: tokens in a row, cls and sep included; at least 8, at most `tokenizer.model_max_length`.
        text_column: the column that holds the text, for all sources but txt; in jsonl and parquet files and Hub data
            sets `a.b` is the column `b` inside `a`.
        weights: shares, in any unit, of the rows from each corpus. Each row of one corpus is then there once, and rows
            of the others are repeated until they have their shares; from streams, rows are drawn at random in these
            shares until each has been drawn once. The corpora follow one another, also with weights; the trainers
            read the rows in a random order.
        heldout: share of the documents of each corpus that is held out, from 0 to below 1, drawn at random from
            each shard. If it isn't 0, at least one document is held out of two or more.
        split: the split of Hub data sets.
        revision: a branch, tag or commit of Hub data sets, one for all or a sequence of one for each source; "" is
            the main branch.
        data_files: a path or glob of files in a Hub data set, which are then its split train; one for all or one for
            each source, and "" for the files that the data set names itself.
        num_proc: processes that tokenise; by default, one for each processor, and none beside this one for a
            corpus of a single shard. It doesn't change the rows.
        cache_dir: where rows are kept; by default `$TUTORKD_CACHE`, or else `~/.cache/tutorkd`.
        streaming: read the text during training.
        seed: of the choice of held-out documents, and of the order and the mix of streamed rows.
        framed: whether a cls token begins and a sep token ends each row. If not, as for causal models, a row
            is `max_length` tokens of text, an eos token closes each document, and a bos token begins it if the
            tokenizer puts one before a text; neither cls nor sep token is needed.
        texts: pack nothing: each document, or each line or sentence, is a row of its own, with the special tokens that
            the tokenizer puts around a text, and is cut to `max_length` tokens. Each then counts as a document, also
            for what is held out.
        lines: whether each line of a txt file is a document.
        messages_column: the column of conversations, in the place of text, for a causal model (`framed=False`): lists
            of messages with `role` and `content`, in jsonl, parquet, a Hub data set or a `Dataset`. Each is a row: the
            tokenizer's chat template filled in, cut to `max_length` tokens. A second column of rows,
            `assistant_masks`, is 1 on the tokens of the answers and 0 on others. A conversation of which no answer is
            within a row is left out.
        tools_column: the column of the tools that the assistant could call, which the template writes: lists of JSON
            schemas, or these as JSON.

    Raises:
        UserError: a source that isn't there or can't be read or unpacked, isn't UTF-8, has no text column of that name
            or no text at all, or is mostly unknown to the tokenizer (more than half of the tokens; of a stream, at
            its beginning); settings out of range; an unfit tokenizer; a full disk; a process that tokenised was killed.

    Example:
        The files in the folder "my_text" hold sixty documents, and a model with its tokenizer lies in "teacher".

        >>> from transformers import AutoTokenizer
        >>> from tutorkd import prepare_corpus
        >>> corpus = prepare_corpus("my_text/", AutoTokenizer.from_pretrained("teacher"), max_length=16)
        >>> corpus.documents, corpus.corpora[0].documents
        (60, 60)
        >>> len(corpus.train[0]["input_ids"]), len(corpus.heldout) > 0
        (16, True)
    """
    names = _names(sources)
    _check(names, tokenizer, max_length, weights, heldout, num_proc, texts)
    layout = _layout(text_column, messages_column, tools_column, lines, texts)
    encoder = encoder_for(tokenizer, max_length, framed, texts, layout.chats)
    settings = PackSettings(max_length, heldout, seed)
    resolved = _resolved(names, split, revision, data_files, layout)
    if streaming:
        streams = [streamed_corpus(source, encoder, settings) for source in resolved]
        return PackedCorpus(
            train=_mixed_stream(streams, weights, seed).shuffle(seed, buffer_size=STREAM_SHUFFLE_ROWS),
            heldout=concatenate_datasets([part.heldout for part in streams]),
            corpora=tuple(
                CorpusCounts(
                    source=source.name,
                    documents=None,
                    heldout_documents=part.heldout_documents,
                    tokens=None,
                    unknown_share=part.unknown_share,
                    train_rows=None,
                    heldout_rows=len(part.heldout),
                    cache_path=None,
                    reused=False,
                    notice=source.notice,
                    digest=part.digest,
                )
                for source, part in zip(resolved, streams, strict=True)
            ),
            digest=_digest(streams, weights),
        )
    cache = cache_root(cache_dir)
    parts = [cached_corpus(source, encoder, settings, cache, num_proc) for source in resolved]
    return PackedCorpus(
        train=_mixed(parts, weights),
        heldout=concatenate_datasets([part.heldout for part in parts]),
        corpora=tuple(
            CorpusCounts(
                source=source.name,
                documents=part.documents,
                heldout_documents=part.heldout_documents,
                tokens=part.tokens,
                unknown_share=part.unknown / part.tokens,
                train_rows=len(part.train),
                heldout_rows=len(part.heldout),
                cache_path=part.path,
                reused=part.reused,
                notice=source.notice,
                digest=part.digest,
            )
            for source, part in zip(resolved, parts, strict=True)
        ),
        digest=_digest(parts, weights),
    )


def check_corpus(
    sources: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    text_column: str,
    weights: Sequence[float] | None,
    heldout: float,
    split: str,
    revision: Sequence[str] | None,
    data_files: Sequence[str] | None,
    num_proc: int | None,
    framed: bool = True,
    texts: Texts | None = None,
    lines: bool = False,
    messages_column: str | None = None,
    tools_column: str | None = None,
) -> list[str]:
    """Refuse what `prepare_corpus` would refuse after a look at the settings and the beginning of each local file.

    Returns:
        Of each folder or glob of which files are left out, a line that says which; and one of each local corpus of
        which conversations at the beginning are left out, having no answer that is within a row.

    Raises:
        UserError: as `prepare_corpus`. Whether a data set is on the Hub, and what it holds, isn't asked.
    """
    _check(sources, tokenizer, max_length, weights, heldout, num_proc, texts)
    layout = _layout(text_column, messages_column, tools_column, lines, texts)
    encoder = encoder_for(tokenizer, max_length, framed, texts, layout.chats)
    resolved = _resolved(sources, split, revision, data_files, layout)
    for source in resolved:
        source.check()
        if isinstance(source, LocalFiles):
            require_known(source.name, unknown_at_beginning(encoder.split(source.stream()), encoder))
    told = [f"{source.name}: {source.notice}" for source in resolved if source.notice]
    if (chats := of_chats(encoder)) is not None:
        local = [source for source in resolved if isinstance(source, LocalFiles)]
        told += filter(None, (_left_out(source, chats) for source in local))
    return told


def _left_out(source: LocalFiles, encoder: ChatEncoder) -> str:
    """What is told of the first conversations of a corpus if no answer of some is within a row."""
    first = [*islice(encoder.split(source.stream()), _CONVERSATIONS_LOOKED_AT)]
    without = sum(not [*encoder(conversation)] for conversation in first)
    if without <= len(first) * _NOTABLE:
        return ""
    return (
        f"{source.name}: of the first {len(first)} conversations {without} are left out, in which the assistant says "
        f"nothing within {encoder.max_length} tokens; a larger --max_length may take them"
    )


def expected_rows(
    sources: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    text_column: str,
    heldout: float,
    split: str,
    framed: bool,
    texts: Texts | None,
    lines: bool,
    messages_column: str | None = None,
    tools_column: str | None = None,
) -> float | None:
    """About how many rows of local files `prepare_corpus` gives to train on, from parts of them; None of the Hub's.

    Raises:
        UserError: as `prepare_corpus`, for what is found in these parts.
    """
    layout = _layout(text_column, messages_column, tools_column, lines, texts)
    encoder = encoder_for(tokenizer, max_length, framed, texts, layout.chats)
    resolved = [resolve_source(name, split, layout=layout) for name in sources]
    local = [source for source in resolved if isinstance(source, LocalFiles)]
    counts = [estimated_rows(source.shards(), encoder, max_length) for source in local]
    known = [count for count in counts if count is not None]
    return sum(known) * (1 - heldout) if len(known) == len(resolved) else None


def _names(sources: Given | Sequence[Given]) -> list[str | Dataset]:
    given = [sources] if isinstance(sources, str | os.PathLike | Dataset) else sources
    for name in given if isinstance(given, Sequence) else [given]:
        if not isinstance(name, str | os.PathLike | Dataset):
            raise UserError(
                "a corpus is the name of a file, a folder, a glob or a Hub data set, or a datasets.Dataset, not "
                f"{kind_of(name)}; give one split of a DatasetDict, or write other data to a file and name that"
            )
        if isinstance(name, Dataset) and name.format["type"] == "custom":
            raise UserError("a Dataset's transform isn't applied to the text that is read: use map in its place")
    return [name if isinstance(name, Dataset) else os.fspath(name) for name in given]


def _layout(
    text_column: str, messages_column: str | None, tools_column: str | None, lines: bool, texts: Texts | None
) -> Layout:
    """Where the documents are.

    Raises:
        UserError: for tools without conversations.
    """
    if tools_column is not None and messages_column is None:
        raise UserError("tools_column is for conversations: name their column with messages_column")
    beside = texts.taught.column if texts and texts.taught else None
    return Layout(messages_column or text_column, lines, messages_column is not None, beside, tools_column)


def _resolved(
    names: Sequence[str | Dataset],
    split: str,
    revision: str | Sequence[str] | None,
    data_files: str | Sequence[str] | None,
    layout: Layout,
) -> list[Source]:
    revisions, files = _each(names, revision, "revisions"), _each(names, data_files, "data files")
    return [
        GivenRows(name, layout) if isinstance(name, Dataset) else resolve_source(name, split, commit, chosen, layout)
        for name, commit, chosen in zip(names, revisions, files, strict=True)
    ]


def _each(names: Sequence[str | Dataset], given: str | Sequence[str] | None, what: str) -> list[str | None]:
    """What is given for each name; `None` where that is nothing."""
    values = [given or ""] if isinstance(given, str | None) else given
    if len(values) not in (1, len(names)):
        raise UserError(f"{len(values)} {what} for {len(names)} corpora; give one for all, or one for each")
    return [value or None for value in (values if len(values) > 1 else [*values] * len(names))]


def _check(
    sources: Sequence[str | Dataset],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    weights: Sequence[float] | None,
    heldout: float,
    num_proc: int | None,
    texts: Texts | None,
) -> None:
    if not sources:
        raise UserError("no corpus given; name a file, a folder, a glob or a Hub data set")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UserError(f"a tokenizer is needed, AutoTokenizer.from_pretrained(...), not {kind_of(tokenizer)}")
    if not isinstance(max_length, int):
        raise UserError(f"max_length {max_length} is not a whole number of tokens")
    if max_length < SHORTEST_ROW:
        raise UserError(f"max_length {max_length} is too short for a row; use {SHORTEST_ROW} or more")
    readers = [tokenizer, *([texts.taught.tokenizer] if texts and texts.taught else [])]
    limit = min(each.model_max_length for each in readers)  # a huge number where no tokenizer knows
    if max_length > limit:
        raise UserError(
            f"max_length {max_length} is more than the {limit} tokens that the model reads; use {limit} or less"
        )
    if not 0 <= heldout < 1:
        raise UserError(f"heldout {heldout} is not a share of the documents; use a number from 0 to below 1")
    if num_proc is not None and num_proc < 1:
        raise UserError(f"num_proc {num_proc} is not a number of processes; use 1 or more")
    if weights is not None:
        if len(weights) != len(sources):
            raise UserError(f"{len(weights)} weights for {len(sources)} corpora; give one for each, or none")
        if not all(math.isfinite(weight) and weight > 0 for weight in weights):
            raise UserError(f"weights {', '.join(map(str, weights))}: each must be a number above 0")


def _mixed(parts: Sequence[PackedPart], weights: Sequence[float] | None) -> Dataset:
    """The rows of all parts, by weights some of them several times: views, of which a block is kept, not a row."""
    if len(parts) == 1:
        return parts[0].train
    if weights is None:
        return concatenate_datasets([part.train for part in parts])
    shares = _shares(weights)
    rows = max(len(part.train) / share for part, share in zip(parts, shares, strict=True))
    if rows > _MOST_MIXED_ROWS:
        raise UserError(
            f"weights {', '.join(map(str, weights))}: an epoch that reads each row once would have {rows:.3g} rows; "
            "give the corpus with the smallest weight more, or leave it out"
        )
    counts = [max(len(part.train), round(rows * share)) for part, share in zip(parts, shares, strict=True)]
    return concatenate_datasets(
        [view for part, count in zip(parts, counts, strict=True) for view in _repeated(part.train, count)]
    )


def _repeated(rows: Dataset, count: int) -> list[Dataset]:
    """The rows from the first to the last over and over, ``count`` of them."""
    if (copies := min(count, ROWS_PER_BATCH) // len(rows)) > 1:  # a block of a few rows costs as much as one of many
        rows = Dataset(pa.concat_tables([rows.data.table] * copies).combine_chunks())
    times, rest = divmod(count, len(rows))
    return [*[rows] * times, rows.select(range(rest))]


def _mixed_stream(parts: Sequence[StreamedPart], weights: Sequence[float] | None, seed: int) -> IterableDataset:
    streams = [part.train for part in parts]
    if len(parts) == 1:
        return streams[0]
    if weights is None:
        return concatenate_datasets(streams)
    return interleave_datasets(streams, probabilities=_shares(weights), seed=seed, stopping_strategy="all_exhausted")


def _shares(weights: Sequence[float]) -> list[float]:
    return [weight / sum(weights) for weight in weights]


def _digest(parts: Sequence[PackedPart | StreamedPart], weights: Sequence[float] | None) -> str:
    if len(parts) == 1:
        return parts[0].digest
    mix = None if weights is None else [f"{share:.12f}" for share in _shares(weights)]
    return cache_key({"parts": [part.digest for part in parts], "mix": mix})


def _total(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None

"""What a corpus is read from: local files, a data set of the Hugging Face Hub, or one that was handed over."""

import glob
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, Features, IterableDataset, Value

from tutorkd.data.documents import PLAIN_TEXT, Document, Holding, Layout, with_content
from tutorkd.data.from_hub import load_from_hub, name_and_config, unreadable
from tutorkd.data.readers import (
    COMPRESSIONS,
    READERS,
    document_of,
    inner_items,
    is_chat,
    is_kind,
    is_text,
    kind_of_file,
    naming,
    read_documents,
    require_dotted,
    unlike,
    value_at,
)
from tutorkd.data.shards import Shard, cut_files, cut_rows
from tutorkd.errors import UserError
from tutorkd.hub import looks_like_path, nearest_path

_KNOWN = f"{', '.join(READERS)} (all but the last also with {', '.join(COMPRESSIONS)} behind)"
_PACKED = {".7z", ".lz4", ".rar", ".tar", ".tgz", ".xz", ".zip", *COMPRESSIONS}
_LIKE_TXT = {".md", ".markdown", ".rst", ".text"}  # beside a corpus, such a file is often about it and not part of it
_KINDS_NAMED = 6
_DOCUMENTS_PER_READ = 64


@dataclass(frozen=True)
class LocalFiles:
    """Local files, in the order in which they are read.

    Attributes:
        left_out: files of the folder or glob that aren't read, since `kind_of_file` doesn't know them.
    """

    name: str
    files: tuple[Path, ...]
    left_out: tuple[Path, ...] = ()
    layout: Layout = PLAIN_TEXT

    @property
    def notice(self) -> str | None:
        """What isn't read, in a line; None where everything is."""
        if not self.left_out:
            return None
        kinds = Counter(_ending(file) or "without an extension" for file in self.left_out).most_common()
        said = ", ".join(f"{count} {kind}" for kind, count in kinds[:_KINDS_NAMED])
        more = f" and {len(kinds) - _KINDS_NAMED} other kinds" if len(kinds) > _KINDS_NAMED else ""
        packed = {kind for kind, _ in kinds if kind[kind.rfind(".") :] in _PACKED}
        unpack = f"; unpack {', '.join(sorted(packed))} to have them read" if packed else ""
        files = f"{len(self.left_out)} file{'s' * (len(self.left_out) != 1)}"
        return f"left out {files} of kinds that aren't read: {said}{more}{unpack}"

    def identity(self, streaming: bool) -> dict[str, Any]:
        """Return what the content depends on, streamed or not: path, size and time of change of every file.

        Folders count by where they are, however they were spelled; a file by its own name, whose extension says
        how it is read.
        """
        stats = [(file.parent.resolve() / file.name, file.stat()) for file in self.files]
        known = {"files": [[str(file), stat.st_size, stat.st_mtime_ns] for file, stat in stats]}
        return {**known, "lines": True} if self.layout.lines else known

    def check(self) -> None:
        """Raise what reading would raise at the first document of each file, or if there is no text at all."""
        for file in self.files:
            next(read_documents(file, self.layout), None)
        if next(with_content(self.stream(), self.layout), None) is None:
            raise no_text(self)

    def stream(self) -> Iterator[Document]:
        """Yield every document, in order."""
        return chain.from_iterable(read_documents(file, self.layout) for file in self.files)

    def shards(self) -> list[Shard]:
        """Return all documents, in order, cut into shards."""
        return cut_files(self.files, self.layout)


@dataclass(frozen=True)
class HubDataset:
    """One split of a data set on the Hub, loaded through `datasets` and its own cache."""

    name: str  # with its configuration, as name:config
    split: str
    revision: str | None = None
    data_files: str | None = None
    layout: Layout = PLAIN_TEXT

    @property
    def offline(self) -> bool:
        """Whether nothing is asked of the Hub, so that what isn't on disk is known not to be there."""
        return datasets.config.HF_HUB_OFFLINE

    @cached_property
    def _dataset(self) -> Dataset:
        return load_from_hub(self.name, self.split, revision=self.revision, data_files=self.data_files)

    @cached_property
    def _iterable(self) -> IterableDataset:
        return load_from_hub(self.name, self.split, streaming=True, revision=self.revision, data_files=self.data_files)

    def identity(self, streaming: bool) -> dict[str, Any]:
        """Return what the content depends on; the fingerprint comes from the resolved revision.

        Nothing is downloaded for a stream, of which the name, what is asked of it and the size that the data set
        declares are known.
        """
        known = (
            {"bytes": self._iterable.info.dataset_size, "revision": self.revision, "data_files": self.data_files}
            if streaming
            else {"fingerprint": self._dataset._fingerprint}
        )
        path, config = name_and_config(self.name)
        return {"hub": path, "config": config, "split": self.split, **known}

    @property
    def notice(self) -> None:
        """What isn't read: nothing."""

    def check(self) -> None:
        """Raise what reading would raise if that can be known offline, with `HF_HUB_OFFLINE`; else nothing."""
        if self.offline:
            _places(self.name, self.layout, self._dataset.features)

    def stream(self) -> Iterator[Document]:
        """Yield every document, in order, downloading as it goes."""
        columns, outer = self.layout.columns, list[str]()
        for batch in self._batches():
            if not outer:
                known = self._iterable.features or {name: values[0] for name, values in batch.items()}
                with naming(self.layout.options):
                    for column in columns:
                        require_dotted(self.name, column, known.items(), inner_items)
                outer = [column if column in batch else column.partition(".")[0] for column in columns]
            for row in zip(*(batch[name] for name in outer), strict=True):
                there = dict(zip(outer, row, strict=True))
                values = [value_at(there, column, self.name) for column in columns]
                yield document_of(self.name, self.layout, values)

    def _batches(self) -> Iterator[dict[str, list]]:
        """Raise a `UserError` where the download breaks off for longer than `datasets` waits."""
        batches = self._iterable
        try:
            # not a plain loop, which in a data loader's worker would give that worker's share alone
            yield from batches.iter(batch_size=_DOCUMENTS_PER_READ)
        except Exception as error:  # errors of the network, arrow and `datasets` share no base class
            raise unreadable(self.name, error) from error

    def shards(self) -> list[Shard]:
        """Return all documents, in order, cut into shards that are read from the cache of `datasets`."""
        return _cut(self.name, self._dataset, self.layout)


@dataclass(frozen=True, eq=False)
class GivenRows:
    """Rows with a column of text, or of conversations, as a `Dataset` that was handed over."""

    dataset: Dataset
    layout: Layout = PLAIN_TEXT

    @property
    def name(self) -> str:
        return f"a Dataset of {len(self.dataset):,} rows"

    @property
    def notice(self) -> None:
        """What isn't read: nothing."""

    def identity(self, streaming: bool) -> dict[str, Any]:
        """Return what the content depends on: the fingerprint, made of the rows or of how they were made."""
        return {"fingerprint": self.dataset._fingerprint}

    def check(self) -> None:
        """Raise what reading would raise of the columns."""
        _places(self.name, self.layout, self.dataset.features)

    def stream(self) -> Iterator[Document]:
        """Yield every document, in order."""
        return chain.from_iterable(shard.read() for shard in self.shards())

    def shards(self) -> list[Shard]:
        """Return all documents, in order, cut into shards."""
        return _cut(self.name, self.dataset, self.layout)


Source = LocalFiles | HubDataset | GivenRows


def _cut(name: str, rows: Dataset, layout: Layout) -> list[Shard]:
    places = _places(name, layout, rows.features)
    return cut_rows(rows.select_columns(list(dict.fromkeys(place[0] for place in places))), places, layout)


def _places(where: str, layout: Layout, features: Features) -> list[list[str]]:
    """Of each column that is read, its name and, where it is inside others, theirs before it.

    Raises:
        UserError: one isn't there, or holds something else.
    """
    with naming(layout.options):
        return [_place(where, column, features, layout.holding(column)) for column in layout.columns]


def _place(where: str, column: str, features: Features, wanted: Holding) -> list[str]:
    require_dotted(where, column, features.items(), inner_items)
    names = [column] if column in features else column.split(".")
    feature: Any = features
    for name in names:
        feature = feature[name]
    kind = Features({column: feature}).arrow_schema.field(0).type
    if not is_kind(kind, wanted) or (is_text(kind) and not isinstance(feature, Value)):
        raise unlike(where, column, feature, wanted, is_chat(kind))
    return names


def no_text(source: Source) -> UserError:
    """Return the error for a corpus of blank documents alone, or of conversations in whose rows nobody answers."""
    if source.layout.chats:
        return UserError(
            f"corpus {source.name!r} holds no answer: no message with the role assistant is within the longest row; a "
            "larger --max_length may help"
        )
    if source.layout.beside is not None:
        columns = " and ".join(map(repr, source.layout.columns))
        return UserError(f"corpus {source.name!r} holds no pair of texts: no row has text in both columns, {columns}")
    return UserError(f"corpus {source.name!r} holds no text: every document is empty")


def resolve_source(
    name: str,
    split: str = "train",
    revision: str | None = None,
    data_files: str | None = None,
    layout: Layout = PLAIN_TEXT,
) -> LocalFiles | HubDataset:
    """Return the source that a name stands for.

    A name is local if it exists on disk, holds glob characters, ends as a text file does (compressed or not), or
    can't be the name of a Hub repository (`name` or `owner/name`, so "name/" and "./name" are local). Any other is
    a Hub data set `name` or `name:config`, of which `split`, `revision` and `data_files` are taken.

    Raises:
        UserError: an empty name, or a local one without a file that can be read.
    """
    if not name:
        raise UserError("a corpus has an empty name; name a file, a folder, a glob or a Hub data set")
    path = Path(name).expanduser()
    if path.is_dir():
        return _local_files(name, [file for file in path.rglob("*") if not _hidden(file, path)], layout)
    if path.exists():
        if kind_of_file(path) is None:
            packed = "unpack it" if path.suffix.lower() in _PACKED else "unknown kind of file"
            as_text = "; to read it as text, name a copy .txt" if path.suffix.lower() in _LIKE_TXT else ""
            raise UserError(f"{name}: {packed}; the extension must be one of {_KNOWN}{as_text}")
        return LocalFiles(name, (path.absolute(),), layout=layout)
    if set(name) & set("*?["):
        return _local_files(name, [Path(file) for file in glob.glob(str(path), recursive=True)], layout)
    if looks_like_path(name_and_config(name)[0]) or path.name.lower().endswith((*READERS, *_PACKED)):
        raise UserError(f"{name}: no such file or folder{nearest_path(name)}")
    return HubDataset(name, split, revision, data_files, layout)


def _ending(file: Path) -> str:
    """The extension, of a compressed file with the one before."""
    ending = file.suffix.lower()
    return Path(file.stem).suffix.lower() + ending if ending in COMPRESSIONS else ending


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _local_files(name: str, candidates: list[Path], layout: Layout) -> LocalFiles:
    there = sorted(file.absolute() for file in candidates if file.is_file())
    files = [file for file in there if kind_of_file(file)]
    left_out = tuple(file for file in there if not kind_of_file(file))
    source = LocalFiles(name, tuple(files), left_out, layout)
    if not files:
        raise UserError(f"{name}: no file with one of the extensions {_KNOWN}" + f"; {source.notice}" * bool(there))
    return source

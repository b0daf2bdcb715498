"""Rows to train on: which one is read when, the same whatever the workers and processes."""

import math
from collections.abc import Callable, Container, Iterator, Mapping
from functools import cached_property
from itertools import count, islice
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from tutorkd.data.permutation import Permutation
from tutorkd.errors import UserError, kind_of

_ROWS_PER_READ = 64
_ROWS_PER_LOOK = 1 << 16
_STEPS_SORTED = 50  # steps whose rows are sorted by length together


class EpochSampler(Sampler[int]):
    """The order in which rows are read, from the seed alone: one permutation of them after another, without a gap.

    An epoch is as many whole steps as a pass over the rows takes. Its last step is filled up with the first rows of the
    next pass, and the next epoch goes on behind these. So every step has all of its rows, whatever the number of
    processes and micro-batches that share them, and no row is read again before all others were.

    It yields draws, not rows: draw = pass * rows + row. So a draw names one row in one pass, and the masks, which
    depend on the seed and the draw, are new in each pass without anybody telling the workers which one it is.

    Rows of unequal lengths are read with their like, so that little padding is read beside them: the draws of some
    steps are sorted by length, cut into steps, and these are shuffled.

    Args:
        rows: how many there are.
        rows_a_step: how many a step reads, over all processes and micro-batches.
        seed: of all permutations.
        epoch: asked for the number of the epoch, from 0, whenever one begins. A number that is set from outside
            doesn't reach a sampler under every wrapper that skips batches or spreads them over processes.
        lengths: of the rows, (rows,), where they are to be read with their like.
    """

    def __init__(
        self,
        rows: int,
        rows_a_step: int,
        seed: int,
        epoch: Callable[[], int],
        lengths: np.ndarray | None = None,
    ):
        self.rows, self.rows_a_step, self.seed, self.epoch, self.lengths = rows, rows_a_step, seed, epoch, lengths
        self._length = math.ceil(rows / rows_a_step) * rows_a_step

    def __len__(self) -> int:
        """Draws of an epoch."""
        return self._length

    def __iter__(self) -> Iterator[int]:
        epoch = self.epoch()
        draws = islice(self._draws(*divmod(epoch * len(self), self.rows)), len(self))
        return draws if self.lengths is None else self._with_their_like(draws, epoch)

    def _with_their_like(self, draws: Iterator[int], epoch: int) -> Iterator[int]:
        assert self.lengths is not None
        for number in count():
            some = np.fromiter(islice(draws, _STEPS_SORTED * self.rows_a_step), np.int64)
            if not len(some):
                return
            some = some[np.argsort(self.lengths[some % self.rows], kind="stable")].reshape(-1, self.rows_a_step)
            np.random.default_rng([self.seed, epoch, number]).shuffle(some)
            yield from some.flatten().tolist()

    def _draws(self, number: int, place: int) -> Iterator[int]:
        """From a place in a pass on, without end, in memory that doesn't depend on the number of rows."""
        while True:
            for block in Permutation(self.rows, (self.seed, number)).starting_at(place):
                yield from (block + number * self.rows).tolist()
            number, place = number + 1, 0


class DrawnRows(Dataset):
    """Rows of a data set by draw (see ``EpochSampler``); each keeps its draw for the masking.

    Args:
        rows: has a length, and a mapping with ``input_ids`` at each place.
        most: rows to take, evenly spread, since neighbours may be of one document or corpus; by default all.

    Raises:
        UserError: for anything else, such as text that isn't packed.
    """

    def __init__(self, rows: Any, most: int | None = None):
        if not hasattr(rows, "__len__"):
            raise UserError(f"held-out rows are needed as a data set with a length, not as {kind_of(rows)}")
        if isinstance(rows, Mapping) and not hasattr(rows, "column_names"):
            raise UserError(f"rows are needed one by one, not as {kind_of(rows)}; {_example(rows, ())}")
        _require_token_ids(rows, rows[0] if len(rows) and not hasattr(rows, "column_names") else {})
        self.rows = rows
        self._length = len(rows) if most is None else min(most, len(rows))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, draw: int) -> dict[str, Any]:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: list[int]) -> list[dict[str, Any]]:
        indices = [draw % len(self) * len(self.rows) // len(self) for draw in draws]
        if hasattr(self.rows, "__getitems__"):  # a datasets.Dataset reads a whole batch at once
            rows = self.rows.__getitems__(indices)
        else:
            rows = [self.rows[index] for index in indices]
        return [{**row, "draw": draw} for row, draw in zip(rows, draws, strict=True)]

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, (rows,)."""
        return row_lengths(self.rows)[np.arange(len(self)) * len(self.rows) // len(self)]


def first_row(rows: Any) -> list[int]:
    """The token ids of the first row of a data set; none of a stream, which isn't read ahead."""
    return list(rows[0].get("input_ids", ())) if isinstance(rows, DrawnRows) and len(rows) else []


class RowsBeside(Dataset):
    """Rows of a data set, each with a value beside it.

    Args:
        rows: have a column ``input_ids``.
        name: of the values' column.
        values: one for each row, such as a file of vectors that is mapped.

    Raises:
        UserError: if there are more values than rows, or fewer.
    """

    def __init__(self, rows: "datasets.Dataset | RowsBeside", name: str, values: Any):
        if len(values) != len(rows):
            raise UserError(f"there are {len(rows):,} rows, but {len(values):,} values of {name} beside them")
        self.rows, self.name, self.values = rows, name, values
        self.column_names: list[str] = [*rows.column_names, name]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        rows = self.rows.__getitems__(indices)
        return [{**row, self.name: self.values[index]} for row, index in zip(rows, indices, strict=True)]


def row_lengths(rows: Any) -> np.ndarray:
    """Tokens of each row, (rows,)."""
    while isinstance(rows, RowsBeside):
        rows = rows.rows
    if not isinstance(rows, datasets.Dataset):
        return np.array([len(rows[index]["input_ids"]) for index in range(len(rows))])
    ids = rows.select_columns(["input_ids"]).with_format("arrow")
    read = (pc.list_value_length(table.column(0)).to_numpy() for table in ids.iter(_ROWS_PER_LOOK))
    return np.concatenate([*read])


class StreamedRows(IterableDataset):
    """Rows of a stream, one pass after another without end; a row's draw is how many came before it.

    A stream doesn't know its length, so nobody else can tell in which pass a resumed run was: it skips as many rows
    as were drawn, whatever the pass.

    Of a data loader's workers the first reads the stream and the others give nothing, so that rows, their order and
    their masks don't depend on the number of workers.

    Args:
        rows: a stream of mappings with ``input_ids``.

    Raises:
        UserError: for anything else, such as text that isn't packed; while reading, for a stream without a row.
    """

    def __init__(self, rows: Any):
        if not isinstance(rows, datasets.IterableDataset):
            raise UserError(
                f"rows to train on are needed as a data set or a stream of datasets, not as {kind_of(rows)}"
            )
        _require_token_ids(rows, {} if rows.column_names else next(iter(rows), {}))
        self.rows = rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        if worker is not None and worker.id > 0:
            return
        draws = count()
        for epoch in count():
            self.rows.set_epoch(epoch)
            empty = True
            # not a plain loop, which in a worker would give that worker's share of the stream alone
            for batch in self.rows.iter(_ROWS_PER_READ):
                empty = False
                for values in zip(*batch.values(), strict=True):
                    yield {**dict(zip(batch, values, strict=True)), "draw": next(draws)}
            if empty:
                raise UserError("the stream has no row to train on")


def column_names(rows: Any) -> set[str]:
    """The columns of a data set, or of its first row where it doesn't name them; none of a stream that doesn't."""
    named = getattr(rows, "column_names", None)
    return set(named or (rows[0] if hasattr(rows, "__len__") else ()))


def _require_token_ids(rows: Any, first: Any) -> None:
    """Raise a `UserError` unless rows, which have column names or else a first row, have token ids."""
    columns = getattr(rows, "column_names", None) or (list(first) if isinstance(first, Mapping) else None)
    if columns is None:
        raise UserError(f"rows are needed as mappings with input_ids, not as {kind_of(first)}; {_example(rows, ())}")
    if columns and "input_ids" not in columns:
        known = ", ".join(columns)
        raise UserError(f"rows without a column input_ids among {known} can't be trained on; {_example(rows, columns)}")


def _example(rows: Any, columns: Container[str]) -> str:
    """How rows are made of text, in words."""
    streamed = isinstance(rows, datasets.IterableDataset)
    asked = ['"my_text/"' if streamed else "dataset", "tokenizer", "max_length=128"]
    asked += ["streaming=True"] * streamed + ['text_column="..."'] * ("text" not in columns)
    return (
        f"make rows of the text, corpus = prepare_corpus({', '.join(asked)}), and pass corpus.train, corpus.heldout "
        "as eval_dataset; those of a causal model with framed=False"
    )

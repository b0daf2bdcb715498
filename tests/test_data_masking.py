import pickle
from itertools import islice

import numpy as np
import pytest
import tiny
import torch
from accelerate.data_loader import IterableDatasetShard
from accelerate.utils import recursively_apply, send_to_device
from datasets import Dataset, DatasetDict, Features, IterableDataset, List, Value
from tokenizers import AddedToken
from torch.distributed.utils import _to_kwargs
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

from tutorkd.batch import Batch
from tutorkd.data.rows import DrawnRows, EpochSampler, StreamedRows
from tutorkd.errors import UserError
from tutorkd.masking import MaskingCollator
from tutorkd.methods.tutor import not_text
from tutorkd.teacher import Teacher


def _collator(seed: int = 0, probability: float = 0.15) -> MaskingCollator:
    return MaskingCollator(tiny.tokenizer(), probability, seed, tiny.VOCABULARY)


def _batch(collator, rows, first_draw: int = 0):
    return collator([{**row, "draw": first_draw + i} for i, row in enumerate(rows)])


def _everything(collator, dataset, sampler, workers: int, batch_size: int = 4) -> dict[str, torch.Tensor]:
    loader = DataLoader(dataset, batch_size, sampler=sampler, collate_fn=collator, num_workers=workers)
    batches = list(loader)
    return {key: torch.cat([getattr(batch, key) for batch in batches]) for key in ("input_ids", "corrupted_ids")}


def test_fifteen_percent_are_chosen_of_which_80_10_10():
    rows = tiny.rows(400, 128)
    batch = _batch(_collator(), rows)
    original, corrupted = batch.input_ids.flatten(), batch.corrupted_ids.flatten()
    positions = batch.masked_positions
    ordinary = 400 * 126
    # shares lie within four standard errors
    assert abs(len(positions) / ordinary - 0.15) < 4 * (0.15 * 0.85 / ordinary) ** 0.5
    masked = corrupted[positions] == 4
    kept = corrupted[positions] == original[positions]
    n = len(positions)
    assert abs(masked.float().mean() - 0.8) < 4 * (0.16 / n) ** 0.5
    # a random token is the original one in 95 times
    assert abs(kept.float().mean() - (0.1 + 0.1 / 95)) < 4 * (0.09 / n) ** 0.5
    untouched = torch.ones(len(original), dtype=torch.bool)
    untouched[positions] = False
    assert (corrupted[untouched] == original[untouched]).all()


def test_special_tokens_and_padding_are_never_chosen_nor_put_in():
    rows = [{"input_ids": [2, 9, 3, 8, 3]}, {"input_ids": [2, 7, 3]}]
    batch = _batch(_collator(probability=1.0), rows)
    assert batch.masked_positions.tolist() == [1, 3, 6]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch.input_ids[1].tolist() == [2, 7, 3, 0, 0]
    many = _batch(_collator(probability=1.0), tiny.rows(200))
    put_in = many.corrupted_ids.flatten()[many.masked_positions]
    assert set(put_in[put_in < 5].tolist()) == {4}


def test_special_tokens_that_have_no_use_are_no_text_either():
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens([AddedToken("<reserved>", special=True)], special_tokens=True)
    tokenizer.add_tokens(["word"])
    assert tokenizer.convert_tokens_to_ids(["<reserved>", "word"]) == [100, 101]
    collator = MaskingCollator(tokenizer, 1.0, 0, vocab_size=104)
    assert collator.special_ids.tolist() == [*tiny.SPECIAL_IDS, 100]
    assert collator.ordinary_ids.tolist() == [*range(5, 100), 101]
    assert _batch(collator, [{"input_ids": [2, 100, 101, 9, 3]}]).masked_positions.tolist() == [2, 3]
    teacher = Teacher(tiny.masked_lm())
    teacher.config.vocab_size = 104
    assert not_text(tokenizer, teacher) == [*tiny.SPECIAL_IDS, 100, 102, 103]


def test_full_rows_carry_no_attention_mask():
    assert _batch(_collator(), tiny.rows(3)).attention_mask is None


def test_a_new_draw_each_epoch_and_the_same_from_the_same_seed():
    rows = tiny.rows(20)
    first, again, next_epoch, other_seed = (
        _batch(_collator(seed), rows, draw).masked_positions.tolist()
        for seed, draw in ((0, 0), (0, 0), (0, 20), (1, 0))
    )
    assert first == again
    assert first != next_epoch
    assert first != other_seed


def test_masks_don_t_depend_on_the_batch_or_its_padding():
    rows = tiny.rows(2, 10) + tiny.rows(1, 30)
    together = _batch(_collator(), rows).corrupted_ids
    for i, row in enumerate(rows):
        alone = _collator()([{**row, "draw": i}]).corrupted_ids[0]
        assert together[i, : len(alone)].tolist() == alone.tolist()


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_and_masks_are_the_same_whatever_the_number_of_workers(workers):
    dataset, sampler, collator = DrawnRows(tiny.rows(18)), EpochSampler(18, 6, seed=3, epoch=lambda: 1), _collator()
    alone = _everything(collator, dataset, sampler, 0)
    spread = _everything(collator, dataset, sampler, workers)
    assert all(torch.equal(alone[key], spread[key]) for key in alone)


def _epochs(rows: int, rows_a_step: int, first: int, last: int) -> list[list[int]]:
    """The draws of some epochs."""
    return [list(EpochSampler(rows, rows_a_step, seed=0, epoch=lambda e=epoch: e)) for epoch in range(first, last)]


def test_a_pass_is_a_permutation_that_differs_from_the_next():
    first, second = _epochs(50, 10, 0, 2)
    assert sorted(first) == list(range(50))
    assert sorted(second) == list(range(50, 100))
    assert [draw % 50 for draw in second] != first


@pytest.mark.parametrize(("rows", "rows_a_step", "draws"), [(10, 4, 12), (12, 4, 12), (3, 8, 8)])
def test_steps_have_all_their_rows_and_no_row_is_read_again_before_all_others_were(rows, rows_a_step, draws):
    epochs = _epochs(rows, rows_a_step, 0, rows)  # together a whole number of passes
    assert [len(epoch) for epoch in epochs] == [draws] * rows
    assert len(EpochSampler(rows, rows_a_step, 0, int)) == draws
    passes = [draw for epoch in _epochs(rows, rows, 0, draws) for draw in epoch]  # each an epoch of one step
    assert [draw for epoch in epochs for draw in epoch] == passes
    assert all(sorted(passes[i * rows :][:rows]) == list(range(i * rows, (i + 1) * rows)) for i in range(draws))


def test_streamed_rows_go_on_pass_after_pass_in_another_order_and_are_numbered_throughout():
    rows = tiny.rows(20)
    stream = StreamedRows(Dataset.from_list(rows).to_iterable_dataset().shuffle(0, buffer_size=20))
    first, second = list(islice(stream, 45)), list(islice(stream, 45))
    assert first == second
    assert [row["draw"] for row in first] == list(range(45))
    passes = [[row["input_ids"] for row in first[begin : begin + 20]] for begin in (0, 20)]
    assert passes[0] != passes[1]
    assert all(sorted(ids) == sorted(row["input_ids"] for row in rows) for ids in passes)


def test_counts_are_of_masked_positions_real_tokens_and_real_pairs():
    ids, mask, positions = torch.zeros(2, 3), torch.tensor([[1, 1, 1], [1, 0, 0]]), torch.tensor([1, 3])
    assert [float(count) for count in Batch.counted(ids, ids, positions, mask).counts] == [2, 4, 10, 2, 2]
    assert [float(count) for count in Batch.counted(ids, ids, positions).counts] == [2, 6, 18, 4, 2]


def test_a_batch_comes_with_its_counts():
    batch = _batch(_collator(), tiny.rows(2, 12) + tiny.rows(1, 7, seed=1))
    masked = len(batch.masked_positions)
    assert [float(count) for count in batch.counts] == [masked, 12 + 12 + 7, 12 * 12 + 12 * 12 + 7 * 7, 11 + 11 + 6, 3]


def test_a_batch_knows_the_tokens_that_are_asked_about():
    ids = torch.tensor([[2, 7, 8], [2, 9, 0]])
    batch = Batch.counted(ids, ids, torch.tensor([1, 4]), torch.tensor([[1, 1, 1], [1, 1, 0]]))
    assert batch.original_ids.tolist() == [7, 9]
    assert batch.with_tokens(torch.tensor([5, 6])).tolist() == [[2, 5, 8], [2, 6, 0]]
    assert batch.mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch._replace(attention_mask=None).mask.tolist() == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize("rows", [tiny.rows(3, 12), tiny.rows(2, 12) + tiny.rows(1, 7)], ids=["full", "padded"])
def test_a_batch_is_handed_on_whole_by_all_that_moves_it(rows):
    """Pickled by a worker, pinned, moved by accelerate, by Trainer and by DDP."""
    batch = _batch(_collator(), rows)
    calls = []

    class Pinned(torch.Tensor):
        def pin_memory(self, device=None):
            calls.append(self)
            return self

    pinned = pin_memory(recursively_apply(lambda tensor: tensor.as_subclass(Pinned), batch))
    assert len(calls) == 5 + (batch.attention_mask is not None)
    (((by_ddp,),), _) = _to_kwargs((batch,), {}, torch.device("cpu"), False)
    moved = [pickle.loads(pickle.dumps(batch)), pinned, send_to_device(batch, "cpu"), by_ddp]
    for each in moved:
        assert type(each) is Batch
        assert (each.attention_mask is None) == (batch.attention_mask is None)
        for name in ("input_ids", "corrupted_ids", "masked_positions", "position_weights", "mask", "num_items"):
            assert torch.equal(getattr(each, name), getattr(batch, name))


def test_random_tokens_come_from_the_whole_ordinary_vocabulary():
    collator = _collator()
    assert collator.ordinary_ids.tolist() == list(range(5, tiny.VOCABULARY))
    assert np.isin(collator.special_ids, tiny.SPECIAL_IDS).all()


# Streams and the workers of a data loader


def _stream(rows):
    return StreamedRows(Dataset.from_list(rows).to_iterable_dataset(num_shards=2).shuffle(0, buffer_size=7))


def _streamed_batches(dataset, workers: int, count: int) -> list[torch.Tensor]:
    """Rows and masks of the first batches of four; a worker that hangs is an error after twenty seconds."""
    loader = DataLoader(
        dataset, 4, collate_fn=_collator(), num_workers=workers, timeout=20 if workers else 0, prefetch_factor=None
    )
    return [torch.stack([batch.input_ids, batch.corrupted_ids]) for batch in islice(loader, count)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than a small machine has cores
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_streamed_rows_their_order_and_masks_are_the_same_whatever_the_number_of_workers(workers):
    rows = tiny.rows(18)
    alone = _streamed_batches(_stream(rows), 0, 11)  # more than two passes
    shared = _streamed_batches(_stream(rows), workers, 11)
    assert len(alone) == len(shared) == 11
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_processes_share_a_stream_without_a_row_in_common(workers):
    shards = [IterableDatasetShard(_stream(tiny.rows(18)), 4, num_processes=2, process_index=i) for i in (0, 1)]
    first, second = (_streamed_batches(shard, workers, 3) for shard in shards)
    together = [batch for pair in zip(first, second, strict=True) for batch in pair]
    assert all(
        torch.equal(a, b) for a, b in zip(together, _streamed_batches(_stream(tiny.rows(18)), 0, 6), strict=True)
    )


def test_a_stream_without_a_row_is_refused_rather_than_read_for_ever():
    stream = IterableDataset.from_generator(lambda: iter([]), features=Features({"input_ids": List(Value("int32"))}))
    with pytest.raises(UserError, match="the stream has no row"):
        next(iter(StreamedRows(stream)))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_in_the_text_is_told_in_one_line_whoever_reads_it(workers):
    def rows():
        yield {"input_ids": [2, 5, 3]}
        raise UserError("a.jsonl: line 2 isn't JSON")

    stream = IterableDataset.from_generator(rows, features=Features({"input_ids": List(Value("int32"))}))
    with pytest.raises(UserError) as caught:
        _streamed_batches(StreamedRows(stream), workers, 1)
    assert str(caught.value) == "a.jsonl: line 2 isn't JSON"


# Rows that aren't packed


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (Dataset.from_dict({"text": ["a"], "label": [0]}), "rows without a column input_ids among text, label"),
        (DatasetDict(train=Dataset.from_list(tiny.rows(2))), "rows without a column input_ids among train"),
        ([{"text": "a"}], "rows without a column input_ids among text"),
        (["a text"], "rows are needed as mappings with input_ids, not as a str"),
        ("a text", "rows are needed as mappings with input_ids, not as a str"),
        (iter([]), "a data set with a length, not as a list_iterator"),
        ({"wiki": tiny.rows(2)}, "rows are needed one by one, not as a dict; make rows of the text"),
        (tiny.tokenizer()(["w1 w2"]), "rows are needed one by one, not as a BatchEncoding"),
    ],
)
def test_rows_without_token_ids_are_refused(rows, said):
    with pytest.raises(UserError, match=said) as caught:
        DrawnRows(rows)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (Dataset.from_dict({"text": ["a"]}).to_iterable_dataset(), "rows without a column input_ids among text"),
        (IterableDataset.from_generator(lambda: iter([{"text": "a"}])), "without a column input_ids among text"),
        (iter([]), "as a data set or a stream of datasets, not as a list_iterator"),
        (None, "not as None"),
    ],
)
def test_a_stream_without_token_ids_is_refused(rows, said):
    with pytest.raises(UserError, match=said) as caught:
        StreamedRows(rows)
    assert "\n" not in str(caught.value)


def test_held_out_rows_are_as_many_as_asked_for_and_of_all_parts_of_what_is_held_out():
    rows = tiny.rows(9)
    for most, expected in ((4, [0, 2, 4, 6]), (9, range(9)), (20, range(9)), (None, range(9))):
        taken = DrawnRows(rows, most)
        assert [row["input_ids"] for row in taken.__getitems__(list(range(len(taken))))] == [
            rows[place]["input_ids"] for place in expected
        ]
    assert DrawnRows([{"input_ids": [0] * length} for length in range(9)], 4).lengths.tolist() == [0, 2, 4, 6]

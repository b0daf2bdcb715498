"""Rows for causal models, and where a tutor may replace tokens."""

import numpy as np
import pytest
import tiny
import torch

from tutorkd.spacing import SpacedCollator


def _collator(share: float = 0.05, window: int = 8, seed: int = 0) -> SpacedCollator:
    return SpacedCollator(tiny.causal_tokenizer(), share, window, seed, tiny.CAUSAL_VOCABULARY)


def _rows(count: int, length: int, seed: int = 0) -> list[dict]:
    ids = torch.randint(1, tiny.CAUSAL_VOCABULARY, (count, length), generator=torch.Generator().manual_seed(seed))
    return [{"input_ids": row, "draw": draw} for draw, row in enumerate(ids.tolist())]


@pytest.mark.parametrize(("share", "window", "length"), [(0.05, 8, 64), (1 / 9, 8, 47), (0.2, 1, 20), (0.5, 1, 9)])
def test_at_least_the_window_lies_between_two_positions_and_the_ends_are_left_out(share, window, length):
    batch = _collator(share, window)(_rows(50, length))
    for row in range(50):
        inside = batch.masked_positions[batch.masked_positions // length == row] % length
        assert len(inside) == min(round(share * length), (length - 2) // (window + 1))
        assert ((inside[1:] - inside[:-1]) > window).all()
        assert inside.min() >= 1
        assert inside.max() <= length - 2


def test_each_position_is_as_likely_as_another():
    positions = _collator(0.1)(_rows(4000, 32)).masked_positions % 32
    counts = np.bincount(positions.numpy(), minlength=32)
    assert counts[0] == counts[31] == 0
    expected = len(positions) / 30
    assert (np.abs(counts[1:31] - expected) < 5 * np.sqrt(expected)).all()


def test_a_share_of_0_chooses_nothing():
    assert len(_collator(0.0, 0)(_rows(4, 16)).masked_positions) == 0


def test_special_tokens_are_not_chosen():
    rows = [{"input_ids": [tiny.causal_tokenizer().eos_token_id] * 64, "draw": 0}]
    assert len(_collator(0.1)(rows).masked_positions) == 0


def test_rows_of_one_token_or_two_have_nothing_to_choose():
    batch = _collator(0.5, 1)(_rows(1, 1) + _rows(1, 2))
    assert len(batch.masked_positions) == 0
    assert [float(count) for count in batch.counts] == [0, 3, 5, 1, 2]


def test_padding_stands_behind_and_counts_for_nothing():
    batch = _collator()(_rows(1, 40) + _rows(1, 24))
    assert batch.attention_mask.tolist() == [[1] * 40, [1] * 24 + [0] * 16]
    assert float(batch.counts.predicted) == 39 + 23
    assert (batch.masked_positions[batch.masked_positions >= 40] % 40 < 23).all()


def test_the_draw_decides_and_not_the_batch():
    rows = _rows(4, 40)
    together = _collator()(rows).masked_positions
    apart = torch.cat([_collator()([row]).masked_positions + 40 * i for i, row in enumerate(rows)])
    assert torch.equal(together, apart)
    assert not torch.equal(together, _collator(seed=1)(rows).masked_positions)


def test_full_batches_have_one_shape_with_fillers_that_change_no_count():
    rows = _rows(4, 40)
    for place in range(40):
        rows[0]["input_ids"][place] = 0  # the end of text
    collator = _collator()
    few = collator(rows)
    collator.full = 4
    filled, plain = collator(rows), collator(_rows(4, 40))
    assert collator.is_full(filled)
    assert collator.is_full(plain)
    assert filled.shape == plain.shape
    assert torch.equal(filled.num_items, few.num_items)
    assert filled.position_weights.sum() == len(few.masked_positions) < len(filled.masked_positions)
    assert not collator.is_full(collator(_rows(3, 40)))


def test_a_filler_takes_back_no_token_that_the_tutor_put_there():
    rows = _rows(40, 12)
    for row in rows:
        row["input_ids"][2::2] = [0] * 5  # the end of text, which isn't chosen and leaves a filler in its place
    collator, beside = _collator(0.2, 2), 0
    collator.full = 2
    for first in range(0, 40, 2):
        batch = collator(rows[first : first + 2])
        real = batch.position_weights > 0
        ids = torch.where(real, 7, batch.original_ids)
        assert (batch.with_tokens(ids).flatten()[batch.masked_positions[real]] == 7).all()
        beside += 1 in batch.masked_positions[real] and not real.all()
    assert beside  # some have a filler, and a replaced token at the place where one might have stood

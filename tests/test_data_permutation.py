"""`Permutation` and the sampler's order: whole, random, small and quick whatever the number of rows."""

import itertools
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from tutorkd.data.permutation import _BLOCK, Permutation
from tutorkd.data.rows import EpochSampler

SIZES = [0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 97, 1023, 1024, 1025, 7919, 65535, 65536, 65537, 10**5, 2**17 + 1]


def order(n, *key):
    return np.concatenate([np.empty(0, np.int64), *Permutation(n, key)])


@pytest.mark.parametrize("n", SIZES)
def test_every_number_comes_once(n):
    assert np.array_equal(np.sort(order(n, 1, 2)), np.arange(n))


def test_the_order_follows_from_both_parts_of_the_key():
    orders = {key: order(50, *key).tolist() for key in [(0, 0), (0, 1), (1, 0), (1, 1), (2**64 - 1, 0)]}
    assert len(set(map(tuple, orders.values()))) == len(orders)
    assert all(order(50, *key).tolist() == found for key, found in orders.items())


@pytest.mark.parametrize("n", [2, 3, 4])
def test_of_few_numbers_every_order_is_as_likely(n):
    found = Counter(tuple(order(n, 5, epoch).tolist()) for epoch in range(3000))
    assert stats.chisquare([found[each] for each in itertools.permutations(range(n))]).pvalue > 1e-3


@pytest.mark.parametrize("n", [9, 20, 33, 64])
def test_every_number_stands_at_every_place_as_often(n):
    epochs = 2000
    counts = np.zeros((n, n))
    for epoch in range(epochs):
        counts[np.arange(n), order(n, 3, epoch)] += 1
    statistic = ((counts - epochs / n) ** 2).sum() / (epochs / n)
    # of permutations, whose counts have all their sums given
    assert 1e-3 < stats.chi2.sf(statistic * (n - 1) / n, (n - 1) ** 2) < 1 - 1e-3


@pytest.mark.parametrize("n", [10**5, 2**16, 2**17 + 1])
def test_neighbours_say_nothing_of_one_another(n):
    found = order(n, 11, 4)
    for apart in (1, 2, 128):
        differences = (found[apart:] - found[:-apart]) % n * 100 // n
        expected = np.bincount(np.arange(1, n) * 100 // n) * (n - apart) / (n - 1)
        assert stats.chisquare(np.bincount(differences, minlength=100), expected).pvalue > 1e-3


def test_one_epoch_says_nothing_of_the_next():
    n = 10**5
    one, two = order(n, 11, 4), order(n, 11, 5)
    cells = np.bincount(one * 20 // n * 20 + two * 20 // n, minlength=400)
    assert stats.chisquare(cells).pvalue > 1e-3
    assert np.count_nonzero(one == two) < 10  # one is to be expected


def test_memory_does_not_grow_with_the_number_of_rows():
    peaks = []
    for rows in (10**5, 10**8):
        tracemalloc.start()
        drawn = list(itertools.islice(EpochSampler(rows, 100, 0, lambda: 3), 1000))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(set(drawn)) == 1000
        assert all(3 * rows <= draw < 4 * rows for draw in drawn)
    assert peaks[1] < 1.5 * peaks[0] < 100 * _BLOCK * 8


def test_draws_are_plain_integers():
    assert {type(draw) for draw in EpochSampler(10, 4, 0, lambda: 0)} == {int}


def test_an_epoch_goes_on_where_the_one_before_ended():
    """Twenty epochs of four steps of five rows are some passes over seventeen, in one order after another."""
    draws = [draw for epoch in range(20) for draw in EpochSampler(17, 5, 0, lambda e=epoch: e)]
    orders = [list(np.concatenate(list(Permutation(17, (0, number))))) for number in range(24)]
    expected = [number * 17 + int(row) for number, order in enumerate(orders) for row in order]
    assert draws == expected[: 20 * 20]

"""A random order of any number of rows, computed block by block."""

from collections.abc import Iterator

import numpy as np

_BLOCK = 1 << 14
_ROUNDS = 4
_ODD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1342543DE82EF95)  # multipliers whose bits are spread well


class Permutation:
    """A pseudo-random bijection on 0 .. n - 1: a number is as good as its place, and no list of either is kept.

    It is a Feistel network on the next power of two, with halves that differ by a bit at most, in whose cycles the
    numbers from n on are walked over (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").

    Args:
        n: how many numbers there are.
        key: two integers from 0 to below 2**64.
    """

    def __init__(self, n: int, key: tuple[int, int]):
        self._n = n
        bits = max(2, (n - 1).bit_length())
        self._low_bits = np.uint64((bits + 1) // 2)
        # a product's highest bits depend on all bits of its factors
        self._to_low, self._to_high = np.uint64(64 - (bits + 1) // 2), np.uint64(64 - bits // 2)
        self._keys = np.random.Philox(key=np.array(key, np.uint64)).random_raw((_ROUNDS, 2))

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield what stands at the places 0, 1, 2 and so on, in arrays of some thousand int64."""
        return self.starting_at(0)

    def starting_at(self, place: int) -> Iterator[np.ndarray]:
        """Yield what stands at a place and those behind it, likewise."""
        for start in range(place, self._n, _BLOCK):
            yield self._at(np.arange(start, min(start + _BLOCK, self._n), dtype=np.uint64)).astype(np.int64)

    def _at(self, places: np.ndarray) -> np.ndarray:
        found = self._step(places)
        while len(beyond := np.flatnonzero(found >= self._n)):
            found[beyond] = self._step(found[beyond])
        return found

    def _step(self, numbers: np.ndarray) -> np.ndarray:
        high = numbers >> self._low_bits
        low = numbers ^ (high << self._low_bits)
        for to_high, to_low in self._keys:
            high ^= _mixed(low, to_high) >> self._to_high
            low ^= _mixed(high, to_low) >> self._to_low
        return (high << self._low_bits) | low


def _mixed(numbers: np.ndarray, key: np.uint64) -> np.ndarray:
    mixed = (numbers ^ key) * _ODD[0]
    mixed ^= mixed >> np.uint64(32)
    mixed *= _ODD[1]
    return mixed

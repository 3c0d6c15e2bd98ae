"""A pseudo-random permutation of any size that needs no memory: shuffles and draws of corpora that fit nowhere.

A Feistel network on the next even power of two, walked until the value lies inside (Black and Rogaway 2002): the place
of one index is computed alone, so any worker knows where any record goes.
"""

from __future__ import annotations

from hashlib import blake2b

ROUNDS = 4


class Permutation:
    """A bijection of range(size), chosen by `key`."""

    def __init__(self, size: int, key: str) -> None:
        self.size = size
        self._half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
        self._mask = (1 << self._half) - 1
        self._keys = [blake2b(f"{key}/{turn}".encode(), digest_size=16).digest() for turn in range(ROUNDS)]

    def __call__(self, index: int) -> int:
        """The place of `index`."""
        value = self._once(index)
        while value >= self.size:
            value = self._once(value)
        return value

    def _once(self, value: int) -> int:
        left, right = value >> self._half, value & self._mask
        for key in self._keys:
            digest = blake2b(right.to_bytes(8, "little"), digest_size=8, key=key).digest()
            left, right = right, left ^ (int.from_bytes(digest, "little") & self._mask)
        return left << self._half | right

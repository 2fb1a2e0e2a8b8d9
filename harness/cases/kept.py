"""What was made, kept for the next time it is asked for, up to a total size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_OF_A_CASE = 2_000
_OF_A_PLACE = 30


def of_pairs(places: int) -> int:
    """The elements of logits that take as much memory as the pairs of a case, or as those that its gradient shows."""
    return _OF_A_CASE + _OF_A_PLACE * places


class Kept(Generic[K, V]):
    """The values that were used last. Their sizes add up to ``most`` at most; a larger one is not kept."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._total = 0
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The value of ``key``, or None if it is not kept."""
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, size: int) -> None:
        """Keep a value, and drop those that were not used for longest until it fits."""
        if key in self._kept:
            self._total -= self._kept.pop(key)[1]
        if size > self._most:
            return
        self._kept[key] = value, size
        self._total += size
        while self._total > self._most:
            self._total -= self._kept.popitem(last=False)[1][1]

    def clear(self) -> None:
        """Drop all values."""
        self._kept.clear()
        self._total = 0

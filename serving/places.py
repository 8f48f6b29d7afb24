"""Places to wait in, for what does one thing after the other: so many in all, and a quarter of them for one key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from serving.errors import QueueFull

ONE_S = 8  #: requests that are done in a second, about


class Places:
    """The places; used in one event loop.

    Args:
        most: how many there are.
    """

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, Counter[str]()  # by key

    @property
    def taken(self) -> int:
        """How many are taken now."""
        return self._taken.total()

    @contextmanager
    def take(self, caller: str) -> Iterator[None]:
        """Take a place.

        Args:
            caller: prefix of the key that asks.

        Raises:
            QueueFull: if all are taken, or this key has its share.
        """
        if self.taken >= self._most or self._taken[caller] >= max(self._most // 4, 1):
            raise QueueFull(self.taken, 1 + self.taken // ONE_S)
        self._taken[caller] += 1
        try:
            yield
        finally:
            self._taken[caller] -= 1
            self._taken += Counter()  # without those that have none

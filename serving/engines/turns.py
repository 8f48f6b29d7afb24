"""The queue of an engine, in which the callers take turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class TurnQueue(Generic[T]):
    """Waiting items by caller. The items of one caller keep their order."""

    def __init__(self) -> None:
        self._items: dict[str, deque[T]] = {}  # the caller whose turn was longest ago comes first

    def __len__(self) -> int:
        return sum(map(len, self._items.values()))

    def count(self, caller: str) -> int:
        """Return how many items of a caller wait."""
        return len(self._items.get(caller, ()))

    def add(self, caller: str, item: T) -> None:
        """Add an item of a caller, after the caller's others."""
        self._items.setdefault(caller, deque()).append(item)

    def take(self, running: Mapping[str, int]) -> T:
        """Remove and return the next item: of the caller with the fewest running items, then by turns.

        `running` has the numbers of running items; a caller who is missing has none. The queue must not be empty.
        """
        caller = min(self._items, key=lambda one: running.get(one, 0))
        items = self._items.pop(caller)
        item = items.popleft()
        if items:
            self._items[caller] = items
        return item

    def remove(self, caller: str, item: T) -> None:
        """Remove an item of a caller, if it still waits."""
        if item in (items := self._items.get(caller, deque())):
            items.remove(item)
            if not items:
                del self._items[caller]

    def clear(self) -> list[T]:
        """Remove all items, and return them."""
        removed = [item for items in self._items.values() for item in items]
        self._items.clear()
        return removed

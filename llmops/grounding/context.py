"""Passages as the context of a prompt, and how they are made fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

SHORTEST = 80  #: characters of a passage that is not cut any more


def joined(passages: Sequence[str]) -> str:
    """Passages as one context: a line break between two."""
    return "\n".join(passages)


def fewer(passages: Sequence[str]) -> tuple[str, ...]:
    """Where there is no room for passages as a model reads them: the same without the last one, and of a single one the
    first half; none if there is less than a sentence left."""
    if len(passages) > 1:
        return tuple(passages[:-1])
    return tuple(passage[: len(passage) // 2] for passage in passages if len(passage) > SHORTEST)


def fit(passages: Sequence[str], has_room: Callable[[str], bool]) -> tuple[str, ...]:
    """As many of the passages as there is room for as one context; none if there is room for none."""
    kept = tuple(passages)
    while kept and not has_room(joined(kept)):
        kept = fewer(kept)
    return kept

"""Which example falls into which split: by hash, so that an item keeps its split when the data grows.

A hash of the seed and the key gives every group, or every wording, a number from 0 to 1; below `test` it is tested,
below `test + validation` it validates, above it trains. Shares are therefore met on average, not exactly.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from llmops.config import Annotate
from llmops.records import Example

K = TypeVar("K", bound=Hashable)

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_TRAILING = " \t.!?…。？！,;:"


def normal(text: str) -> str:
    """`text` as it is compared: lower case, single spaces, no closing punctuation."""
    return " ".join(text.casefold().split()).rstrip(_TRAILING)


def wording(question: str, context: str) -> str:
    """What makes two questions the same question."""
    return f"{normal(question)}\n{normal(context)}"


def number(seed: int, *key: str) -> float:
    """A number from 0 to 1 that depends on nothing but the seed and the key."""
    digest = hashlib.sha256("\0".join((str(seed), *key)).encode()).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56)


def splits(examples: Sequence[Example], config: Annotate) -> dict[str, str]:
    """Example id → its split. Those that `test_sources` keeps out of a tested group have none.

    Examples of one wording share a group, and always a split.
    """
    return _by_group(examples, config) if config.split_by == "group" else _by_wording(examples, config)


def _by_group(examples: Sequence[Example], config: Annotate) -> dict[str, str]:
    groups: defaultdict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.group].append(example)
    numbers = {group: number(config.seed, group) for group in groups}
    testable = {group: sum(_testable(e, config) for e in items) for group, items in groups.items()}
    tested = _capped({g: n for g, n in testable.items() if n and numbers[g] < config.test}, numbers, config)
    out: dict[str, str] = {}
    for group, items in groups.items():
        side = _side(numbers[group], config)
        if group in tested:  # what may not be tested may not be trained on either: it would give the topic away
            out |= {e.id: TEST for e in items if _testable(e, config)}
        else:
            out |= {e.id: side for e in items}
    return out


def _by_wording(examples: Sequence[Example], config: Annotate) -> dict[str, str]:
    wordings: defaultdict[tuple[str, str], list[Example]] = defaultdict(list)
    for example in examples:
        wordings[example.group, wording(example.question, example.context)].append(example)
    numbers = {key: number(config.seed, *key) for key in wordings}
    testable = {key: all(_testable(e, config) for e in items) for key, items in wordings.items()}
    groups: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for key in wordings:
        groups[key[0]].append(key)
    # Every group keeps the wording that is least like a test item in train.
    anchors = {max(keys, key=lambda k: (not testable[k], numbers[k])) for keys in groups.values()}
    free = {
        key: len(wordings[key])
        for key in wordings
        if key not in anchors and testable[key] and numbers[key] < config.test
    }
    tested = _capped(free, numbers, config)
    sides = {
        key: TEST if key in tested else TRAIN if key in anchors else _side(numbers[key], config) for key in wordings
    }
    return {e.id: sides[key] for key, items in wordings.items() for e in items}


def _side(value: float, config: Annotate) -> str:
    return VALIDATION if config.test <= value < config.test + config.validation else TRAIN


def _testable(example: Example, config: Annotate) -> bool:
    return not config.test_sources or example.source in config.test_sources


def _capped(sizes: Mapping[K, int], numbers: Mapping[K, float], config: Annotate) -> set[K]:
    """Those that fit into `max_test_items`, in the order of their numbers."""
    chosen, room = set(), config.max_test_items or sum(sizes.values())
    for key in sorted(sizes, key=lambda k: numbers[k]):
        if sizes[key] <= room:
            chosen.add(key)
            room -= sizes[key]
    return chosen

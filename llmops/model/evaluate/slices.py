"""Slices of the test, because a model can be better on the whole and worse for one source."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from llmops.frame.records import Example

MAX_TOPICS = 20  #: most topics that get a slice, those with most items first


def make_slices(items: Sequence[Example], min_items: int) -> dict[str, dict[str, list[int]]]:
    """Return kind → name → positions of items: by source, by topic and by the reference's length in words.

    Sources are in the order of their names, topics of their size, lengths from short to long in about thirds. Slices of
    fewer than `min_items` items are left out.
    """
    lengths = [len(item.answer.split()) for item in items]
    bounds = sorted({int(b) for b in np.quantile(lengths, [1 / 3, 2 / 3], method="lower")} - {max(lengths)})
    by_topic = _group_rows([item.group for item in items], min_items)
    spans = _name_spans(bounds)
    by_length = _group_rows([spans[int(np.searchsorted(bounds, length))] for length in lengths], min_items)
    return {
        "source": dict(sorted(_group_rows([item.source for item in items], min_items).items())),
        "topic": dict(sorted(by_topic.items(), key=lambda part: (-len(part[1]), part[0]))[:MAX_TOPICS]),
        "length": {name: by_length[name] for name in spans if name in by_length},
    }


def _group_rows(names: Sequence[str], min_items: int) -> dict[str, list[int]]:
    """Return name → its positions in `names`, if there are at least `min_items`."""
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        rows[name].append(row)
    return {name: positions for name, positions in rows.items() if len(positions) >= min_items}


def _name_spans(bounds: Sequence[int]) -> list[str]:
    """Return the names of the spans; `bounds` are the longest length of each span but the last."""
    starts = [0, *(b + 1 for b in bounds)]
    spans = [f"{start} to {stop} words" for start, stop in zip(starts, bounds, strict=False)]
    return [*spans, f"{starts[-1]} words and more"]

"""Parts of the test that are looked at by themselves: a model can be better on the whole and worse for one source."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from llmops.frame.records import Example

TOPICS = 20  #: most topics that get a slice, those with most items first


def slices(items: Sequence[Example], least: int) -> dict[str, dict[str, list[int]]]:
    """Return kind → name → positions of items: by source, by topic and by the reference's length in words.

    Sources are in the order of their names, topics of their size, lengths from short to long in about thirds. Slices of
    fewer than `least` items are left out.
    """
    lengths = [len(item.answer.split()) for item in items]
    bounds = sorted({int(b) for b in np.quantile(lengths, [1 / 3, 2 / 3], method="lower")} - {max(lengths)})
    by_topic = _rows_by_name([item.group for item in items], least)
    spans = _spans(bounds)
    by_length = _rows_by_name([spans[int(np.searchsorted(bounds, length))] for length in lengths], least)
    return {
        "source": dict(sorted(_rows_by_name([item.source for item in items], least).items())),
        "topic": dict(sorted(by_topic.items(), key=lambda part: (-len(part[1]), part[0]))[:TOPICS]),
        "length": {name: by_length[name] for name in spans if name in by_length},
    }


def _rows_by_name(names: Sequence[str], least: int) -> dict[str, list[int]]:
    """Name → positions at which it stands in `names`, if there are at least `least`."""
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        rows[name].append(row)
    return {name: found for name, found in rows.items() if len(found) >= least}


def _spans(bounds: Sequence[int]) -> list[str]:
    """Return the names of the spans; `bounds` are the longest length of each span but the last."""
    starts = [0, *(b + 1 for b in bounds)]
    spans = [f"{start} to {stop} words" for start, stop in zip(starts, bounds, strict=False)]
    return [*spans, f"{starts[-1]} words and more"]

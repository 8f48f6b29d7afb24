"""Bootstrap intervals of means and other figures that are computed from sums over items.

A mean, a perplexity, a corpus BLEU and a macro F1 are all functions of sums over the items. So one table of columns is
resampled for all of them, every figure of every model has the same draws, and differences of models are paired. Topics
are drawn, not items: the wordings of one topic are correlated, so they are less evidence than their number says (Field
and Welsh 2007, "Bootstrapping clustered data").
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
FigureName = TypeVar("FigureName", bound=Hashable)

_CHUNK = 500  #: 500 draws of 10,000 topics of 8 bytes are 40 MB


class Interval(TypedDict):
    """A figure with the bounds of its confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure of a set of items, computed from sums over the items."""

    columns: Floats  #: shape (items, sums)
    combine: Callable[[Floats], Floats]  #: sums of shape (draws, sums) → the figure of each draw, shape (draws,)


def make_mean(values: Sequence[float | None]) -> Measure:
    """Return the measure of a mean of one value per item. Items without a value do not count."""
    return make_ratio([0.0 if value is None else value for value in values], [value is not None for value in values])


def make_ratio(numerators: ArrayLike, denominators: ArrayLike) -> Measure:
    """Return the measure of one value's sum divided by another's, such as nats per token."""
    return Measure(np.stack([numerators, denominators], axis=1).astype(np.float64), divide_sums)


def divide_sums(sums: Floats) -> Floats:
    """Divide the first of two sums by the second, in each draw. The result is NaN or infinite where the second is 0."""
    values: Floats = sums[:, 0] / sums[:, 1]
    return values


def resample(
    measures: Mapping[FigureName, Measure],
    topics: Sequence[str],
    resamples: int,
    seed: int,
    rows: Sequence[int] | None = None,
) -> dict[FigureName, Floats]:
    """Compute each measure as observed and in each resample of the items.

    Args:
        measures: all of the same items.
        topics: of each item. Where there is only one topic, items are drawn.
        resamples: how many.
        seed: the same draws for the same items.
        rows: only these items; by default all.

    Returns:
        Per measure an array of shape (1 + resamples,), the observed value first; NaN where it has none.
    """
    chosen = np.arange(len(topics)) if rows is None else np.asarray(rows, dtype=np.intp)
    groups = np.unique([topics[i] for i in chosen], return_inverse=True)[1]
    if groups.max() == 0:
        groups = np.arange(len(chosen))
    size = int(groups.max()) + 1
    table = np.concatenate([m.columns[chosen] for m in measures.values()], axis=1)
    sums = np.zeros((size, table.shape[1]))
    np.add.at(sums, groups, table)
    drawn = np.empty((1 + resamples, table.shape[1]))
    drawn[0] = table.sum(axis=0)
    rng = np.random.default_rng(seed)
    for start in range(1, 1 + resamples, _CHUNK):
        stop = min(start + _CHUNK, 1 + resamples)
        drawn[start:stop] = rng.multinomial(size, np.full(size, 1 / size), size=stop - start) @ sums
    ends = np.cumsum([m.columns.shape[1] for m in measures.values()])[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = zip(measures.items(), np.split(drawn, ends, axis=1), strict=True)
        return {key: measure.combine(part) for (key, measure), part in parts}


def summarize(values: Floats, confidence: float) -> Interval:
    """Return the observed value and its percentile interval, to four decimals. `values` is an array from `resample`."""
    low, high = compute_bounds(values, confidence)
    return {"mean": round(float(values[0]), 4), "low": round(low, 4), "high": round(high, 4)}


def compute_bounds(values: Floats, confidence: float) -> tuple[float, float]:
    """Return the unrounded bounds of the percentile interval (Efron 1979). `values` is an array from `resample`."""
    low, high = np.nanquantile(values[1:], [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def compute_interval(
    values: Sequence[float], resamples: int, confidence: float, seed: int, topics: Sequence[str] | None = None
) -> Interval:
    """Return the mean of one value per item with its interval. Without `topics` each item is drawn by itself."""
    topics = topics if topics is not None else [str(i) for i in range(len(values))]
    return summarize(resample({"": make_mean(values)}, topics, resamples, seed)[""], confidence)

"""How good an answer is, and how sure we are of a mean.

Token F1 and exact match as in SQuAD (arXiv:1606.05250, section 6.1); ROUGE-L by the library `rouge-score`.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Interval(TypedDict):
    """A mean with the bounds of its confidence interval."""

    mean: float
    low: float
    high: float


def normalise(text: str) -> list[str]:
    """The words of `text` in lower case, without punctuation and articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of word precision and recall, 0 to 1; two empty texts are equal."""
    ours, theirs = normalise(answer), normalise(reference)
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))


def exact_match(answer: str, reference: str) -> float:
    """1 if both have the same words in the same order, else 0."""
    return float(normalise(answer) == normalise(reference))


def rouge_l(answer: str, reference: str) -> float:
    """F-measure of the longest common subsequence, with stemming, 0 to 1."""
    return float(_rouge().score(reference, answer)["rougeL"].fmeasure)


METRICS: dict[str, Callable[[str, str], float]] = {
    "token_f1": token_f1,
    "exact_match": exact_match,
    "rouge_l": rouge_l,
}


def interval(values: Sequence[float], resamples: int, confidence: float, seed: int) -> Interval:
    """Mean of `values` with its percentile bootstrap interval (Efron 1979)."""
    array: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, len(array), (resamples, len(array)))
    low, high = np.quantile(array[draws].mean(axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return {"mean": round(float(array.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)

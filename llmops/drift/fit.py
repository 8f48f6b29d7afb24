"""How well the training data explain a text: by the words of the group of examples that does so best.

Known words about something new fit no group. Of banking77, of a question about a topic that the training data do not
have and one that they have, the former fits worse for 0.79; it has more unknown words for 0.57, and is less near the
nearest topic for 0.69.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmops.data.text.words import number_of
from llmops.drift.topics import BUCKETS

PRIOR = 100.0  #: words of the language at large that each group's language is mixed with; 30 to 300 do as well
_UNSEEN = 0.3  #: what is added to each bucket's count of the language at large


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """The languages of groups of examples, beside that of all of them. A small group has one, too: none is named."""

    groups: NDArray[np.int64]  #: (n,): the groups that have a word, bucket by bucket
    gains: NDArray[np.float64]  #: (n,): what such a word adds in such a group
    starts: NDArray[np.int64]  #: (buckets + 1,): where each bucket begins in both
    losses: NDArray[np.float64]  #: (groups,): what each word takes

    def of(self, words: Sequence[str]) -> float | None:
        """The log of how much likelier the words are in the group that they fit best than in all examples, over the
        root of their number; None without words, or where there are not two groups.

        A language is a group's words, with the language at large as Dirichlet prior (Zhai and Lafferty 2001, "A study
        of smoothing methods for language models applied to ad hoc information retrieval").
        """
        if not words or len(self.losses) < 2:
            return None
        likelier = len(words) * self.losses
        for bucket, times in Counter(number_of(word) % BUCKETS for word in words).items():
            here = slice(self.starts[bucket], self.starts[bucket + 1])
            likelier[self.groups[here]] += times * self.gains[here]  # a group is once in a bucket
        return round(float(likelier.max()) / math.sqrt(len(words)), 4)


def fit_of(texts: Sequence[Sequence[str]], groups: Sequence[str]) -> Fit:
    """The languages of the groups of some texts, given as words."""
    number = {name: n for n, name in enumerate(sorted(set(groups)))}
    counts = Counter(
        (number[name], number_of(word) % BUCKETS) for text, name in zip(texts, groups, strict=True) for word in text
    )
    found = sorted(counts.items(), key=lambda entry: (entry[0][1], entry[0][0]))
    rows, columns = np.array([key for key, _ in found], np.int64).reshape(-1, 2).T
    times = np.array([count for _, count in found], np.float64)
    at_large = np.bincount(columns, times, BUCKETS) + _UNSEEN
    at_large /= at_large.sum()
    sizes = np.bincount(rows, times, len(number))
    gains = np.log1p(times / (PRIOR * at_large[columns]))
    starts = np.searchsorted(columns, np.arange(BUCKETS + 1))
    return Fit(rows, gains, starts, np.log(PRIOR / (PRIOR + sizes)))

"""Answers that are the documents' own words: the sentences of the passages that are most like the question.

No model writes them, so nothing in them is made up; what is not said in a few sentences, they do not say either. They
follow each other: what is meant by "it" and "then" stands before, and what to do about it behind. Of 108 rewordings of
a FAQ, three that do have a token F1 of 0.61 with the answers, the two that are the most alike one by one 0.51.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llmops.data.index.ranking import Hit
from llmops.data.text.sentences import sentences
from llmops.embedding.embedder import Embedder

MOST = 3  #: sentences


class Quote(NamedTuple):
    """What is quoted."""

    text: str  #: empty: the passages have no sentence
    hit: int  #: of which passage it is


def quote(question: str, hits: Sequence[Hit], embedder: Embedder, most: int = MOST) -> Quote:
    """The best sentences of the passages, as they stand there.

    Each is compared with the question as the index has it, under its headings. With the best of them come those before
    or behind it in its passage, so that all together are as like the question as so many can be.

    Raises:
        ChildFailed: if the embedder's process ends or hangs; ArtifactError: if its model is not installed.
    """
    said = [(n, sentence) for n, hit in enumerate(hits) for sentence in sentences(hit.passage.text)]
    if not said:
        return Quote("", 0)
    under = [f"{hits[n].passage.headings}\n{sentence}" for n, sentence in said]
    vectors = embedder.embed_beginnings([question, *under])
    likeness = vectors[1:] @ vectors[0]
    row = int(np.argmax(likeness))
    best = said[row][0]
    own = [n for n, (hit, _) in enumerate(said) if hit == best]
    length = min(most, len(own))
    starts = range(max(own[0], row - length + 1), min(row, own[-1] - length + 1) + 1)
    start = max(starts, key=lambda n: float(likeness[n : n + length].sum()))
    return Quote(" ".join(sentence for _, sentence in said[start : start + length]), best)

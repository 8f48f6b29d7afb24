"""Answers without a model: the sentences of the passages that are most like the question, by words and by vectors."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise
from typing import NamedTuple

from llmops.data.retrieval.search import Hit, Index
from llmops.data.retrieval.terms import TOKENIZER, terms_of
from llmops.data.text.sentences import sentences

QUOTED = 4  #: most sentences of an answer
BY_WORDS = 0.6  #: weight of the words that question and sentence share, beside that of their likeness


class _Sentence(NamedTuple):
    passage: int  #: its rank
    text: str
    read: str  #: with the headings over it


def quote(index: Index, question: str, hits: Sequence[Hit]) -> str:
    """Return the sentences that answer a question, in the order of the passages and of their texts.

    A sentence counts by its likeness to the question, that of its passage, and the share of the question's words that
    it has, the rare ones more.
    """
    found = [
        _Sentence(rank, text, ": ".join(filter(None, (hit.passage.headings, text))))
        for rank, hit in enumerate(hits)
        for text in sentences(hit.passage.text)
    ]
    scores = _shared(index.weigh_words(question), found)
    if all(hit.likeness is not None for hit in hits):
        vectors = index.embedder.embed([question, *(sentence.read for sentence in found)])
        for n, alike in enumerate(vectors[1:] @ vectors[0]):
            scores[n] = BY_WORDS * scores[n] + float(alike) + (hits[found[n].passage].likeness or 0)
    best = sorted(sorted(range(len(found)), key=scores.__getitem__, reverse=True)[:QUOTED])
    parts = [found[best[0]].text]
    for before, n in pairwise(best):
        gap = "\n\n" if found[n].passage != found[before].passage else " " if n == before + 1 else " … "
        parts += [gap, found[n].text]
    return "".join(parts)


def _shared(words: dict[str, float], found: Sequence[_Sentence]) -> list[float]:
    """Return the share of a question's words that each sentence has, in whatever English form."""
    shares, whole = [0.0] * len(found), sum(words.values()) or 1.0
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute(f'CREATE VIRTUAL TABLE read USING fts5(text, tokenize = "{TOKENIZER}")')
        rows = ((n, " ".join(terms_of(sentence.read))) for n, sentence in enumerate(found))
        database.executemany("INSERT INTO read (rowid, text) VALUES (?, ?)", rows)
        for word, weight in words.items():
            for (n,) in database.execute("SELECT rowid FROM read WHERE read MATCH ?", (f'"{word}"',)):
                shares[n] += weight / whole
    return shares

"""Answers without a model: the sentences of the passages that are most like the question, by words and by vectors."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import NamedTuple

from llmops.data.retrieval.search import Hit, Index
from llmops.data.retrieval.terms import TOKENIZER, terms_of
from llmops.data.text.sentences import spans
from llmops.frame.records import Passage

QUOTED = 4  #: sentences that are chosen
LEAST = 2  #: sentences of a passage: the one that follows often says what is meant
BY_WORDS = 0.6  #: weight of the words that question and sentence share, beside that of their likeness

_ITEM = re.compile(r"(?:[-*•–]|\d+[.)])\s")
_LEADS = re.compile(r":(?:\s+\d+[.)])?$")  # in prints, the number of the first item often stands in the same line


class _Sentence(NamedTuple):
    passage: int  #: its rank
    start: int  #: in the text of the passage
    end: int
    listed: bool  #: it is in an item of a list
    leads: bool  #: it ends with a colon: code or a list follows
    read: str  #: with the headings over it


def quote(index: Index, question: str, hits: Sequence[Hit]) -> str:
    """Return the part of each passage that answers a question, from the first chosen sentence to the last.

    A sentence counts by its likeness to the question, that of its passage, and the share of the question's words that
    it has, the rare ones more. Lists are quoted whole, with the sentence before them, and so is what follows a colon.
    The headings are named over a list without such a sentence, and where several passages are quoted.
    """
    found = [sentence for rank, hit in enumerate(hits) for sentence in _sentences(rank, hit)]
    scores = _shared(index.weigh_words(question), found)
    if all(hit.likeness is not None for hit in hits):
        vectors = index.embedder.embed([question, *(sentence.read for sentence in found)])
        for n, alike in enumerate(vectors[1:] @ vectors[0]):
            scores[n] = BY_WORDS * scores[n] + float(alike) + (hits[found[n].passage].likeness or 0)
    best = sorted(range(len(found)), key=scores.__getitem__, reverse=True)[:QUOTED]
    runs = list[tuple[Passage, list[_Sentence]]]()
    for rank in sorted({found[n].passage for n in best}):
        chosen = [n for n in best if found[n].passage == rank]
        sentences = [one for one in found if one.passage == rank]
        runs.append((hits[rank].passage, _whole(sentences, found[min(chosen)], found[max(chosen)])))
    parts = []
    for passage, run in runs:
        text = passage.text[run[0].start : run[-1].end].strip()
        above = passage.headings if run[0].listed or len(runs) > 1 else ""
        parts.append(f"{above}:\n{text}" if above else text)
    return "\n\n".join(parts)


def _sentences(rank: int, hit: Hit) -> list[_Sentence]:
    text, found, listed, before = hit.passage.text, list[_Sentence](), False, 0
    for start, end in spans(text):
        part = text[start:end].strip()
        continues = start > 0 and not text[before:start].endswith("\n")  # the line, or indented the paragraph
        listed = bool(_ITEM.match(part)) or (listed and continues)
        read = ": ".join(filter(None, (hit.passage.headings, part)))
        found.append(_Sentence(rank, start, end, listed, bool(_LEADS.search(part)), read))
        before = end
    return found


def _whole(passage: Sequence[_Sentence], first: _Sentence, last: _Sentence) -> list[_Sentence]:
    """Return the sentences from the first to the last one, two at least, with all of a list and around a colon."""
    start, end = passage.index(first), passage.index(last) + 1
    while start and (passage[start].listed or passage[start - 1].leads):
        start -= 1
    end = min(len(passage), max(end, start + LEAST))
    while end < len(passage) and (passage[end].listed or passage[end - 1].leads):
        end += 1
    return list(passage[start:end])


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

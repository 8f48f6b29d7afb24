"""Answers without a model: the sentences of the passages that are most like the question, by words and by vectors."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import NamedTuple

from llmops.data.retrieval.search import Hit, Index
from llmops.data.retrieval.terms import FTS_TOKENIZER, extract_terms
from llmops.data.text.sentences import find_sentence_spans
from llmops.frame.records import Passage

MAX_QUOTED = 4  #: most sentences that are chosen
MIN_SENTENCES = 2  #: least sentences quoted of a passage: the next one often explains the chosen one
WORD_WEIGHT = 0.6  #: weight of the shared words of question and sentence; the weight of their likeness is 1

_LIST_ITEM = re.compile(r"(?:[-*•–]|\d+[.)])\s")
# in prints, the number of the first item often stands in the same line
_ENDS_WITH_COLON = re.compile(r":(?:\s+\d+[.)])?$")


class _Sentence(NamedTuple):
    rank: int  #: rank of its passage
    start: int  #: its start in the text of the passage
    end: int
    listed: bool  #: it is part of a list item
    ends_with_colon: bool  #: code or a list follows
    text_with_headings: str


def quote_sentences(index: Index, question: str, hits: Sequence[Hit]) -> str:
    """Return the part of each passage that answers a question, from the first chosen sentence to the last.

    The score of a sentence is its likeness to the question, plus the likeness of its passage, plus the weighted share
    of the question's words that it has; rare words weigh more. A list is quoted whole, with the sentence before it. So
    is text after a colon. Headings are added to a list without such a sentence, and if several passages are quoted.
    """
    candidates = [sentence for rank, hit in enumerate(hits) for sentence in _split_sentences(rank, hit)]
    scores = _compute_word_shares(index.weigh_words(question), candidates)
    if all(hit.likeness is not None for hit in hits):
        vectors = index.embedder.embed([question, *(sentence.text_with_headings for sentence in candidates)])
        for n, likeness in enumerate(vectors[1:] @ vectors[0]):
            scores[n] = WORD_WEIGHT * scores[n] + float(likeness) + (hits[candidates[n].rank].likeness or 0)
    best = sorted(range(len(candidates)), key=scores.__getitem__, reverse=True)[:MAX_QUOTED]
    runs = list[tuple[Passage, list[_Sentence]]]()
    for rank in sorted({candidates[n].rank for n in best}):
        chosen = [n for n in best if candidates[n].rank == rank]
        sentences = [sentence for sentence in candidates if sentence.rank == rank]
        runs.append((hits[rank].passage, _extend_run(sentences, candidates[min(chosen)], candidates[max(chosen)])))
    parts = []
    for passage, run in runs:
        text = passage.text[run[0].start : run[-1].end].strip()
        headings = passage.headings if run[0].listed or len(runs) > 1 else ""
        parts.append(f"{headings}:\n{text}" if headings else text)
    return "\n\n".join(parts)


def _split_sentences(rank: int, hit: Hit) -> list[_Sentence]:
    text, sentences, listed, previous_end = hit.passage.text, list[_Sentence](), False, 0
    for start, end in find_sentence_spans(text):
        part = text[start:end].strip()
        # of the line, or of an indented paragraph
        is_continuation = start > 0 and not text[previous_end:start].endswith("\n")
        listed = bool(_LIST_ITEM.match(part)) or (listed and is_continuation)
        text_with_headings = ": ".join(filter(None, (hit.passage.headings, part)))
        sentences.append(_Sentence(rank, start, end, listed, bool(_ENDS_WITH_COLON.search(part)), text_with_headings))
        previous_end = end
    return sentences


def _extend_run(sentences: Sequence[_Sentence], first: _Sentence, last: _Sentence) -> list[_Sentence]:
    """Return the sentences from the first to the last one, at least two, with whole lists and text around a colon."""
    start, end = sentences.index(first), sentences.index(last) + 1
    while start and (sentences[start].listed or sentences[start - 1].ends_with_colon):
        start -= 1
    end = min(len(sentences), max(end, start + MIN_SENTENCES))
    while end < len(sentences) and (sentences[end].listed or sentences[end - 1].ends_with_colon):
        end += 1
    return list(sentences[start:end])


def _compute_word_shares(weights: dict[str, float], sentences: Sequence[_Sentence]) -> list[float]:
    """Return for each sentence the weighted share of the question's words that it has, in any English form."""
    shares, total = [0.0] * len(sentences), sum(weights.values()) or 1.0
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute(f'CREATE VIRTUAL TABLE read USING fts5(text, tokenize = "{FTS_TOKENIZER}")')
        rows = ((n, " ".join(extract_terms(sentence.text_with_headings))) for n, sentence in enumerate(sentences))
        database.executemany("INSERT INTO read (rowid, text) VALUES (?, ?)", rows)
        for word, weight in weights.items():
            for (n,) in database.execute("SELECT rowid FROM read WHERE read MATCH ?", (f'"{word}"',)):
                shares[n] += weight / total
    return shares

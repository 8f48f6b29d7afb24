"""Answers without a model: the sentences of the passages that are most like the question, by words and by vectors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from llmops.data.retrieval.search import Hit, Index
from llmops.data.retrieval.terms import sum_shared_words
from llmops.data.text.sentences import find_sentence_spans

MAX_QUOTED = 4  #: most sentences that are chosen
MIN_SENTENCES = 2  #: least sentences quoted of a passage: the next one often explains the chosen one
WORD_WEIGHT = 0.6  #: weight of the shared words of question and sentence; the weight of their likeness is 1
PASSAGE_WEIGHT = 2.0  #: weight of the likeness of question and passage

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


def quote_sentences(
    index: Index, question: str, hits: Sequence[Hit], weights: Mapping[str, float]
) -> tuple[str, list[Hit]]:
    """Return the parts of passages that answer a question, and the passages that they are from, in the quote's order.

    The score of a sentence is its likeness to the question, plus twice the likeness of its passage, plus the weighted
    share of the question's words that it has; rare words weigh more. The section with the best sentence comes first.
    Passages of a section stand in their order. Of each passage the sentences from the first chosen one to the last are
    quoted. A list is quoted whole, with the sentence before it. So is text after a colon. Headings stand over a list
    without such a sentence, and over each section if several passages are quoted.

    Args:
        index: the index of the passages.
        question: the user's question.
        hits: the passages.
        weights: the words of the question with their rarity, see `Index.weigh_words`.
    """
    candidates = [sentence for rank, hit in enumerate(hits) for sentence in _split_sentences(rank, hit)]
    scores = _score_sentences(index, question, hits, candidates, weights)
    best = sorted(range(len(candidates)), key=scores.__getitem__, reverse=True)[:MAX_QUOTED]
    chosen_by_section = dict[str, list[_Sentence]]()
    for n in best:
        section = hits[candidates[n].rank].passage.document
        chosen_by_section.setdefault(section, []).append(candidates[n])
    runs = list[tuple[Hit, list[_Sentence]]]()
    for chosen in chosen_by_section.values():
        for rank in sorted({one.rank for one in chosen}, key=lambda rank: int(hits[rank].passage.part)):
            of_passage = sorted(one for one in chosen if one.rank == rank)
            sentences = [sentence for sentence in candidates if sentence.rank == rank]
            runs.append((hits[rank], _extend_run(sentences, of_passage[0], of_passage[-1])))
    return _format_runs(runs), [hit for hit, _ in runs]


def _score_sentences(
    index: Index, question: str, hits: Sequence[Hit], sentences: Sequence[_Sentence], weights: Mapping[str, float]
) -> list[float]:
    total = sum(weights.values()) or 1.0
    texts = [sentence.text_with_headings for sentence in sentences]
    shares = [shared / total for shared in sum_shared_words(weights, texts)]
    if any(hit.likeness is None for hit in hits):
        return shares
    vectors = index.embedder.embed([question, *texts])
    likeness = (vectors[1:] @ vectors[0]).tolist()
    return [
        WORD_WEIGHT * share + own + PASSAGE_WEIGHT * (hits[sentence.rank].likeness or 0)
        for share, own, sentence in zip(shares, likeness, sentences, strict=True)
    ]


def _format_runs(runs: Sequence[tuple[Hit, Sequence[_Sentence]]]) -> str:
    parts, above = list[str](), ""
    for hit, run in runs:
        text = hit.passage.text[run[0].start : run[-1].end].strip()
        headings = hit.passage.headings if run[0].listed or len(runs) > 1 else ""
        parts.append(f"{headings}:\n{text}" if headings and headings != above else text)
        above = headings
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

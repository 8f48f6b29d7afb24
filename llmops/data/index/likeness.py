"""The least match at which a question is answered, chosen by the documents themselves when they are indexed.

Nobody has asked anything yet. So the documents' own questions are asked, and sentences where a document asks nothing.
Each is compared with its passage without it, and with the passages that the search finds. If more than `QUANTILE` of
them match less than the usual value, a lower one is chosen. Pairs of a sentence and the rest of its passage stand for
questions and answers in Lee et al., "Latent Retrieval for Weakly Supervised Open Domain Question Answering", ACL 2019.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llmops.data.retrieval.file_store import FileStore, count_passages, open_database, open_vectors, read_passages
from llmops.data.retrieval.grounding import SEARCHED_PASSAGES, measure_match
from llmops.data.retrieval.search import USUAL_LIKENESS, Hit, Index
from llmops.data.text.headings import PATH_SEPARATOR, is_question
from llmops.data.text.sentences import find_sentence_spans
from llmops.frame.records import Passage

ASKED, MIN_ASKED = 200, 20  #: most questions that are asked, and least ones by which a value is chosen
QUANTILE = 0.07  #: share of the questions that may match less
SENTENCE_WORDS = range(6, 31)  #: words of a sentence that is asked
MIN_REST_WORDS = 12  #: words that its passage has besides


class _Asked(NamedTuple):
    question: str
    passage: Passage  #: that answers it
    rest: Passage  #: the same without the question


def choose_likeness(folder: Path) -> dict[str, Any]:
    """Return the least match for an index whose passages and vectors are written, and by what it was chosen.

    Returns:
        `chosen`; `questions`, the number of those asked; `others_refused`, the share of them that would be refused if
        their own document was missing. Without enough questions, `chosen` is the usual value.
    """
    with closing(open_database(folder)) as database:
        count = count_passages(database)
        numbers = random.Random(0).sample(range(count), count)
        asked = list(_make_questions(passage for _, passage in read_passages(database, numbers)))
        if len(asked) < MIN_ASKED:
            return {"chosen": USUAL_LIKENESS, "questions": len(asked)}
        with closing(Index(FileStore(database, open_vectors(folder, count)))) as index:
            answered, others = _measure_matches(index, asked)
    quantile = float(np.quantile(answered, QUANTILE))
    # People ask in other words than documents do, so the documents' own questions never raise the usual value. Raised
    # to the mean of both, it refused 12 of 60 questions that two unseen manuals answer, the usual one 5.
    chosen = round(min(USUAL_LIKENESS, quantile), 2)
    refused = sum(match < chosen for match in others) / len(others)
    return {"chosen": chosen, "questions": len(asked), "others_refused": round(refused, 2)}


def _make_questions(passages: Iterable[Passage]) -> Iterator[_Asked]:
    """Yield up to `ASKED` questions, one of each document: its heading if that asks something, or else a sentence."""
    rng, documents = random.Random(0), set[str]()
    for passage in passages:
        if len(documents) == ASKED:
            return
        if passage.document in documents or not (asked := _make_question(passage, rng)):
            continue
        documents.add(passage.document)
        yield asked


def _make_question(passage: Passage, rng: random.Random) -> _Asked | None:
    *above, last = passage.headings.split(PATH_SEPARATOR)
    if is_question(last):
        return _Asked(last, passage, replace(passage, headings=PATH_SEPARATOR.join(above)))
    text, sentences = passage.text, list[tuple[int, int]]()
    for start, end in find_sentence_spans(text):
        if len(text[start:end].split()) in SENTENCE_WORDS:
            sentences.append((start, end))
    if not sentences:
        return None
    start, end = rng.choice(sentences)
    rest = f"{text[:start]}{text[end:]}".strip()
    if len(rest.split()) < MIN_REST_WORDS:
        return None
    return _Asked(text[start:end].strip(), passage, replace(passage, text=rest))


def _measure_matches(index: Index, asked: Sequence[_Asked]) -> tuple[list[float], list[float]]:
    """Return the best match of each question, and the best one without the document that answers it."""
    questions = index.embedder.embed([one.question for one in asked])
    rests = index.embedder.embed([f"{one.rest.headings}\n{one.rest.text}".strip() for one in asked])
    answered, others = list[float](), list[float]()
    for one, vector, rest in zip(asked, questions, rests, strict=True):
        hits = index.search(one.question, 2 * SEARCHED_PASSAGES, vector=vector)
        weights = index.weigh_words(one.question)
        found = [hit for hit in hits if hit.passage.id != one.passage.id][:SEARCHED_PASSAGES]
        own = Hit(one.rest, 0, None, None, float(rest @ vector))
        answered.append(measure_match([own, *found], weights) or 0.0)
        foreign = [hit for hit in hits if hit.passage.document != one.passage.document][:SEARCHED_PASSAGES]
        others.append(measure_match(foreign, weights) or 0.0)
    return answered, others

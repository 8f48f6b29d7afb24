"""Test questions about passages of an index, for documents that come without questions.

A question is the passage's last heading and the rarest words of one of its sentences, the answer is that sentence.
Such questions are easier to find than people's: docs/grounding.md says how much. They are no training examples and not
in the split ledger, because the same passages give the same questions.
"""

from __future__ import annotations

import math
import sqlite3
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import polars as pl

from llmops.data.annotate.quality import find_broken_rule
from llmops.data.annotate.split_history import TEST
from llmops.data.retrieval.file_store import open_database, read_passages
from llmops.data.retrieval.terms import extract_terms
from llmops.data.text.headings import PATH_SEPARATOR, is_task
from llmops.data.text.sentences import split_sentences
from llmops.data.work_tables import WorkTables
from llmops.frame.records import Example, Passage, make_content_id

QUESTION_WORDS = 5  #: words of a sentence in its question: with fewer, more questions are refused (docs/grounding.md)
MIN_SENTENCE_WORDS, MAX_SENTENCE_WORDS = 6, 40
RARITY_SAMPLE = 10_000  #: passages that show how rare a word is; others are read only until there are questions enough


def drop_task_headings(items: pl.DataFrame, tables: WorkTables) -> pl.DataFrame:
    """Return the examples whose question asks something: a heading that names a task does not."""
    tables.replace("these", items.select("row").to_arrow())
    rows = tables.read_rows("SELECT row, question FROM qa_pairs JOIN these USING (row)")
    return items.filter(~pl.col("row").is_in([row["row"] for row in rows if is_task(row["question"])]))


def make_passage_questions(index: Path, most: int, seed: int) -> list[Example]:
    """Return at most `most` questions, as few as possible about one document.

    Args:
        index: a finished artifact.
        most: the largest number of questions.
        seed: seed of the choice of passages.
    """
    with closing(open_database(index)) as database:
        rows = database.execute("SELECT number, id, document FROM passages").fetchall()
        rows.sort(key=lambda row: make_content_id(str(seed), row[1]))
        rarity = _make_rarity(database, [number for number, _, _ in rows[:RARITY_SAMPLE]])
        numbers = defaultdict[str, list[int]](list)
        for number, _, document in rows:
            numbers[document].append(number)
        documents = deque(_make_examples(database, own, rarity) for own in numbers.values())
        made = dict[str, Example]()
        while documents and len(made) < most:
            if (example := next(documents[0], None)) is None:
                documents.popleft()
            elif example.id not in made:
                made[example.id] = example
                documents.rotate(-1)
    return list(made.values())


def _make_rarity(database: sqlite3.Connection, numbers: Sequence[int]) -> Callable[[str], float]:
    """Return a function from a term to its inverse document frequency in these passages."""
    counts = Counter(term for _, passage in read_passages(database, numbers) for term in {*extract_terms(passage.text)})
    return lambda term: math.log(len(numbers) / (counts[term] or 1))


def _make_examples(
    database: sqlite3.Connection, numbers: Sequence[int], rarity: Callable[[str], float]
) -> Iterator[Example]:
    for _, passage in read_passages(database, numbers):
        if example := _make_example(passage, rarity):
            yield example


def _make_example(passage: Passage, rarity: Callable[[str], float]) -> Example | None:
    """Return a question about the sentence that has the most rare words; None if no sentence is fit."""
    terms = {text: list(dict.fromkeys(extract_terms(text))) for text in split_sentences(passage.text)}
    fit = [
        text for text, own in terms.items() if MIN_SENTENCE_WORDS <= len(own) <= MAX_SENTENCE_WORDS and "|" not in text
    ]
    if not fit:
        return None
    answer = max(fit, key=lambda text: sum(map(rarity, terms[text])))
    heading = (passage.headings or passage.title).split(PATH_SEPARATOR)[-1].rstrip("?!.: ")
    words = [term for term in terms[answer] if not term.isdigit() and term not in extract_terms(heading)]
    rare = sorted(words, key=rarity, reverse=True)[:QUESTION_WORDS]
    question = ": ".join(filter(None, (heading, ", ".join(word for word in words if word in rare)))) + "?"
    if find_broken_rule(question, answer):
        return None
    return Example(
        id=make_content_id("", question, answer),
        question=question,
        answer=answer,
        group=passage.document,
        split=TEST,
        source=passage.source,
        location=passage.location,
        position=passage.position,
        licence=passage.licence,
    )

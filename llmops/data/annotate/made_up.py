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

from llmops.data.annotate.past import TEST
from llmops.data.annotate.quality import broken_rule
from llmops.data.retrieval.files import open_database, read_passages
from llmops.data.retrieval.terms import terms_of
from llmops.data.text.headings import BETWEEN, names_task
from llmops.data.text.sentences import sentences
from llmops.data.worktables import WorkTables
from llmops.frame.records import Example, Passage, content_id

ASKED = 5  #: words of a sentence that are asked about: with fewer, more questions are refused (docs/grounding.md)
SHORTEST, LONGEST = 6, 40  #: words of a sentence
SAMPLED = 10_000  #: passages that show how rare a word is; others are read only until there are questions enough


def only_questions(items: pl.DataFrame, work: WorkTables) -> pl.DataFrame:
    """Return the examples whose question asks something: a heading that names a task does not."""
    work.replace("these", items.select("row").to_arrow())
    rows = work.rows("SELECT row, question FROM candidates JOIN these USING (row)")
    return items.filter(~pl.col("row").is_in([row["row"] for row in rows if names_task(row["question"])]))


def make_up(index: Path, most: int, seed: int) -> list[Example]:
    """Return at most so many questions, as few as possible about one document.

    Args:
        index: a finished artifact.
        most: questions that are made.
        seed: of the choice of passages.
    """
    with closing(open_database(index)) as database:
        rows = database.execute("SELECT number, id, document FROM passages").fetchall()
        rows.sort(key=lambda row: content_id(str(seed), row[1]))
        rarity = _rarity(database, [number for number, _, _ in rows[:SAMPLED]])
        numbers = defaultdict[str, list[int]](list)
        for number, _, document in rows:
            numbers[document].append(number)
        documents = deque(_examples(database, some, rarity) for some in numbers.values())
        made = dict[str, Example]()
        while documents and len(made) < most:
            if (example := next(documents[0], None)) is None:
                documents.popleft()
            elif example.id not in made:
                made[example.id] = example
                documents.rotate(-1)
    return list(made.values())


def _rarity(database: sqlite3.Connection, numbers: Sequence[int]) -> Callable[[str], float]:
    counts = Counter(term for _, passage in read_passages(database, numbers) for term in {*terms_of(passage.text)})
    return lambda term: math.log(len(numbers) / (counts[term] or 1))


def _examples(
    database: sqlite3.Connection, numbers: Sequence[int], rarity: Callable[[str], float]
) -> Iterator[Example]:
    for _, passage in read_passages(database, numbers):
        if example := _example(passage, rarity):
            yield example


def _example(passage: Passage, rarity: Callable[[str], float]) -> Example | None:
    """Return a question about the sentence that has the most rare words; None if no sentence is fit."""
    terms = {text: list(dict.fromkeys(terms_of(text))) for text in sentences(passage.text)}
    fit = [text for text, some in terms.items() if SHORTEST <= len(some) <= LONGEST and "|" not in text]
    if not fit:
        return None
    answer = max(fit, key=lambda text: sum(map(rarity, terms[text])))
    heading = (passage.headings or passage.title).split(BETWEEN)[-1].rstrip("?!.: ")
    words = [term for term in terms[answer] if not term.isdigit() and term not in terms_of(heading)]
    rare = sorted(words, key=rarity, reverse=True)[:ASKED]
    question = ": ".join(filter(None, (heading, ", ".join(word for word in words if word in rare)))) + "?"
    if broken_rule(question, answer):
        return None
    return Example(
        id=content_id("", question, answer),
        question=question,
        answer=answer,
        group=passage.document,
        split=TEST,
        source=passage.source,
        location=passage.location,
        position=passage.position,
        licence=passage.licence,
    )

"""Indexes to search: real questions in other words with the documents that answer them, and made-up passages by number.

The index of real ones is what the stage makes; the made-up ones are cut from the running text of this project's
documentation, so that their words are as common as those of any, and their vectors are drawn at random.
"""

from __future__ import annotations

import csv
import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from peers import ROOT, ArmFailedError

from llmops import artifacts
from llmops.config import Index
from llmops.data.index import database, stage
from llmops.data.index.files import PASSAGES, VECTORS
from llmops.data.row_file import RowFile
from llmops.embedding.weights import DIMENSIONS
from llmops.records import Document, Passage, content_id, schema, write_rows

FILES = ("covid_faq.csv", "covid_paraphrases.csv")
STRETCHES, WORDS, ASKED_WORDS = 4, (8, 22), 9  #: a made-up passage's parts, the words of each, those of a question
TOGETHER = 10_000


@dataclass(frozen=True, slots=True)
class Topic:
    """A question, its answer, and how people asked it in other words."""

    title: str  #: of its page
    question: str
    answer: str
    wordings: tuple[str, ...]


def shop() -> list[Topic]:
    """What the example's shop is asked."""
    found: list[Topic] = []

    def walk(part: Any, title: str) -> None:
        if isinstance(part, dict) and {"question", "answer", "wordings"} <= part.keys():
            found.append(Topic(title, part["question"], part["answer"], tuple(part["wordings"])))
        elif isinstance(part, dict | list):
            below = part.get("title", title) if isinstance(part, dict) else title
            for one in part.values() if isinstance(part, dict) else part:
                walk(one, below)

    walk(yaml.safe_load((ROOT / "examples" / "support_bot" / "content.yaml").read_text(encoding="utf-8")), "")
    return found


def covid(folder: Path | None) -> list[Topic]:
    """The FAQ of deepset's COVID-QA, where its files are at hand, and wordings that people judged alike."""
    places = [folder] if folder else [parent / "shared" / "data" for parent in Path(__file__).parents]
    for place in places:
        if all((place / name).is_file() for name in FILES):
            faq, pairs = (list(csv.DictReader((place / name).open(encoding="utf-8", newline=""))) for name in FILES)
            break
    else:
        if folder:
            raise ArmFailedError(f"{folder} has no {' and no '.join(FILES)}")
        return []
    wordings: dict[str, list[str]] = {row["question"].strip(): [] for row in faq}
    for pair in pairs:
        one, other = pair["question_1"].strip(), pair["question_2"].strip()
        if pair["similar"] == "1" and (one in wordings) != (other in wordings):
            known, new = (one, other) if one in wordings else (other, one)
            wordings[known].append(new)
    return [
        Topic("", row["question"], row["answer"], tuple(dict.fromkeys(wordings[row["question"].strip()])))
        for row in faq
    ]


def indexed(topics: Sequence[Topic], folder: Path, questions: bool) -> list[tuple[str, list[str]]]:
    """Index the answers, with their questions or without; returns each wording and the ids of what answers it."""
    ids: dict[str, list[str]] = {}
    documents = []
    for number, topic in enumerate(topics):
        parts = {"question": topic.question, "answer": topic.answer} if questions else {"text": topic.answer}
        place = {"source": "faq", "location": "faq", "position": f"row {number}"}
        title = topic.title if questions else ""
        documents.append(Document(id=content_id(folder.name, str(number)), **place, context=title, **parts))
        ids.setdefault(topic.question.strip(), []).append(documents[-1].id)
    clean, out = folder.parent / f"{folder.name}-clean", folder
    write_rows(clean / "documents" / "part-00000.parquet", documents, Document)
    out.mkdir()
    _finish(out, stage.run(Index(), clean=clean, out=out))
    asked = {(wording, topic.question.strip()) for topic in topics for wording in topic.wordings}
    return [(wording, ids[question]) for wording, question in sorted(asked)]


def made_up(folder: Path, number: int, asked: int) -> tuple[list[str], float]:
    """Make an index of so many passages; returns questions, and the seconds that the words took."""
    rng, words = random.Random(0), _running_text()
    folder.mkdir()
    with RowFile(folder / PASSAGES, schema(Passage)) as file:
        for start in range(0, number, TOGETHER):
            rows = [_passage(row, rng, words) for row in range(start, min(number, start + TOGETHER))]
            file.add(pa.Table.from_pylist([asdict(row) for row in rows], schema(Passage)))
    vectors = np.lib.format.open_memmap(folder / VECTORS, "w+", np.float32, (number, DIMENSIONS))
    drawn = np.random.default_rng(0)
    for start in range(0, number, TOGETHER):
        some = drawn.standard_normal((min(TOGETHER, number - start), DIMENSIONS), np.float32)
        vectors[start : start + TOGETHER] = some / np.linalg.norm(some, axis=1, keepdims=True)
    vectors.flush()
    begun = time.perf_counter()
    database.write(folder)
    seconds = time.perf_counter() - begun
    _finish(folder, {"model": Index().model})
    return [" ".join(_stretch(ASKED_WORDS, rng, words)) for _ in range(asked)], seconds


def texts(number: int) -> Iterator[str]:
    """Made-up passages alone."""
    rng, words = random.Random(1), _running_text()
    return (_passage(row, rng, words).text for row in range(number))


def _passage(row: int, rng: random.Random, words: Sequence[str]) -> Passage:
    text = " ".join(word for _ in range(STRETCHES) for word in _stretch(rng.randint(*WORDS), rng, words))
    place = {"source": "made", "location": f"{row // 20}.html", "position": f"section {row % 20}"}
    return Passage(id=content_id(str(row)), document=content_id("d", str(row // 20)), **place, title="Made", text=text)


def _stretch(number: int, rng: random.Random, words: Sequence[str]) -> Sequence[str]:
    at = rng.randrange(len(words) - number)
    return words[at : at + number]


def _running_text() -> list[str]:
    pages = sorted((ROOT / "docs").glob("*.md"))
    return [word for page in pages for word in re.findall(r"[^\W\d_]+", page.read_text(encoding="utf-8"))]


def _finish(folder: Path, metrics: Any) -> None:
    day = date.today().isoformat()
    record = artifacts.Record("index", folder.name, {}, {}, day, "", metrics, {}, "", day, day)
    artifacts.commit(folder, record)

"""Searching an index: by the words of a question (BM25), by its vector, and by both.

with open_index(folder) as index:
    for hit in index.search("How long does delivery take?", 5):
        print(hit.passage.title, hit.passage.text)
"""

from __future__ import annotations

import math
import sqlite3
import threading
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from llmops.data.retrieval.embedder import Embedder
from llmops.data.retrieval.files import count_passages, open_database, open_vectors, read_passages
from llmops.data.retrieval.minilm import Vectors
from llmops.data.retrieval.terms import terms_of
from llmops.frame.artifacts import read_record
from llmops.frame.errors import ArtifactError, LlmopsError
from llmops.frame.records import Passage

Way = Literal["fused", "bm25", "dense"]

CANDIDATES = 100  #: best passages of each way that are fused, or four times as many as are asked for
MOST_HITS = 1_000
MOST_WORDS = 64  #: of a question that are looked for, the first ones
#: The rarest words of a question are looked for: those that so many passages have together, and one in any case.
#: Ranking takes 1 ms for a thousand passages.
MOST_RANKED = 2_000
#: Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009) with the weights of the ways. The usual offset of
#: 60 and equal weights find less than vectors alone: recall@5 .87, with these .94 (242 rewordings of a FAQ).
RANK_OFFSET, BY_WORDS, BY_VECTOR = 10, 0.5, 1.0
_REMEDY = "Delete its artifact of the stage index, then `llmops run index` and `llmops run deploy` make it again."
ENOUGH = 20  #: words of a passage; a shorter one may say the same under another heading and mean something else


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found."""

    passage: Passage
    score: float  #: higher is better; comparable within one search only
    bm25: int | None  #: its rank by its words, from 1; None: it is not among the candidates
    dense: int | None  #: its rank by its vector
    likeness: float | None  #: cosine of its vector and that of the question; None: no vectors were compared


class Index:
    """An open index, see `open_index`. Any thread may search it."""

    def __init__(self, database: sqlite3.Connection, passages: int, vectors: Vectors | None, threads: int = 0) -> None:
        self._database, self._passages, self._vectors, self._threads = database, passages, vectors, threads
        self._lock = threading.Lock()

    @property
    def has_vectors(self) -> bool:
        """Return whether passages are also found by their meaning."""
        return self._vectors is not None

    def search(self, question: str, k: int = 5, way: Way = "fused") -> list[Hit]:
        """Return the best passages for a question, the best first; none for a question without words.

        A text that several pages have is returned once.

        Args:
            question: any text; the beginning of a long one counts.
            k: most passages that are returned; 1 to `MOST_HITS`.
            way: how they are ranked. Without vectors, and for a question in a script that their model hardly knows,
                `fused` ranks by words alone.

        Raises:
            LlmopsError: for another `k`; for `dense`, if the index has no vectors.
            ArtifactError: if the index is damaged, or the package of the vectors' model is not installed.
        """
        if not 1 <= k <= MOST_HITS:
            raise LlmopsError(f"A search finds 1 to {MOST_HITS:,} passages; {k} were asked for.")
        if way == "dense" and not self.has_vectors:
            raise LlmopsError("This index has no vectors: it was made with an empty index.model.")
        question = question.encode("utf-8", "replace").decode()  # halves of characters are no text
        words = _words_of(question)
        most, by_words, likeness = max(CANDIDATES, 4 * k), list[int](), None
        vectors = self._vectors if way == "dense" or (way == "fused" and _is_latin(question)) else None
        try:
            with self._lock:
                computed = self.embedder.start([question]) if words and vectors is not None else None
                if way != "dense":
                    by_words = self._by_words(words, most)
                if computed and vectors is not None:
                    likeness = vectors @ computed.result()[0]
                by_vector = [] if likeness is None else _largest(likeness, most)
                return list(islice(self._hits(by_words, by_vector, likeness), k))
        except sqlite3.Error as error:
            raise ArtifactError(f"The index cannot be searched ({error}). {_REMEDY}") from error

    def count(self) -> dict[str, Any]:
        """Return how many documents and passages the index has, and how many passages of each source."""
        documents = self._database.execute("SELECT count(DISTINCT document) FROM passages").fetchone()[0]
        sources = self._database.execute("SELECT source, count(*) FROM passages GROUP BY source ORDER BY source")
        return {"documents": documents, "passages": self._passages, "sources": dict(sources)}

    def of_documents(self, documents: Collection[str]) -> Iterator[Passage]:
        """Yield the passages of some documents, by their ids, in the order of the index; all passages are looked at."""
        rows = self._database.execute("SELECT number, document FROM passages ORDER BY number")
        numbers = [number for number, document in rows if document in documents]
        yield from (passage for _, passage in read_passages(self._database, numbers))

    def weigh_words(self, question: str) -> dict[str, float]:
        """Return the words of a question with their rarity: the logarithm of passages for each passage that has it."""
        with self._lock:
            counts = self._count([f'"{word}"' for word in _words_of(question)], self._passages)
        return {word: math.log((self._passages + 1) / (count + 0.5)) for word, count in counts.items()}

    def close(self) -> None:
        """Close the files, and release the model."""
        self._database.close()
        if "embedder" in self.__dict__:
            self.embedder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @cached_property
    def embedder(self) -> Embedder:
        """Return the model that makes the vectors of questions."""
        return Embedder(self._threads)

    def _by_words(self, words: Sequence[str], most: int) -> list[int]:
        """Return the numbers of the passages that have the rarest of these words, the best by BM25 first."""
        quoted = [f'"{word}"' for word in words]
        counts = self._count(quoted, MOST_RANKED)
        kept, ranked = list[str](), 0
        for word in sorted(filter(counts.get, quoted), key=counts.__getitem__):
            ranked += counts[word]
            if kept and ranked > MOST_RANKED:
                break
            kept.append(word)
        if not kept:
            return []
        best = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank, rowid LIMIT ?"
        return [number for (number,) in self._database.execute(best, (" OR ".join(kept), most))]

    def _count(self, quoted: Sequence[str], most: int) -> dict[str, int]:
        """Return the words with the number of passages that have each, at most so many."""
        counted = "SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT ?)"
        return {word: self._database.execute(counted, (word, most)).fetchone()[0] for word in quoted}

    def _hits(self, by_words: Sequence[int], by_vector: Sequence[int], likeness: Vectors | None) -> Iterator[Hit]:
        """Yield the passages by reciprocal rank, each text once."""
        ranks = [{number: rank for rank, number in enumerate(found, 1)} for found in (by_words, by_vector)]
        scores = {
            number: sum(
                weight / (RANK_OFFSET + found[number])
                for weight, found in zip((BY_WORDS, BY_VECTOR), ranks, strict=True)
                if number in found
            )
            for number in dict.fromkeys([*by_vector, *by_words])
        }
        before = set[tuple[str, ...]]()
        for number, passage in read_passages(self._database, sorted(scores, key=scores.__getitem__, reverse=True)):
            text = tuple(terms_of(passage.text))
            text = text if len(text) >= ENOUGH else (passage.headings, passage.text)
            if text not in before:
                before.add(text)
                like = None if likeness is None else float(likeness[number])
                yield Hit(passage, scores[number], ranks[0].get(number), ranks[1].get(number), like)


def _words_of(question: str) -> list[str]:
    return list(dict.fromkeys(terms_of(question)))[:MOST_WORDS]


def _largest(likeness: Vectors, most: int) -> list[int]:
    """Return the numbers of the passages that are the most alike, the best first."""
    some = np.argpartition(-likeness, most)[:most] if most < len(likeness) else np.arange(len(likeness))
    return [int(number) for number in some[np.lexsort((some, -likeness[some]))]]


def _is_latin(text: str) -> bool:
    """Return whether most letters are Latin: the model has learned English."""
    letters = [letter for letter in text if letter.isalpha()]
    return 2 * sum(unicodedata.name(letter, "").startswith("LATIN") for letter in letters) >= len(letters)


def open_index(folder: Path, threads: int = 0) -> Index:
    """Open the index of a finished artifact.

    Args:
        folder: the artifact, or a copy of it.
        threads: that compute the vector of a question; 0: one for each core.

    Raises:
        ArtifactError: if it is not finished, cannot be read, or has lost its vectors.
    """
    model = read_record(folder).metrics.get("model")
    try:
        number = count_passages(database := open_database(folder))
    except sqlite3.Error as error:
        raise ArtifactError(f"{folder} cannot be read ({error}). {_REMEDY}") from error
    return Index(database, number, open_vectors(folder, number) if model else None, threads)

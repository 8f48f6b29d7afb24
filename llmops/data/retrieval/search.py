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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self

from llmops.config import SearchServer
from llmops.data.retrieval.elasticsearch import ElasticsearchStore
from llmops.data.retrieval.embedder import Embedder
from llmops.data.retrieval.files import FileStore, Likeness, Near, count_passages, open_database, open_vectors
from llmops.data.retrieval.minilm import Vectors
from llmops.data.retrieval.terms import terms_of
from llmops.frame.artifacts import read_record
from llmops.frame.errors import ArtifactError, LlmopsError
from llmops.frame.records import Passage

Way = Literal["fused", "bm25", "dense"]

CANDIDATES = 100  #: best passages of each way that are fused, or four times as many as are asked for
MOST_HITS = 1_000
MOST_WORDS = 64  #: of a question that are looked for, the first ones
#: Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009) with the weights of the ways. The usual offset of
#: 60 and equal weights find less than vectors alone: recall@5 .87, with these .94 (242 rewordings of a FAQ).
RANK_OFFSET, BY_WORDS, BY_VECTOR = 10, 0.5, 1.0
_NOTHING: Near = (), lambda key: None
_REMEDY = "Delete its artifact of the stage index, then `llmops run index` and `llmops run deploy` make it again."
ENOUGH = 20  #: words of a passage; a shorter one may say the same under another heading and mean something else


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found."""

    passage: Passage
    score: float  #: higher is better; comparable within one search only
    bm25: int | None  #: its rank by its words, from 1; None: it is not among the candidates
    dense: int | None  #: its rank by its vector
    likeness: float | None  #: cosine of its vector and that of the question; None: they were not compared


class Index:
    """An open index, see `open_index`. Any thread may search it."""

    def __init__(self, store: FileStore | ElasticsearchStore, threads: int = 0) -> None:
        self._store, self._threads = store, threads
        self._lock = threading.Lock()

    @property
    def has_vectors(self) -> bool:
        """Return whether passages are also found by their meaning."""
        return self._store.has_vectors

    def embed(self, questions: Sequence[str]) -> Sequence[Vectors | None]:
        """Return the vectors of questions for `search`, computed together; None if the index has no vectors."""
        return list(self.embedder.embed(questions)) if self.has_vectors else [None] * len(questions)

    def search(self, question: str, k: int = 5, way: Way = "fused", vector: Vectors | None = None) -> list[Hit]:
        """Return the best passages for a question, the best first; none for a question without words.

        A text that several pages have is returned once.

        Args:
            question: any text; the beginning of a long one counts.
            k: most passages that are returned; 1 to `MOST_HITS`.
            way: how they are ranked. Without vectors, and for a question in a script that their model hardly knows,
                `fused` ranks by words alone.
            vector: of the question, from `embed`; None: it is computed.

        Raises:
            LlmopsError: for another `k`; for `dense`, if the index has no vectors.
            ArtifactError: if the index is damaged, or the package of the vectors' model is not installed.
            TransientError: if Elasticsearch does not answer.
        """
        if not 1 <= k <= MOST_HITS:
            raise LlmopsError(f"A search finds 1 to {MOST_HITS:,} passages; {k} were asked for.")
        if way == "dense" and not self.has_vectors:
            raise LlmopsError("This index has no vectors: it was made with an empty index.model.")
        question = question.encode("utf-8", "replace").decode()  # halves of characters are no text
        words = _words_of(question)
        if not words:
            return []
        most, near = max(CANDIDATES, 4 * k), _NOTHING
        compares = self.has_vectors and (way == "dense" or (way == "fused" and _is_latin(question)))
        try:
            with self._lock:
                self._store.begin()
                computed = self.embedder.start([question]) if compares and vector is None else None
                ranked = () if way == "dense" else self._store.by_words(words, most)
                vector = computed.result()[0] if computed else vector
                if compares and vector is not None:
                    near = self._store.by_vector(vector, most)
                return list(islice(self._hits(ranked, *near), k))
        except sqlite3.Error as error:
            raise ArtifactError(f"The index cannot be searched ({error}). {_REMEDY}") from error

    def weigh_words(self, question: str) -> dict[str, float]:
        """Return the words of a question with their rarity: the logarithm of passages for each passage that has it.

        It belongs to the search before: Elasticsearch has one time limit for both.
        """
        with self._lock:
            counts, passages = self._store.count_words(_words_of(question))
        return {word: math.log((passages + 1) / (count + 0.5)) for word, count in counts.items()}

    def close(self) -> None:
        """Close the files, and release the model."""
        self._store.close()
        if "embedder" in self.__dict__:
            self.embedder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @cached_property
    def embedder(self) -> Embedder:
        """Return the model that makes the vectors of questions."""
        return Embedder(self._threads)

    def _hits(self, by_words: Sequence[Any], by_vector: Sequence[Any], likeness: Likeness) -> Iterator[Hit]:
        """Yield the passages by reciprocal rank, each text once."""
        ranks = [{key: rank for rank, key in enumerate(found, 1)} for found in (by_words, by_vector)]
        scores = {
            key: sum(
                weight / (RANK_OFFSET + found[key])
                for weight, found in zip((BY_WORDS, BY_VECTOR), ranks, strict=True)
                if key in found
            )
            for key in dict.fromkeys([*by_vector, *by_words])
        }
        before = set[tuple[str, ...]]()
        for key, passage in self._store.read(sorted(scores, key=scores.__getitem__, reverse=True)):
            text = tuple(terms_of(passage.text))
            text = text if len(text) >= ENOUGH else (passage.headings, passage.text)
            if text not in before:
                before.add(text)
                yield Hit(passage, scores[key], ranks[0].get(key), ranks[1].get(key), likeness(key))


def _words_of(question: str) -> list[str]:
    return list(dict.fromkeys(terms_of(question)))[:MOST_WORDS]


def _is_latin(text: str) -> bool:
    """Return whether most letters are Latin: the model has learned English."""
    letters = [letter for letter in text if letter.isalpha()]
    return 2 * sum(unicodedata.name(letter, "").startswith("LATIN") for letter in letters) >= len(letters)


def open_index(folder: Path, threads: int = 0, server: SearchServer | None = None) -> Index:
    """Open the index of a finished artifact.

    Args:
        folder: the artifact, or a copy of it.
        threads: that compute the vector of a question; 0: one for each core.
        server: searches instead of the files, if the artifact is served there.

    Raises:
        ArtifactError: if it is not finished, cannot be read, or has lost its vectors.
    """
    model = read_record(folder).metrics.get("model")
    if server:
        return Index(ElasticsearchStore(server, folder, bool(model)), threads)
    try:
        number = count_passages(database := open_database(folder))
    except sqlite3.Error as error:
        raise ArtifactError(f"{folder} cannot be read ({error}). {_REMEDY}") from error
    return Index(FileStore(database, open_vectors(folder, number) if model else None), threads)

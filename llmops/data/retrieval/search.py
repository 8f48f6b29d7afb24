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
from llmops.data.retrieval.elasticsearch_store import ElasticsearchStore
from llmops.data.retrieval.embedder import Embedder
from llmops.data.retrieval.file_store import (
    FileStore,
    FindLikeness,
    VectorMatches,
    count_passages,
    open_database,
    open_vectors,
)
from llmops.data.retrieval.minilm import Vectors
from llmops.data.retrieval.terms import extract_terms
from llmops.frame.artifacts import read_record
from llmops.frame.errors import ArtifactError, LlmopsError
from llmops.frame.records import Passage

SearchMethod = Literal["fused", "bm25", "dense"]

CANDIDATES = 100  #: best passages of each method that are fused; or four times as many as are asked for, if more
MAX_HITS = 1_000
MAX_WORDS = 64  #: first words of a question that are searched
#: Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009), with a weight per method. The usual offset of 60
#: and equal weights find less than vectors alone: recall@5 .87, with these .94 (242 rewordings of a FAQ).
RANK_OFFSET, WORD_WEIGHT, VECTOR_WEIGHT = 10, 0.5, 1.0
_NO_MATCHES: VectorMatches = (), lambda key: None
_REMEDY = "Delete its artifact of the stage index, then `llmops run index` and `llmops run deploy` make it again."
USUAL_LIKENESS = 0.5  #: least match of a passage that answers, if none was chosen for the documents
MIN_DISTINCT_WORDS = 20  #: words; a shorter passage may mean something else under another heading


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

    def __init__(
        self, store: FileStore | ElasticsearchStore, threads: int = 0, likeness: float = USUAL_LIKENESS
    ) -> None:
        self._store, self._threads = store, threads
        self.likeness = likeness  #: least match of a passage that answers, chosen for these documents
        self._lock = threading.Lock()

    @property
    def has_vectors(self) -> bool:
        """Return whether passages are also found by their vectors."""
        return self._store.has_vectors

    def embed(self, questions: Sequence[str]) -> Sequence[Vectors | None]:
        """Return the vectors of questions for `search`, computed together; None if the index has no vectors."""
        return list(self.embedder.embed(questions)) if self.has_vectors else [None] * len(questions)

    def search(
        self, question: str, k: int = 5, method: SearchMethod = "fused", vector: Vectors | None = None
    ) -> list[Hit]:
        """Return the best passages for a question, the best first; none for a question without words.

        A text that several pages have is returned once.

        Args:
            question: any text; the beginning of a long one counts.
            k: most passages that are returned; 1 to `MAX_HITS`.
            method: how they are ranked. `fused` ranks by words alone if there are no vectors, or if the question is in
                a script that the model of the vectors hardly knows.
            vector: the question's vector from `embed`; None: it is computed.

        Raises:
            LlmopsError: for another `k`; for `dense`, if the index has no vectors.
            ArtifactError: if the index is damaged, or the package of the vectors' model is not installed.
            TransientError: if Elasticsearch does not answer.
        """
        if not 1 <= k <= MAX_HITS:
            raise LlmopsError(f"A search finds 1 to {MAX_HITS:,} passages; {k} were asked for.")
        if method == "dense" and not self.has_vectors:
            raise LlmopsError("This index has no vectors: it was made with an empty index.model.")
        question = question.encode("utf-8", "replace").decode()  # halves of characters are no text
        words = _extract_words(question)
        if not words:
            return []
        limit, matches = max(CANDIDATES, 4 * k), _NO_MATCHES
        use_vectors = self.has_vectors and (method == "dense" or (method == "fused" and _is_latin(question)))
        try:
            with self._lock:
                self._store.start_search()
                computing = self.embedder.submit([question]) if use_vectors and vector is None else None
                by_words = () if method == "dense" else self._store.search_words(words, limit)
                vector = computing.result()[0] if computing else vector
                if use_vectors and vector is not None:
                    matches = self._store.search_vector(vector, limit)
                return list(islice(self._fuse_ranks(by_words, *matches), k))
        except sqlite3.Error as error:
            raise ArtifactError(f"The index cannot be searched ({error}). {_REMEDY}") from error

    def weigh_words(self, question: str) -> dict[str, float]:
        """Return the words of a question with their rarity: 0 for a word of all passages, about 1 for a word of one.

        It is the inverse document frequency over its greatest value, so that it can be compared between indexes. Call
        it after `search`: Elasticsearch has one time limit for both.
        """
        with self._lock:
            counts, passages = self._store.count_passages_with(_extract_words(question))
        greatest = math.log(passages + 2)
        return {word: math.log((passages + 1) / (count + 0.5)) / greatest for word, count in counts.items()}

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

    def _fuse_ranks(self, by_words: Sequence[Any], by_vector: Sequence[Any], likeness: FindLikeness) -> Iterator[Hit]:
        """Yield the passages by reciprocal rank fusion, the best first. Each text is yielded once."""
        ranks = [{key: rank for rank, key in enumerate(keys, 1)} for keys in (by_words, by_vector)]
        scores = {
            key: sum(
                weight / (RANK_OFFSET + keys[key])
                for weight, keys in zip((WORD_WEIGHT, VECTOR_WEIGHT), ranks, strict=True)
                if key in keys
            )
            for key in dict.fromkeys([*by_vector, *by_words])
        }
        seen = set[tuple[str, ...]]()
        for key, passage in self._store.read(sorted(scores, key=scores.__getitem__, reverse=True)):
            text = tuple(extract_terms(passage.text))
            text = text if len(text) >= MIN_DISTINCT_WORDS else (passage.headings, passage.text)
            if text not in seen:
                seen.add(text)
                yield Hit(passage, scores[key], ranks[0].get(key), ranks[1].get(key), likeness(key))


def _extract_words(question: str) -> list[str]:
    return list(dict.fromkeys(extract_terms(question)))[:MAX_WORDS]


def _is_latin(text: str) -> bool:
    """Return whether most letters are Latin: the model has learned English."""
    letters = [letter for letter in text if letter.isalpha()]
    return 2 * sum(unicodedata.name(letter, "").startswith("LATIN") for letter in letters) >= len(letters)


def open_index(folder: Path, threads: int = 0, server: SearchServer | None = None) -> Index:
    """Open the index of a finished artifact.

    Args:
        folder: the artifact, or a copy of it.
        threads: number of threads that compute a question's vector; 0: one per core.
        server: the Elasticsearch that has this index and is searched instead of the files; None: search the files.

    Raises:
        ArtifactError: if it is not finished, cannot be read, or has lost its vectors.
    """
    metrics = read_record(folder).metrics
    model, likeness = metrics.get("model"), metrics.get("likeness", {}).get("chosen", USUAL_LIKENESS)
    if server:
        return Index(ElasticsearchStore(server, folder, bool(model)), threads, likeness)
    try:
        count = count_passages(database := open_database(folder))
    except sqlite3.Error as error:
        raise ArtifactError(f"{folder} cannot be read ({error}). {_REMEDY}") from error
    return Index(FileStore(database, open_vectors(folder, count) if model else None), threads, likeness)

"""How passages are ranked that say what is asked: by their words (BM25), by their vectors, and by both.

Where the passages lie is said by those who inherit from `Index`: `search` has the one in an artifact's own files,
`elasticsearch` the one on a server.
"""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from llmops.data.index.terms import terms_of
from llmops.data.text.words import words_of
from llmops.embedding.embedder import Embedder, Vectors
from llmops.errors import LlmopsError
from llmops.records import Passage

Way = Literal["bm25", "dense", "fused"]

CANDIDATES = 100  #: best different passages of each way that are fused, or four times as many as are wanted
MOST_READ = 10_000  #: passages of each way that are read, unless there are too few different ones: they take 0.1 s
MOST_HITS = 1_000
WORDS = 0.1  #: what the best passage by words has over one that is none of the best, beside the cosine, which leads
ENOUGH = 20  #: words of a passage that say by themselves what it is about
MOST_WORDS = 64  #: of a question that are looked for, the first ones
#: The rarest words are looked for: as many as so many passages have, about, and so many in any case. To rank passages
#: by words takes 1 ms a thousand; beside vectors, fewer do as well.
ALONE, BESIDE = (10_000, 2), (2_000, 1)

Found = tuple[int, Passage, float]  #: the number of a passage, from 0, the passage itself, and its score
_Said = tuple[str, str]  # headings and text
_Row = tuple[int, Passage]


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found."""

    passage: Passage
    score: float  #: higher is better; only those of one question and one way can be compared
    bm25: int | None  #: its rank by its words, from 1; None: it is not among the best
    dense: int | None  #: its rank by its vector
    likeness: float | None  #: cosine of its vector and the question's; None: the index has no vectors, or by bm25


class Near(Protocol):
    """How like the passages are to a question that has been embedded."""

    def best(self, most: int) -> Iterator[Found]:
        """The passages and their likeness, the best first; about so many are looked at, and more where these are not
        enough."""

    def of(self, numbers: Sequence[int]) -> Sequence[float]:
        """The likeness of passages by their numbers."""


class Index(ABC):
    """An index that is open. One thread at a time may search."""

    def __init__(self, passages: int, has_vectors: bool) -> None:
        self._passages = passages
        self.has_vectors = has_vectors  #: whether passages are found by what they mean, too

    def search(self, question: str, k: int = 5, way: Way = "fused") -> list[Hit]:
        """The best passages for a question, the best first; none for one without words.

        Of those that have the same text under the same headings there is one, and of those of `ENOUGH` words that have
        the same words, too.

        Args:
            question: whatever was asked; of a long one its beginning counts.
            k: how many at most; 1 to `MOST_HITS`.
            way: how they are ranked. Without vectors, and of a question in a script that their model hardly knows,
                `fused` is by words alone.

        Raises:
            LlmopsError: for another `k`; for `dense`, if the index has no vectors.
            ArtifactError: if the index is damaged, or the vectors' model is not installed; ChildFailed if it does not
                answer; IndexUnavailable or IndexRefused if the index is on a server that does not.
        """
        return self.look(question, k, way)[0]

    def look(self, question: str, k: int = 5, way: Way = "fused") -> tuple[list[Hit], float | None]:
        """The same, and the likeness of the nearest passage, whether or not it is one of them; None without vectors."""
        with self._told():
            return self._look(question, k, way)

    def _look(self, question: str, k: int, way: Way) -> tuple[list[Hit], float | None]:
        if not 1 <= k <= MOST_HITS:
            raise LlmopsError(f"A search finds 1 to {MOST_HITS:,} passages; {k} were asked for.")
        if way == "dense" and not self.has_vectors:
            raise LlmopsError("This index has no vectors: it was made with an empty index.model.")
        question = question.encode("utf-8", "replace").decode()  # halves of characters are no text
        words = list(dict.fromkeys(terms_of(question)))[:MOST_WORDS]
        by_meaning = way == "dense" or (way == "fused" and _is_latin(question))
        vector = self._embedded(question) if words and by_meaning else None
        rows: dict[_Said, _Row] = {}
        by_words = self._best(self._by_words(words, BESIDE if vector else ALONE), k, rows) if way != "dense" else {}
        near = self._near(vector.result()[0]) if vector else None
        by_vector = self._best(near.best(4 * k), k, rows) if near else {}
        like = dict(zip(rows, near.of([number for number, _ in rows.values()]), strict=True)) if near else {}

        def ranked(scores: dict[_Said, float]) -> list[_Said]:
            return sorted(scores, key=lambda said: (-scores[said], rows[said][1].id))

        ranks = [{said: rank for rank, said in enumerate(ranked(found), 1)} for found in (by_words, by_vector)]
        scores = {"bm25": by_words, "dense": by_vector, "fused": fused(by_words, like) if like else by_words}[way]
        hits = [
            Hit(rows[said][1], scores[said], ranks[0].get(said), ranks[1].get(said), like.get(said))
            for said in islice(_different(ranked(scores)), k)
        ]
        return hits, max(by_vector.values(), default=None) if near else None

    @abstractmethod
    def count(self) -> dict[str, Any]:
        """How many documents, passages and words are in it, and how many passages of each source."""

    @abstractmethod
    def _by_words(self, words: Sequence[str], most: tuple[int, int]) -> Iterable[Found]:
        """The passages that have a word, by BM25; of the words those count that `rarest` keeps."""

    @abstractmethod
    def _near(self, vector: Vectors) -> Near:
        """What is known of the passages beside the vector of a question."""

    @abstractmethod
    def _told(self) -> AbstractContextManager[None]:
        """Makes an error that the user understands of what goes wrong meanwhile."""

    def close(self) -> None:
        """Give back what it holds."""
        if "embedder" in self.__dict__:
            self.embedder.close()
        if "_meanwhile" in self.__dict__:
            self._meanwhile.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _best(self, found: Iterable[Found], k: int, rows: dict[_Said, _Row]) -> dict[_Said, float]:
        """The scores of the best different passages: `CANDIDATES`, or four times `k`, and all that equal the last one.

        Args:
            found: the best first.
            k: how many there are at least, if there are so many, whatever has to be read.
            rows: what was found so far; of those that say the same it has the one with the least id.
        """
        most, scores, last = max(CANDIDATES, 4 * k), dict[_Said, float](), 0.0
        for read, (number, passage, score) in enumerate(found):
            if (len(scores) >= most and score < last) or (len(scores) >= k and read >= MOST_READ):
                break
            said, last = (passage.headings, passage.text), score
            scores.setdefault(said, score)
            rows[said] = min(rows.get(said, (number, passage)), (number, passage), key=lambda one: one[1].id)
        return scores

    def _embedded(self, question: str) -> Future[Vectors] | None:
        """The question's vector, which another process makes meanwhile; None without vectors."""
        if not (self.has_vectors and self._passages):
            return None
        return self._meanwhile.submit(self.embedder.embed_beginnings, [question])

    @cached_property
    def _meanwhile(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1)

    @cached_property
    def embedder(self) -> Embedder:
        return Embedder()


def fused(by_words: Mapping[_Said, float], likeness: Mapping[_Said, float]) -> dict[_Said, float]:
    """The cosine of each passage, and up to `WORDS` for its words.

    The best by words has all of that, and the last of the `CANDIDATES` none, as what is not among them; where there are
    fewer, only a passage without the words has none.
    """
    ordered = sorted(by_words.values(), reverse=True)
    most = ordered[0] if ordered else 0.0
    least = ordered[CANDIDATES - 1] if len(ordered) >= CANDIDATES else 0.0

    def share(said: _Said) -> float:
        score = by_words.get(said, least)
        return max(0.0, (score - least) / (most - least)) if most > least else float(said in by_words)

    return {said: like + WORDS * share(said) for said, like in likeness.items()}


def rarest(
    words: Sequence[str], most: int, least: int, common: Mapping[str, int], occurs: Callable[[str], bool]
) -> Sequence[str]:
    """The rarest words: as many as `most` passages have together, and `least` that occur in any case.

    Args:
        words: of a question.
        most, least: see `ALONE`.
        common: word → how many passages have it, of those that many have.
        occurs: whether a passage has a word: what nobody has written is the rarest of all, and finds nothing.
    """
    kept, passages = list[str](), 0
    for word in sorted(words, key=lambda word: (common.get(word, 0), word)):
        passages += common.get(word, 0)
        if passages > most and len(list(islice(filter(occurs, kept), least))) == least:
            break
        kept.append(word)
    return kept


def _different(found: Iterable[_Said]) -> Iterator[_Said]:
    """Without what an earlier one says in the same words, as the PDF of a web page does under other headings; of few
    words, headings may say what they are about."""
    before = set[tuple[str, ...]]()
    for headings, text in found:
        words = tuple(words_of(text))
        if len(words) < ENOUGH:
            words = headings, text
        if words not in before:
            yield headings, text
        before.add(words)


def _is_latin(text: str) -> bool:
    """Whether most of its letters are Latin: of others the model, which learned English, tells little."""
    letters = [letter for letter in text if letter.isalpha()]
    return 2 * sum(unicodedata.name(letter, "").startswith("LATIN") for letter in letters) >= len(letters)

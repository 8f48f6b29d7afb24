"""What the documents say of a question, if they say anything: the passages that go into the prompt.

with Retriever(folder, config.grounding) as retriever:
    found = retriever.find("How long does delivery take?")
    prompts.prompt_ids(tokenizer, question, context_of(found)) if found else REFUSAL
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from llmops.config import Grounding
from llmops.data.index.passages import size_of
from llmops.data.index.ranking import Hit, Index
from llmops.data.index.search import open_index
from llmops.grounding.context import joined
from llmops.grounding.quote import quote

REFUSAL = "I can't answer that from the documents."  #: what is answered if no passage is good enough


@dataclass(frozen=True, slots=True)
class Found:
    """What the documents say of a question."""

    hits: list[Hit]  #: that a model is to answer from, the best first; none: the documents do not say
    likeness: float | None  #: cosine of the question and the nearest passage; None: nothing can be told of it
    quote: str = ""  #: of the first of them, if it was asked for: what answers the question, in its own words


class Retriever:
    """An index that is asked by any thread, one at a time."""

    def __init__(self, folder: Path, config: Grounding, opening: Callable[[Path], Index] = open_index) -> None:
        """Open the index of a finished artifact.

        Args:
            folder: of the artifact, or of a published index.
            config: what is good enough, and how much of it.
            opening: opens it; for the served one see `llmops.data.index.elasticsearch.opener`.

        Raises:
            ArtifactError: see `open_index`.
            IndexUnavailable: if it is on a server that does not answer.
        """
        self.folder, self._config, self._lock = folder, config, threading.Lock()
        self._index = opening(folder)

    @property
    def has_vectors(self) -> bool:
        """Whether passages are found by what they mean, too."""
        return self._index.has_vectors

    def best(self, question: str, k: int) -> list[Hit]:
        """The best passages for a question, whether they are good enough or not; see `Index.search`."""
        with self._lock:
            return self._index.search(question, k)

    def find(self, question: str) -> list[Hit]:
        """The passages that a model is to answer from, the best first; none if the documents do not say.

        They are good enough if the nearest is as like the question as `grounding.likeness` asks. Where there are no
        vectors, or the question is in a script that their model hardly knows, what has a word of the question is.

        Raises:
            ArtifactError: if the vectors' model is not installed; ChildFailed if it does not answer.
        """
        return self.look(question).hits

    def look(self, question: str, quoting: bool = False) -> Found:
        """The same, with how near the nearest passage is, whether or not it is good enough; and with what answers the
        question in the words of one of them, which is the first then."""
        with self._lock:
            hits, likeness = self._index.look(question, self._config.passages)
        if likeness is not None and likeness < self._config.likeness:
            return Found([], likeness)
        hits = within(hits, self._config.words)
        if not (quoting and hits and self._index.has_vectors):
            return Found(hits, likeness)
        with self._lock:
            text, best = quote(question, hits, self._index.embedder)
        return Found([hits[best], *hits[:best], *hits[best + 1 :]], likeness, text)

    def close(self) -> None:
        """Give back what it holds."""
        with self._lock:
            self._index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def within(hits: Sequence[Hit], words: int) -> list[Hit]:
    """The first hits whose texts have so many words together, and the first one in any case."""
    kept, left = list[Hit](), words
    for hit in hits:
        left -= size_of(said(hit))
        if kept and left < 0:
            break
        kept.append(hit)
    return kept


def said(hit: Hit) -> str:
    """A passage as a model reads it: where it stands, and what it says."""
    passage = hit.passage
    return f"{passage.headings}: {passage.text}" if passage.headings else passage.text


def context_of(hits: Sequence[Hit]) -> str:
    """The context of a prompt."""
    return joined([said(hit) for hit in hits])

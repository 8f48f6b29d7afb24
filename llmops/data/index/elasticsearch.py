"""An index that is searched on an Elasticsearch server, where `filling` has put it.

It finds what the index's own files find. The words are the same, since SQLite makes stems of both; how rare each is,
the server says, and its scores are brought to those of SQLite's BM25, but for the length of a passage, which Lucene
keeps in one byte. All vectors are compared.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from math import log
from pathlib import Path
from typing import Any

from llmops.config import Config, SearchServer
from llmops.data.index import filling
from llmops.data.index.files import COLUMNS, COMMON
from llmops.data.index.filling import told
from llmops.data.index.ranking import CANDIDATES, MOST_READ, Found, Index, rarest
from llmops.data.index.search import open_index
from llmops.data.index.stems import Stems
from llmops.embedding.embedder import Vectors
from llmops.errors import ArtifactError
from llmops.monitoring.elasticsearch_client import client_of, login_of
from llmops.monitoring.elasticsearch_reader import LOGINS
from llmops.records import Passage
from llmops.registry.indexes import folder_of
from llmops.registry.registry import registry_of

PAGE = 200  #: passages that have a word and are asked for at once
LEAST = 1e-6  #: what a word counts that more than half of the passages have, as in SQLite


class ElasticsearchIndex(Index):
    """An index on a server, see `open_at`."""

    def __init__(self, client: Any, name: str, state: Mapping[str, Any]) -> None:
        super().__init__(state["passages"], state["vectors"])
        self._client, self._name, self._state, self._stems = client, name, state, Stems()

    def count(self) -> dict[str, Any]:
        """See `Index`: as it was counted when the index was filled."""
        return {name: self._state[name] for name in ("documents", "passages", "words", "sources")}

    def close(self) -> None:
        """See `Index`."""
        self._client.close()
        self._stems.close()
        super().close()

    def found(self, size: int, **asked: Any) -> Iterator[Found]:
        """What the server finds."""
        hits = self._client.search(
            index=self._name, size=size, source=["number", *COLUMNS], track_total_hits=False, **asked
        )["hits"]["hits"]
        for hit in hits:
            number = hit["_source"].pop("number")
            yield number, Passage(**hit["_source"]), hit["_score"]

    def _told(self) -> AbstractContextManager[None]:
        return told("reader")

    def _by_words(self, words: Sequence[str], most: tuple[int, int]) -> Iterable[Found]:
        if not words:
            return
        stems = dict(zip(words, self._stems.of([[word] for word in words]), strict=True))
        terms, of_stems = self._statistics(stems)
        counts = self._counts(stems, of_stems)
        common = {word: number for word, number in terms.items() if number >= COMMON}
        asked = [
            {"match_phrase": {"words": {"query": " ".join(stems[word]), "boost": boost}}}
            for word in rarest(words, *most, common, lambda word: counts[word] > 0)
            if (boost := self._boost(counts[word], [of_stems[stem] for stem in stems[word]]))
        ]
        if not asked:
            return
        query, sort = {"bool": {"should": asked}}, ["_score", "number"]
        for start in range(0, MOST_READ, PAGE):
            some = list(self.found(PAGE, query=query, sort=sort, from_=start))
            yield from some
            if len(some) < PAGE:
                return

    def _statistics(self, stems: Mapping[str, Sequence[str]]) -> tuple[dict[str, int], dict[str, int]]:
        """How many passages have each word as it stands, and each stem."""
        document = {"terms": list(stems), "words": [" ".join(some) for some in stems.values()]}
        options = {"term_statistics": True, "field_statistics": False, "positions": False, "offsets": False}
        answer = self._client.termvectors(index=self._name, doc=document, fields=list(document), **options)
        found = (answer["term_vectors"].get(name, {"terms": {}})["terms"] for name in document)
        terms, of_stems = ({word: one.get("doc_freq", 0) for word, one in some.items()} for some in found)
        return terms, {stem: of_stems.get(stem, 0) for some in stems.values() for stem in some}

    def _counts(self, stems: Mapping[str, Sequence[str]], of_stems: Mapping[str, int]) -> dict[str, int]:
        """How many passages have each word, in whatever form; of several stems, as `can't` is, next to each other."""
        counts = {word: min((of_stems[stem] for stem in some), default=0) for word, some in stems.items()}
        several = {
            word: {"match_phrase": {"words": " ".join(some)}}
            for word, some in stems.items()
            if len(some) > 1 and counts[word]
        }
        if several:
            answer = self._client.search(index=self._name, size=0, aggs={"of": {"filters": {"filters": several}}})
            counts |= {word: one["doc_count"] for word, one in answer["aggregations"]["of"]["buckets"].items()}
        return counts

    def _boost(self, count: int, of_stems: Sequence[int]) -> float:
        """By what the server's score of a word has to be multiplied to be SQLite's, which counts common ones less; 0 of
        a word that nobody has written."""
        if not count:
            return 0.0
        of_server = sum(log(1 + (self._passages - number + 0.5) / (number + 0.5)) for number in of_stems)
        return max(log((self._passages - count + 0.5) / (count + 0.5)), LEAST) / of_server

    def _near(self, vector: Vectors) -> _Near:
        return _Near(self, vector)


class _Near:
    """See `Near`."""

    def __init__(self, index: ElasticsearchIndex, vector: Vectors) -> None:
        self._index, self._vector, self._known = index, vector.tolist(), dict[int, float]()

    def best(self, most: int) -> Iterator[Found]:
        """See `Near`; `MOST_READ` at most, which is as many as a server gives."""
        size = max(CANDIDATES, most) + 1  # the last one tells that enough were better
        while True:
            found = list(self._asked(size))
            for number, passage, likeness in found:
                if number not in self._known:
                    self._known[number] = likeness
                    yield number, passage, likeness
            if len(found) < size or size == MOST_READ:
                return
            size = min(4 * size, MOST_READ)

    def of(self, numbers: Sequence[int]) -> list[float]:
        """See `Near`."""
        others = [str(number) for number in numbers if number not in self._known]
        if others:
            found = self._asked(len(others), filter={"ids": {"values": others}})
            self._known |= {number: likeness for number, _, likeness in found}
        return [self._known[number] for number in numbers]

    def _asked(self, size: int, **more: Any) -> Iterator[Found]:
        knn = {"field": "vector", "query_vector": self._vector, "k": size, "num_candidates": size, **more}
        for number, passage, score in self._index.found(size, knn=knn):
            yield number, passage, 2 * score - 1  # a server's scores are never below 0


def open_at(server: SearchServer, indexes: Path, environ: Mapping[str, str], folder: Path) -> ElasticsearchIndex:
    """Open an index on a server.

    The key is that of who reads events, `ELASTICSEARCH_READER_API_KEY` or user and password, else the one without
    `READER_`.

    Args:
        server: where.
        indexes: the folder of the registry's published indexes.
        environ: the environment.
        folder: of the index, which says what has to be there.

    Raises:
        ArtifactError: if it is not there as it is now, or not whole.
        IndexUnavailable: if the server does not answer; IndexRefused if it does not let the reader in.
    """
    name = filling.name_of(indexes, folder)
    client = client_of(server.url, login_of(environ, *LOGINS), server.ca_file)
    try:
        with told("reader"):
            state = filling.state_of(client, name)
        if not state:
            raise ArtifactError(f"{folder} is not whole in Elasticsearch, as {name}; run `llmops run release`.")
    except BaseException:
        client.close()
        raise
    return ElasticsearchIndex(client, name, state)


def opener(config: Config, environ: Mapping[str, str] = os.environ) -> Callable[[Path], Index]:
    """What opens the served index where the configuration has it searched."""
    if config.search_server is None:
        return open_index
    return partial(open_at, config.search_server, folder_of(registry_of(config)), environ)

"""The served index in Elasticsearch 8.19 or 9, for more passages than one machine searches.

An alias names the index of the served artifact. Its words are the stems that the files have, so that the server needs
no analyser; the nearest vectors are found among numbers of 8 bits, and ranked in full precision.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmops.config import SearchServer
from llmops.data.retrieval.files import Near, count_passages, open_database, open_vectors, rarest, read_passages
from llmops.data.retrieval.minilm import DIMENSIONS, Vectors
from llmops.data.retrieval.terms import stems_of
from llmops.events.elasticsearch_client import LOGINS, client_of, login_of
from llmops.frame import artifacts
from llmops.frame.errors import ConfigError, TransientError, is_busy
from llmops.frame.records import Passage, content_id

SEARCH_S, LOAD_S = 2.0, 60.0  #: seconds for one answer
TOGETHER = 500  #: passages that are loaded at once, about 4 MB
READ = 20  #: passages that are read at once
SEEN, MOST_SEEN = 4, 10_000  #: vectors that the graph is searched for, for each that is asked for, and at most
_VECTOR = {"type": "dense_vector", "dims": DIMENSIONS, "similarity": "dot_product"}
_MAPPINGS = {
    "dynamic": False,
    "_source": {"excludes": ["words", "vector"]},
    "properties": {
        "words": {"type": "text", "analyzer": "whitespace"},
        "vector": _VECTOR | {"index_options": {"type": "int8_hnsw"}},
    },
}


class ElasticsearchStore:
    """The index that an alias names. See `FileStore`; keys are ids of passages."""

    def __init__(self, server: SearchServer, has_vectors: bool, environ: Mapping[str, str] = os.environ) -> None:
        self._server, self.has_vectors = server, has_vectors
        self._client = client_of(server.url, login_of(environ, *LOGINS), server.ca_file, SEARCH_S)

    def by_words(self, words: Sequence[str], most: int) -> list[str]:
        """See `FileStore`; the words are those of `FileStore.by_words`, with the same weights."""
        counts, passages = self._count_stems(list(filter(None, stems_of(words))))
        weights = {one: _weight(counts[one], passages) for one in rarest(counts)}
        phrases = [{"match_phrase": {"words": {"query": one, "boost": weight}}} for one, weight in weights.items()]
        return [key for key, _ in self._search(most, query={"bool": {"should": phrases}})] if phrases else []

    def count_words(self, words: Sequence[str]) -> tuple[dict[str, int], int]:
        """See `FileStore`."""
        stems = dict(zip(words, stems_of(words), strict=True))
        counts, passages = self._count_stems(list(filter(None, stems.values())))
        return {word: counts.get(stem, 0) for word, stem in stems.items()}, passages

    def by_vector(self, vector: Vectors, most: int) -> Near:
        """See `FileStore`; those of the passages that the graph leads to are compared."""
        seen = {"k": most, "num_candidates": min(SEEN * most, MOST_SEEN), "rescore_vector": {"oversample": 2}}
        found = self._search(most, knn={"field": "vector", "query_vector": vector.tolist(), **seen})
        likeness = {key: 2 * score - 1 for key, score in found}
        return list(likeness), likeness.get

    def read(self, keys: Sequence[str]) -> Iterator[tuple[str, Passage]]:
        """See `FileStore`."""
        for start in range(0, len(keys), READ):
            with _reported(self._server):
                answer = self._client.mget(index=self._server.alias, ids=keys[start : start + READ])
            yield from ((found["_id"], Passage(**found["_source"])) for found in answer["docs"] if found.get("found"))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _count_stems(self, stems: Sequence[str]) -> tuple[dict[str, int], int]:
        """Return how many passages have the rarest of the stems that each text has, and how many passages there are."""
        asked = {"doc": {"words": " ".join(stems)}, "term_statistics": True, "positions": False}
        with _reported(self._server):
            answer = self._client.termvectors(index=self._server.alias, **asked)
        if not (known := answer["term_vectors"].get("words")):
            return {}, 0
        count = known["terms"]
        counts = {one: min(count.get(stem, {}).get("doc_freq", 0) for stem in one.split()) for one in stems}
        return counts, known["field_statistics"]["doc_count"]

    def _search(self, most: int, **query: Any) -> list[tuple[str, float]]:
        query |= {"index": self._server.alias, "size": most, "source": False, "track_total_hits": False}
        with _reported(self._server):
            answer = self._client.search(**query)
        return [(hit["_id"], hit["_score"]) for hit in answer["hits"]["hits"]]


def serve(server: SearchServer, artifact: Path | None) -> None:
    """Make a finished index the one that the alias names, and delete all others; only delete for None or no passages.

    Raises:
        ConfigError: if the server refuses the index.
        TransientError: if it does not answer.
    """
    with _loading(server) as client:
        new, found = _name(server, artifact), _indices(client, server)
        if artifact and new and not found.get(new):
            client.options(ignore_status=404).indices.delete(index=new)  # there if a run was killed while it loaded
            client.indices.create(index=new, mappings=_MAPPINGS)
            _load(client, new, artifact)
            client.indices.refresh(index=new)
        actions = [{"add": {"index": new, "alias": server.alias}}] if new else []
        if actions := [*actions, *({"remove_index": {"index": name}} for name in found if name != new)]:
            client.indices.update_aliases(actions=actions)  # all at once


def is_served(server: SearchServer, artifact: Path | None) -> bool:
    """Return whether `serve` would change nothing."""
    name = _name(server, artifact)
    with _loading(server) as client:
        return _indices(client, server) == ({name: True} if name else {})


def _weight(count: int, passages: int) -> float:
    """Return what makes the weight of a word that of FTS5: Lucene adds one, so that common words count more."""
    odds = (passages - count + 0.5) / (count + 0.5)
    return max(math.log(odds), 1e-6) / math.log1p(odds)


def _load(client: Any, name: str, artifact: Path) -> None:
    from elasticsearch import helpers

    def actions() -> Iterator[dict[str, Any]]:
        with closing(open_database(artifact)) as database:
            number = count_passages(database)
            vectors = open_vectors(artifact, number) if artifacts.read_record(artifact).metrics["model"] else None
            for start in range(0, number, TOGETHER):
                found = list(read_passages(database, range(start, min(start + TOGETHER, number))))
                stems = stems_of([f"{passage.headings}\n{passage.text}" for _, passage in found])
                for (at, passage), words in zip(found, stems, strict=True):
                    vector = {} if vectors is None else {"vector": vectors[at].tolist()}
                    source = {**asdict(passage), "words": words, **vector}
                    yield {"_op_type": "create", "_index": name, "_id": passage.id, "_source": source}

    for ok, item in helpers.streaming_bulk(client, actions(), TOGETHER, raise_on_error=False):
        if not ok:
            error = TransientError if is_busy(item["create"]["status"]) else ConfigError
            raise error(f"Elasticsearch does not take a passage of {artifact} ({item['create']['error']['type']}).")


def _name(server: SearchServer, artifact: Path | None) -> str:
    """Return the name of an artifact's index; empty without passages. One that is made again has another record."""
    if not (artifact and artifacts.read_record(artifact).metrics.get("passages")):
        return ""
    return f"{server.alias}-{artifact.name}.{content_id((artifact / artifacts.RECORD).read_text(encoding='utf-8'))}"


def _indices(client: Any, server: SearchServer) -> dict[str, bool]:
    """Return the indices that were loaded for the alias, and whether it names them."""
    found = client.indices.get_alias(index=f"{server.alias}-*", expand_wildcards="all")
    mine = {name: said for name, said in found.items() if name.rpartition("-")[0] == server.alias}
    return {name: server.alias in said["aliases"] for name, said in mine.items()}


@contextmanager
def _loading(server: SearchServer, environ: Mapping[str, str] = os.environ) -> Iterator[Any]:
    client = client_of(server.url, login_of(environ, "ELASTICSEARCH_"), server.ca_file, LOAD_S)
    with _reported(server), closing(client):
        yield client


@contextmanager
def _reported(server: SearchServer) -> Iterator[None]:
    """Raise errors that quote neither questions nor passages."""
    from elasticsearch import ApiError, TransportError

    try:
        yield
    except ApiError as error:
        said = f"Elasticsearch at {server.url} refuses {server.alias} ({error.meta.status} {error.message})."
        if is_busy(error.meta.status):
            raise TransientError(said) from None
        remedy = "`llmops run deploy` loads it as a user with the role llmops_passages; the app needs llmops_reader."
        raise ConfigError(f"{said} {remedy}") from None
    except TransportError as error:
        raise TransientError(f"Elasticsearch at {server.url} does not answer ({type(error).__name__}).") from None

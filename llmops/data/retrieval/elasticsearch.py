"""The served index in Elasticsearch 8.19 or 9, for more passages than one machine searches.

Each artifact has an index of its own there, `{name}-{fingerprint}.{record}`, and the app searches that of the artifact
whose files are served. Its words are the stems that the files have, so that the server needs no analyser; the nearest
vectors are found among numbers of 8 bits, and ranked in full precision.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterator, Sequence
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
from llmops.frame.clock import SYSTEM_CLOCK, Clock
from llmops.frame.errors import ConfigError, TransientError, is_busy
from llmops.frame.records import Passage, content_id

SEARCH_S, LOAD_S = 2.0, 60.0  #: seconds for all requests of a search, and for one request of a load
TOGETHER = 500  #: passages that are loaded at once, about 4 MB
BUSY_TRIES = 5  #: more tries of a request that a busy server refuses, after 2 s, 4 s, 8 s, …
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
    """The index of an artifact. See `FileStore`; keys are ids of passages."""

    def __init__(self, server: SearchServer, artifact: Path, has_vectors: bool, clock: Clock = SYSTEM_CLOCK) -> None:
        self._server, self._name, self.has_vectors, self._clock = server, _name(server, artifact), has_vectors, clock
        self._client = client_of(server.url, login_of(os.environ, "ELASTICSEARCH_SEARCH_", *LOGINS), server.ca_file)
        self._left = 0.0  #: seconds for further requests of a search

    def begin(self) -> None:
        """Begin a search: its requests, and those that follow until the next search, have `SEARCH_S` together."""
        self._left = SEARCH_S

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
            found = self._ask("mget", ids=keys[start : start + READ])["docs"]
            if failed := next((one["error"] for one in found if "error" in one), None):
                raise TransientError(f"Elasticsearch at {self._server.url} reads no passage ({failed['type']}).")
            yield from ((one["_id"], Passage(**one["_source"])) for one in found if one["found"])

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _count_stems(self, stems: Sequence[str]) -> tuple[dict[str, int], int]:
        """Return how many passages have the rarest of the stems that each text has, and how many passages there are."""
        asked = {"doc": {"words": " ".join(stems)}, "term_statistics": True, "positions": False}
        if not (known := self._ask("termvectors", **asked)["term_vectors"].get("words")):
            return {}, 0
        count = known["terms"]
        counts = {one: min(count.get(stem, {}).get("doc_freq", 0) for stem in one.split()) for one in stems}
        return counts, known["field_statistics"]["doc_count"]

    def _search(self, most: int, **query: Any) -> list[tuple[str, float]]:
        query |= {"size": most, "source": False, "track_total_hits": False, "allow_partial_search_results": False}
        return [(hit["_id"], hit["_score"]) for hit in self._ask("search", **query)["hits"]["hits"]]

    def _ask(self, function: str, **asked: Any) -> Any:
        if self._left <= 0:
            raise TransientError(f"Elasticsearch at {self._server.url} does not answer within {SEARCH_S:g} s.")
        started = self._clock.monotonic()
        try:
            with _reported(self._server):
                return getattr(self._client.options(request_timeout=self._left), function)(index=self._name, **asked)
        finally:
            self._left -= self._clock.monotonic() - started


def load(server: SearchServer, owner: str, artifact: Path) -> None:
    """Load a finished index, unless all of its passages are there. Nobody searches it before its files are served.

    Args:
        server: to load it into.
        owner: of the index, see `llmops.release.registry.indexes.owner_of`.
        artifact: of the stage index.

    Raises:
        ConfigError: if the server refuses it, or has an index of that name by another owner.
        TransientError: if the server does not answer, or does not keep all passages.
    """
    name, passages = _name(server, artifact), _passages(artifact)
    with _loading(server) as client:
        if not passages or _counts(client, server, [owner]).get(name) == passages:
            return
        client.options(ignore_status=404).indices.delete(index=name)  # there if a run was killed while it loaded
        client.indices.create(index=name, mappings={**_MAPPINGS, "_meta": {"owner": owner}})
        _load(client, name, artifact)
        client.indices.refresh(index=name)
        if _counts(client, server, [owner]).get(name) != passages:
            raise TransientError(f"Elasticsearch at {server.url} has lost passages of {name} while it was loaded.")


def keep_only(server: SearchServer, owners: Collection[str], artifact: Path | None) -> None:
    """Delete all indices of these owners but that of an artifact. For errors see `load`."""
    kept = _name(server, artifact) if artifact else ""
    with _loading(server) as client:
        if old := [name for name in _counts(client, server, owners) if name != kept]:
            client.indices.delete(index=old, ignore_unavailable=True)


def is_served(server: SearchServer, owner: str, artifact: Path | None) -> bool:
    """Return whether `load` and `keep_only` would change nothing."""
    wanted = {_name(server, artifact): passages} if artifact and (passages := _passages(artifact)) else {}
    with _loading(server) as client:
        return _counts(client, server, [owner]) == wanted


def _weight(count: int, passages: int) -> float:
    """Return what makes the weight of a word that of FTS5: Lucene adds one, so that common words count more.

    By Lucene's own, of all words, 84 % of a FAQ's five best passages are those of the files, instead of 98 %.
    """
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

    loading = helpers.streaming_bulk(client, actions(), TOGETHER, raise_on_error=False, max_retries=BUSY_TRIES)
    for ok, item in loading:
        if not ok:
            error = TransientError if is_busy(item["create"]["status"]) else ConfigError
            raise error(f"Elasticsearch does not take a passage of {artifact} ({item['create']['error']['type']}).")


def _name(server: SearchServer, artifact: Path) -> str:
    """Return the name of an artifact's index. An artifact that is made again has another record."""
    return f"{server.name}-{artifact.name}.{content_id((artifact / artifacts.RECORD).read_text(encoding='utf-8'))}"


def _passages(artifact: Path) -> int:
    return int(artifacts.read_record(artifact).metrics.get("passages", 0))


def _counts(client: Any, server: SearchServer, owners: Collection[str]) -> dict[str, int]:
    """Return how many passages each index of these owners has; none if a bulk request has made it, without mappings.

    Raises:
        ConfigError: if one is somebody else's.
    """
    found = client.indices.get_mapping(index=f"{server.name}-*", expand_wildcards="all")
    ours = re.compile(re.escape(server.name) + r"-[0-9a-f]{16}\.[0-9a-f]{16}")
    owned = {name: one["mappings"].get("_meta", {}).get("owner") for name, one in found.items() if ours.fullmatch(name)}
    if foreign := [name for name, owner in owned.items() if owner not in (None, *owners)]:
        raise ConfigError(
            f"{foreign[0]} in Elasticsearch at {server.url} is of another model or home. Set another "
            "grounding.elasticsearch; or delete the index there, if nobody uses it any more."
        )
    stats = client.indices.stats(index=list(owned), metric="docs")["indices"] if owned else {}
    whole = stats.keys() & {name for name, owner in owned.items() if owner}
    return {name: stats[name]["primaries"]["docs"]["count"] if name in whole else 0 for name in owned}


@contextmanager
def _loading(server: SearchServer) -> Iterator[Any]:
    login = login_of(os.environ, "ELASTICSEARCH_PASSAGES_", "ELASTICSEARCH_")
    with _reported(server), closing(client_of(server.url, login, server.ca_file, LOAD_S)) as client:
        yield client


@contextmanager
def _reported(server: SearchServer) -> Iterator[None]:
    """Raise errors that quote neither questions nor passages."""
    from elasticsearch import ApiError, TransportError

    try:
        yield
    except ApiError as error:
        said = f"Elasticsearch at {server.url} refuses {server.name} ({error.meta.status} {error.message})."
        if is_busy(error.meta.status):
            raise TransientError(said) from None
        remedy = "`llmops run deploy` loads it as a user with the role llmops_passages; the app needs llmops_search."
        raise ConfigError(f"{said} {remedy}") from None
    except TransportError as error:
        raise TransientError(f"Elasticsearch at {server.url} does not answer ({type(error).__name__}).") from None

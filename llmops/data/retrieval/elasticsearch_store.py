"""The served index in Elasticsearch 8.19 or 9, for more passages than one machine can search.

Each index artifact has its own Elasticsearch index, `{name}-{fingerprint}.{record}`. The app searches the one that
belongs to the served files. Its words are the same stems as in the files, so the server needs no analyser.
Vectors are searched in 8 bits and ranked in full precision.
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
from llmops.data.retrieval.file_store import (
    VectorMatches,
    count_passages,
    open_database,
    open_vectors,
    read_passages,
    select_rarest,
)
from llmops.data.retrieval.minilm import DIMENSIONS, Vectors
from llmops.data.retrieval.terms import stem_texts
from llmops.events.elasticsearch_client import READER_LOGINS, make_client, read_login
from llmops.frame import artifacts
from llmops.frame.clock import SYSTEM_CLOCK, Clock
from llmops.frame.errors import ConfigError, TransientError, is_busy
from llmops.frame.records import Passage, make_content_id

SEARCH_TIMEOUT_S, LOAD_TIMEOUT_S = 2.0, 60.0  #: seconds for all requests of a search, and for one request of a load
LOAD_BATCH = 500  #: passages per bulk request, about 4 MB
BUSY_RETRIES = 5  #: retries of a request that a busy server refuses, after 2 s, 4 s, 8 s, …
READ_BATCH = 20  #: passages per read request
CANDIDATES_PER_HIT, MAX_CANDIDATES = 4, 10_000  #: vectors that a search compares, per wanted one and at most
_VECTOR_MAPPING = {"type": "dense_vector", "dims": DIMENSIONS, "similarity": "dot_product"}
_MAPPINGS = {
    "dynamic": False,
    "_source": {"excludes": ["words", "vector"]},
    "properties": {
        "words": {"type": "text", "analyzer": "whitespace"},
        "vector": _VECTOR_MAPPING | {"index_options": {"type": "int8_hnsw"}},
    },
}


class ElasticsearchStore:
    """The index of an artifact in Elasticsearch. Its methods are those of `FileStore`; keys are ids of passages."""

    def __init__(self, server: SearchServer, artifact: Path, has_vectors: bool, clock: Clock = SYSTEM_CLOCK) -> None:
        self._server, self._name = server, _make_index_name(server, artifact)
        self.has_vectors, self._clock = has_vectors, clock
        login = read_login(os.environ, "ELASTICSEARCH_SEARCH_", *READER_LOGINS)
        self._client = make_client(server.url, login, server.ca_file)
        self._remaining_s = 0.0  #: seconds for further requests of a search

    def start_search(self) -> None:
        """Start a search. All its requests together may take `SEARCH_TIMEOUT_S`, until the next search starts."""
        self._remaining_s = SEARCH_TIMEOUT_S

    def search_words(self, words: Sequence[str], limit: int) -> list[str]:
        """See `FileStore`. The words and their weights are the same as in `FileStore.search_words`."""
        counts, passages = self._count_stems(list(filter(None, stem_texts(words))))
        weights = {phrase: _compute_weight(counts[phrase], passages) for phrase in select_rarest(counts)}
        phrases = [
            {"match_phrase": {"words": {"query": phrase, "boost": weight}}} for phrase, weight in weights.items()
        ]
        return [key for key, _ in self._search(limit, query={"bool": {"should": phrases}})] if phrases else []

    def count_passages_with(self, words: Sequence[str]) -> tuple[dict[str, int], int]:
        """See `FileStore`."""
        stems = dict(zip(words, stem_texts(words), strict=True))
        counts, passages = self._count_stems(list(filter(None, stems.values())))
        return {word: counts.get(stem, 0) for word, stem in stems.items()}, passages

    def search_vector(self, vector: Vectors, limit: int) -> VectorMatches:
        """See `FileStore`. Only the passages that the vector graph leads to are compared."""
        candidates = {
            "k": limit,
            "num_candidates": min(CANDIDATES_PER_HIT * limit, MAX_CANDIDATES),
            "rescore_vector": {"oversample": 2},
        }
        matches = self._search(limit, knn={"field": "vector", "query_vector": vector.tolist(), **candidates})
        likeness = {key: 2 * score - 1 for key, score in matches}
        return list(likeness), likeness.get

    def read(self, keys: Sequence[str]) -> Iterator[tuple[str, Passage]]:
        """See `FileStore`."""
        for start in range(0, len(keys), READ_BATCH):
            documents = self._request("mget", ids=keys[start : start + READ_BATCH])["docs"]
            if failed := next((document["error"] for document in documents if "error" in document), None):
                raise TransientError(f"Elasticsearch at {self._server.url} reads no passage ({failed['type']}).")
            yield from (
                (document["_id"], Passage(**document["_source"])) for document in documents if document["found"]
            )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _count_stems(self, stems: Sequence[str]) -> tuple[dict[str, int], int]:
        """Return the number of passages with each phrase, and of all passages.

        `stems` are phrases of stems. A phrase counts as often as its rarest stem.
        """
        arguments = {"doc": {"words": " ".join(stems)}, "term_statistics": True, "positions": False}
        if not (statistics := self._request("termvectors", **arguments)["term_vectors"].get("words")):
            return {}, 0
        terms = statistics["terms"]
        counts = {phrase: min(terms.get(stem, {}).get("doc_freq", 0) for stem in phrase.split()) for phrase in stems}
        return counts, statistics["field_statistics"]["doc_count"]

    def _search(self, limit: int, **query: Any) -> list[tuple[str, float]]:
        query |= {"size": limit, "source": False, "track_total_hits": False, "allow_partial_search_results": False}
        return [(hit["_id"], hit["_score"]) for hit in self._request("search", **query)["hits"]["hits"]]

    def _request(self, function: str, **arguments: Any) -> Any:
        if self._remaining_s <= 0:
            raise TransientError(f"Elasticsearch at {self._server.url} does not answer within {SEARCH_TIMEOUT_S:g} s.")
        started = self._clock.monotonic()
        try:
            with _convert_errors(self._server):
                return getattr(self._client.options(request_timeout=self._remaining_s), function)(
                    index=self._name, **arguments
                )
        finally:
            self._remaining_s -= self._clock.monotonic() - started


def load_index(server: SearchServer, owner: str, artifact: Path) -> None:
    """Load a finished index, unless the server has all its passages. It is searched only after its files are served.

    Args:
        server: the server to load into.
        owner: the owner of the index, see `llmops.release.registry.indexes.owner_of`.
        artifact: the artifact of the stage index.

    Raises:
        ConfigError: if the server refuses it, or has an index of that name by another owner.
        TransientError: if the server does not answer, or does not keep all passages.
    """
    name, passages = _make_index_name(server, artifact), _read_passage_count(artifact)
    with _open_loading_client(server) as client:
        if not passages or _count_indexed_passages(client, server, [owner]).get(name) == passages:
            return
        client.options(ignore_status=404).indices.delete(index=name)  # there if a run was killed while it loaded
        client.indices.create(index=name, mappings={**_MAPPINGS, "_meta": {"owner": owner}})
        _load_passages(client, name, artifact)
        client.indices.refresh(index=name)
        if _count_indexed_passages(client, server, [owner]).get(name) != passages:
            raise TransientError(f"Elasticsearch at {server.url} has lost passages of {name} while it was loaded.")


def delete_other_indices(server: SearchServer, owners: Collection[str], artifact: Path | None) -> None:
    """Delete all indices of these owners except the one of an artifact. For errors see `load_index`."""
    current = _make_index_name(server, artifact) if artifact else ""
    with _open_loading_client(server) as client:
        if old := [name for name in _count_indexed_passages(client, server, owners) if name != current]:
            client.indices.delete(index=old, ignore_unavailable=True)


def is_up_to_date(server: SearchServer, owner: str, artifact: Path | None) -> bool:
    """Return whether `load_index` and `delete_other_indices` would change nothing."""
    expected = (
        {_make_index_name(server, artifact): passages}
        if artifact and (passages := _read_passage_count(artifact))
        else {}
    )
    with _open_loading_client(server) as client:
        return _count_indexed_passages(client, server, [owner]) == expected


def _compute_weight(count: int, passages: int) -> float:
    """Return the factor that turns Lucene's weight of a word into the weight of FTS5.

    Lucene adds one inside its logarithm, so common words count more. With Lucene's own weights of all words, 84 % of
    a FAQ's five best passages are the ones that the files find; with this factor 98 %.
    """
    odds = (passages - count + 0.5) / (count + 0.5)
    return max(math.log(odds), 1e-6) / math.log1p(odds)


def _load_passages(client: Any, name: str, artifact: Path) -> None:
    from elasticsearch import helpers

    def build_actions() -> Iterator[dict[str, Any]]:
        with closing(open_database(artifact)) as database:
            count = count_passages(database)
            vectors = open_vectors(artifact, count) if artifacts.read_record(artifact).metrics["model"] else None
            for start in range(0, count, LOAD_BATCH):
                passages = list(read_passages(database, range(start, min(start + LOAD_BATCH, count))))
                stems = stem_texts([f"{passage.headings}\n{passage.text}" for _, passage in passages])
                for (number, passage), words in zip(passages, stems, strict=True):
                    vector = {} if vectors is None else {"vector": vectors[number].tolist()}
                    source = {**asdict(passage), "words": words, **vector}
                    yield {"_op_type": "create", "_index": name, "_id": passage.id, "_source": source}

    loading = helpers.streaming_bulk(
        client, build_actions(), LOAD_BATCH, raise_on_error=False, max_retries=BUSY_RETRIES
    )
    for ok, item in loading:
        if not ok:
            error = TransientError if is_busy(item["create"]["status"]) else ConfigError
            raise error(f"Elasticsearch does not take a passage of {artifact} ({item['create']['error']['type']}).")


def _make_index_name(server: SearchServer, artifact: Path) -> str:
    """Return the name of an artifact's index. A rebuilt artifact has another record, and so another name."""
    return f"{server.name}-{artifact.name}.{make_content_id((artifact / artifacts.RECORD).read_text(encoding='utf-8'))}"


def _read_passage_count(artifact: Path) -> int:
    return int(artifacts.read_record(artifact).metrics.get("passages", 0))


def _count_indexed_passages(client: Any, server: SearchServer, owners: Collection[str]) -> dict[str, int]:
    """Return the number of passages in each index of these owners.

    An index without our mappings counts as empty: a bulk request created it after the real one was deleted.

    Raises:
        ConfigError: if an index with our name pattern belongs to another owner.
    """
    mappings = client.indices.get_mapping(index=f"{server.name}-*", expand_wildcards="all")
    pattern = re.compile(re.escape(server.name) + r"-[0-9a-f]{16}\.[0-9a-f]{16}")
    owner_by_name = {
        name: mapping["mappings"].get("_meta", {}).get("owner")
        for name, mapping in mappings.items()
        if pattern.fullmatch(name)
    }
    if foreign := [name for name, owner in owner_by_name.items() if owner not in (None, *owners)]:
        raise ConfigError(
            f"{foreign[0]} in Elasticsearch at {server.url} is of another model or home. Set another "
            "grounding.elasticsearch; or delete the index there, if nobody uses it any more."
        )
    stats = client.indices.stats(index=list(owner_by_name), metric="docs")["indices"] if owner_by_name else {}
    complete = stats.keys() & {name for name, owner in owner_by_name.items() if owner}
    return {name: stats[name]["primaries"]["docs"]["count"] if name in complete else 0 for name in owner_by_name}


@contextmanager
def _open_loading_client(server: SearchServer) -> Iterator[Any]:
    login = read_login(os.environ, "ELASTICSEARCH_PASSAGES_", "ELASTICSEARCH_")
    with _convert_errors(server), closing(make_client(server.url, login, server.ca_file, LOAD_TIMEOUT_S)) as client:
        yield client


@contextmanager
def _convert_errors(server: SearchServer) -> Iterator[None]:
    """Convert Elasticsearch's errors to ours, which quote neither questions nor passages."""
    from elasticsearch import ApiError, TransportError

    try:
        yield
    except ApiError as error:
        message = f"Elasticsearch at {server.url} refuses {server.name} ({error.meta.status} {error.message})."
        if is_busy(error.meta.status):
            raise TransientError(message) from None
        remedy = "`llmops run deploy` loads it as a user with the role llmops_passages; the app needs llmops_search."
        raise ConfigError(f"{message} {remedy}") from None
    except TransportError as error:
        raise TransientError(f"Elasticsearch at {server.url} does not answer ({type(error).__name__}).") from None

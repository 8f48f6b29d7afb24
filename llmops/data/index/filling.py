"""The served index on an Elasticsearch server: a copy for who searches, made of the published one and never changed.

    llmops-passages-<model>-<id of the registry>-<fingerprint>-<content>

The name says what is in it, so one that an erasure has changed gets another. Nobody can read it until it is whole: what
somebody left who was killed is not searched, and is made anew. No document is ever deleted in one, since a segment
keeps what is deleted until it is merged: whole indexes go.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from llmops.artifacts import file_sha256, locked, write_whole
from llmops.config import SearchServer
from llmops.data.index.files import COLUMNS, LONGEST_TERM, PASSAGES, VECTORS
from llmops.data.index.passages import size_of
from llmops.data.index.stems import Stems
from llmops.data.index.terms import terms_of
from llmops.embedding.weights import DIMENSIONS
from llmops.errors import ArtifactError, IndexRefused, IndexUnavailable, is_busy
from llmops.monitoring.elasticsearch_client import client_of, login_of
from llmops.records import Passage
from llmops.registry.indexes import folder_of, serve_index, served_index
from llmops.registry.registry import Registry

log = logging.getLogger(__name__)

LOGINS = ("ELASTICSEARCH_INDEXER_", "ELASTICSEARCH_")  #: variables of who fills, those that count first
ID = "elasticsearch.id"  #: file beside the published indexes; several registries may share a server
TIMEOUT_S = 60.0  #: for one answer
TOGETHER = 500  #: passages that are sent at once, some 4 MB with their vectors

_SETTINGS = {
    "number_of_shards": 1,  # how rare a word is must be counted in all passages
    "auto_expand_replicas": "0-1",
    "refresh_interval": "-1",
    "blocks": {"read": True},  # until it is whole
    "similarity": {"default": {"type": "BM25", "k1": 1.2, "b": 0.75}},  # as SQLite has it
}
_SHOWN = {"type": "keyword", "index": False, "doc_values": False}
_MAPPINGS = {
    "dynamic": "strict",
    "_source": {"excludes": ["words", "terms", "vector"]},
    "properties": {
        **dict.fromkeys(COLUMNS, _SHOWN),
        "number": {"type": "integer"},
        "words": {"type": "text", "analyzer": "whitespace"},  # the stems of headings and text
        "terms": {"type": "keyword", "doc_values": False, "ignore_above": LONGEST_TERM},  # the same as they stand
        "vector": {  # all are compared, as in the index's own files
            "type": "dense_vector", "dims": DIMENSIONS, "similarity": "cosine", "index_options": {"type": "flat"},
        },
    },
}  # fmt: skip


_AWAY = {"cluster_block_exception", "index_not_found_exception"}  #: what is said of one that is being filled anew
_BULK: dict[str, Any] = {"raise_on_error": False, "max_retries": 3, "include_source_on_error": False}


@contextmanager
def told(role: Literal["indexer", "reader"] = "indexer") -> Iterator[None]:
    """Makes an error that the user understands of what a server says.

    Args:
        role: of who asks.

    Raises:
        IndexUnavailable: if it does not do now what it is asked.
        IndexRefused: if it will not at the next try.
    """
    from elasticsearch import ApiError, TransportError

    try:
        yield
    except TransportError as error:
        raise IndexUnavailable(f"The index of passages in Elasticsearch cannot be reached ({error}).") from error
    except ApiError as error:
        if is_busy(error.status_code):
            raise IndexUnavailable(f"Elasticsearch, which has the index of passages, is busy ({error}).") from error
        if error.error in _AWAY:
            raise IndexUnavailable(f"The index of passages in Elasticsearch is not whole now ({error}).") from error
        who = f"ELASTICSEARCH_{role.upper()}"
        todo = f"; set {who}_API_KEY, or {who}_USER and {who}_PASSWORD, of somebody with the role llmops_{role}"
        todo = todo if error.status_code in (401, 403) else ""
        raise IndexRefused(f"Elasticsearch does not do what is asked with passages ({error}){todo}.") from error


def name_of(indexes: Path, folder: Path) -> str:
    """What an index is called on the server.

    Args:
        indexes: the folder of the registry's published indexes.
        folder: of the index.

    Raises:
        ArtifactError: if the registry has put none on a server yet.
    """
    if not (indexes / ID).exists():
        raise ArtifactError(f"No index of {indexes} is in Elasticsearch yet; `llmops run release` puts it there.")
    return f"{_prefix(indexes)}{folder.name}-{file_sha256(folder / PASSAGES)[:12]}"


def serve(registry: Registry, artifact: Path, interval: str, server: SearchServer | None, *, by: str) -> None:
    """Publish the index of a finished artifact and make it the served one, see `serve_index`; with a server, as soon as
    it is there, too.

    Raises:
        IndexUnavailable, IndexRefused: if the server does not take it.
    """

    def fill(folder: Path) -> None:
        if server:
            with Copies(server, registry) as copies:
                copies.fill(folder)

    serve_index(registry, artifact, interval, by=by, prepare=fill)


def clear(server: SearchServer, registry: Registry) -> None:
    """Remove from the server what is served no more, and what was begun and is not whole.

    Raises:
        IndexUnavailable, IndexRefused: if the server does not do it.
    """
    with locked(registry.folder / "registry"), Copies(server, registry) as copies:
        copies.clear()


def renew(server: SearchServer, registry: Registry) -> None:
    """The same, and see that the served index is there as it is now.

    Raises:
        ArtifactError: if it is damaged.
        IndexUnavailable, IndexRefused: if the server does not do it.
    """
    with locked(registry.folder / "registry"), Copies(server, registry) as copies:
        if served := _served(registry):
            copies.fill(served)
        copies.clear()


class Copies:
    """What of a registry's indexes is on a server; a context manager.

    All raise `IndexUnavailable` or `IndexRefused` if the server does not do what it is asked. Who changes something
    holds the registry's lock.
    """

    def __init__(self, server: SearchServer, registry: Registry, environ: Mapping[str, str] = os.environ) -> None:
        self._client = client_of(server.url, login_of(environ, *LOGINS), server.ca_file, TIMEOUT_S)
        self._registry, self._indexes = registry, folder_of(registry)

    def fill(self, folder: Path) -> None:
        """Put an index there, whole, if it is not."""
        if not (self._indexes / ID).exists():
            write_whole(self._indexes / ID, uuid.uuid4().hex[:12].encode())
        name = name_of(self._indexes, folder)
        with told():
            if state_of(self._client, name):
                return
            self._client.indices.delete(index=name, ignore_unavailable=True)
            self._client.indices.create(index=name, settings=_SETTINGS, mappings=_MAPPINGS)
            state = self._put(name, folder)
            if not is_blocked(self._client.indices.get_settings(index=name)[name]):  # a bulk has made another
                raise IndexUnavailable(f"Somebody has removed {name} from Elasticsearch while it was filled.")
            self._client.indices.refresh(index=name)
            self._client.indices.put_mapping(index=name, meta=state)
            self._client.indices.put_settings(index=name, settings={"index.blocks.read": None})
        log.info("%s: %d passages are in Elasticsearch", name, state["passages"])

    def sizes(self) -> dict[str, int]:
        """All indexes of the registry there, whole or not, and their bytes: 0 of one that is closed or out of reach."""
        if not (self._indexes / ID).exists():
            return {}
        own = f"{_prefix(self._indexes)}*"
        with told():
            names = sorted(self._client.indices.get_settings(index=own, expand_wildcards="all"))
            stored = self._client.indices.stats(index=own, metric="store")["indices"]
        return {name: stored[name]["total"]["store"]["size_in_bytes"] if name in stored else 0 for name in names}

    def unserved(self) -> dict[str, int]:
        """Those that are not what is served now, and their bytes."""
        there, served = self.sizes(), _served(self._registry)
        if there and served:
            there.pop(name_of(self._indexes, served), 0)
        return there

    def clear(self) -> None:
        """Remove these."""
        for name in self.unserved():
            with told():
                self._client.indices.delete(index=name, ignore_unavailable=True)
            log.info("%s is removed from Elasticsearch", name)

    def passages(self, name: str) -> Iterator[Passage]:
        """All passages of an index there, to look for somebody in them."""
        after: dict[str, Any] = {}
        with told():
            self._client.indices.refresh(index=name)
        while True:
            with told():
                found = self._client.search(index=name, size=5_000, sort=["number"], source=list(COLUMNS), **after)
            for hit in found["hits"]["hits"]:
                yield Passage(**hit["_source"])
                after = {"search_after": hit["sort"]}
            if not found["hits"]["hits"]:
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def _put(self, name: str, folder: Path) -> dict[str, Any]:
        """Send all passages; gives what stands in the mapping of an index that is whole."""
        from elasticsearch import helpers

        from llmops.data.index.database import rows_of

        vectors = np.load(folder / VECTORS, mmap_mode="r") if (folder / VECTORS).exists() else None
        documents, sources, counts = set[str](), Counter[str](), Counter[str]()

        def sent(stems: Stems) -> Iterator[dict[str, Any]]:
            for rows in rows_of(folder):
                terms = [(terms_of(row["headings"]), terms_of(row["text"])) for row in rows]
                words = iter(stems.of([part for two in terms for part in two]))
                for row, two in zip(rows, terms, strict=True):
                    number = counts["passages"]
                    more = {"number": number, "words": [" ".join(next(words)) for _ in two]}
                    more |= {"terms": sorted({*two[0], *two[1]})}
                    more |= {} if vectors is None else {"vector": vectors[number].tolist()}
                    yield {"_index": name, "_id": str(number), **row, **more}
                    documents.add(row["document"])
                    sources[row["source"]] += 1
                    counts.update(passages=1, words=size_of(row["text"]))

        with closing(Stems()) as stems:
            for done, item in helpers.streaming_bulk(self._client, sent(stems), TOGETHER, **_BULK):
                if not done:  # without what was sent
                    status, error = item["index"]["status"], item["index"].get("error") or {}
                    why = error.get("type") if isinstance(error, dict) else error
                    kind = IndexUnavailable if is_busy(status) or why in _AWAY else IndexRefused
                    raise kind(f"Elasticsearch does not take a passage ({status}: {why}).")
        if vectors is not None and len(vectors) != counts["passages"]:
            raise ArtifactError(f"{folder} has {counts['passages']} passages and {len(vectors)} vectors.")
        return {
            "documents": len(documents),
            "passages": counts["passages"],
            "words": counts["words"],
            "sources": dict(sorted(sources.items())),
            "vectors": vectors is not None,
        }


def state_of(client: Any, name: str) -> dict[str, Any]:
    """What an index says of itself if it is whole; empty: it is not, or not there."""
    found = client.indices.get(index=name, ignore_unavailable=True)
    if name not in found or is_blocked(found[name]):
        return {}
    state: dict[str, Any] = found[name]["mappings"].get("_meta", {})
    there = client.count(index=name, ignore_unavailable=True)["count"]  # 0 of one that is closed
    return state if state and there == state["passages"] else {}


def is_blocked(index: Mapping[str, Any]) -> bool:
    """Whether nobody can read an index, by its settings."""
    return bool(index["settings"]["index"].get("blocks", {}).get("read") == "true")


def _prefix(indexes: Path) -> str:
    return f"llmops-passages-{indexes.parent.name.lower()}-{(indexes / ID).read_text()}-"


def _served(registry: Registry) -> Path | None:
    """The served index, if it is there: an erasure removes one that is damaged."""
    served = served_index(registry)
    return served if served and (served / PASSAGES).is_file() else None

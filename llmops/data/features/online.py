"""The online store: tokens by `input_id`, for serving. The stage `features` writes it, a feature service reads it.

It is SQLite on one machine, or Redis for several. Only the erasure of rows differs between them.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast import RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _redis_key_prefix
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from llmops.config import Features
from llmops.data.features.declarations import PARQUET, SERVING_SERVICE, VIEW, open_store, read_settings
from llmops.data.features.tokenize import Tokens
from llmops.frame import artifacts
from llmops.frame.errors import ArtifactError

if TYPE_CHECKING:
    from feast import FeatureStore

log = logging.getLogger(__name__)

ENTITY_KEY = "input_id"  #: join key of the view's entity
PROJECT_PREFIX = "llmops_"  #: beginning of our Feast projects' names
ERASABLE_STORES = ("sqlite", "redis")  #: online stores with support for erasure


class OnlineTokens:
    """An open connection to the online store, for frequent reads (opening takes a second)."""

    def __init__(self, store: Path, service: str = SERVING_SERVICE) -> None:
        """Open a feature store.

        Raises:
            ArtifactError: if there is no such feature store or service.
        """
        from feast.errors import FeatureServiceNotFoundException

        self._store = open_store(store)
        try:
            self._service = self._store.get_feature_service(service)
        except FeatureServiceNotFoundException:
            known = ", ".join(s.name for s in self._store.list_feature_services())
            raise ArtifactError(f"{store} has no feature service {service!r}; it has {known}.") from None

    def read(self, ids: Sequence[str]) -> list[Tokens | None]:
        """Return the tokens of some examples, in the order of `ids`; None for an unknown id."""
        if not ids:
            return []
        rows = [{ENTITY_KEY: id} for id in ids]
        columns = self._store.get_online_features(features=self._service, entity_rows=rows).to_dict()
        found = zip(ids, columns["token_ids"], columns["meta"], strict=True)
        return [
            Tokens(id, list(tokens), json.loads(meta)["prompt_tokens"]) if meta else None for id, tokens, meta in found
        ]


def read_online(store: Path, ids: Sequence[str], service: str = SERVING_SERVICE) -> list[Tokens | None]:
    """Return the tokens of some examples, as `OnlineTokens.read` does, for a single read."""
    return OnlineTokens(store, service).read(ids)


def write_online(config: Features, store: FeatureStore, batches: Iterable[pa.RecordBatch]) -> None:
    """Write rows (the view's columns and event_timestamp) to the online store, in batches. Replace existing keys."""
    # SQLite fails a second writer after five seconds, hence the lock.
    with artifacts.hold_lock(config.store / "online"):
        for batch in batches:
            store.write_to_online_store(VIEW, df=batch.to_pandas())


def forget_features(config: Features, gone: Path, others: Iterable[Path]) -> int:
    """Delete the rows of a removed features artifact from the online store. Return the number of examples deleted.

    Rows that other artifacts of the same base model have, too, stay. A store without support for erasure is unchanged.
    """
    settings = read_settings(gone)
    if settings.online_store.type not in ERASABLE_STORES:
        log.warning("%s: rows that nothing needs stay in the online store %s", gone, settings.online_store.type)
        return 0
    same_project = [path for path in others if read_settings(path).project == settings.project]
    ids = _read_ids(gone).difference(*map(_read_ids, same_project))
    return forget_online(config, gone, sorted(ids), settings.project) if ids else 0


def _read_ids(features: Path) -> set[str]:
    return set(pq.read_table(features / PARQUET, columns=[ENTITY_KEY])[ENTITY_KEY].to_pylist())


def forget_online(config: Features, features: Path, ids: Sequence[str], project: str = "") -> int:
    """Erase examples from the online store, of all base models. Return the number of examples found.

    Nothing remains in SQLite's file, and no key in Redis. Redis' own files on disk lose them with the next snapshot or
    append-only rewrite. A repetition is harmless and completes an interrupted erasure.

    `features` may be any artifact that uses this online store. Without `project`, all projects of Feast are searched.

    Raises:
        ArtifactError: if the online store has no support for erasure.
    """
    settings = read_settings(features)
    version = settings.entity_key_serialization_version
    keys = {
        serialize_entity_key(EntityKey(join_keys=[ENTITY_KEY], entity_values=[Value(string_val=id)]), version)
        for id in ids
    }
    kind = settings.online_store.type
    with artifacts.hold_lock(config.store / "online"):
        if kind == "sqlite":
            return _forget_sqlite(features / settings.online_store.path, keys, project)
        if kind == "redis":
            return _forget_redis(settings, keys, project)
    raise ArtifactError(f"{features} uses the online store {kind!r}; erase {len(ids)} ids from it by its own means.")


def _forget_sqlite(path: Path, keys: set[bytes], project: str) -> int:
    if not path.is_file():
        return 0
    found: set[bytes] = set()
    with closing(sqlite3.connect(path, timeout=60)) as database:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND substr(name, -length(?)) = ?"
        tables = [name for (name,) in database.execute(query, (f"_{VIEW}", f"_{VIEW}"))]
        tables = [name for name in tables if project in ("", name.removesuffix(f"_{VIEW}"))]
        with database:
            for table in tables:
                for key in keys:
                    if database.execute(f'DELETE FROM "{table}" WHERE entity_key = ?', (key,)).rowcount:
                        found.add(key)
        # Deleted and replaced rows remain in free pages until the file is rewritten.
        database.execute("VACUUM")
    return len(found)


def _forget_redis(settings: RepoConfig, keys: set[bytes], project: str) -> int:
    from feast.infra.online_stores.redis import RedisOnlineStore

    # Feast's own client, because it supports clusters, sentinels and Feast's connection strings.
    client: Any = RedisOnlineStore()._get_client(settings.online_store)
    found: set[bytes] = set()
    with closing(client):
        for name in client.scan_iter(_redis_key_prefix([ENTITY_KEY]) + b"*", count=1000):
            # A Redis key is the entity's key plus the project.
            key, prefix, rest = name.rpartition(PROJECT_PREFIX.encode())
            if prefix and key in keys and project.encode() in (b"", prefix + rest):
                client.delete(name)
                found.add(key)
    return len(found)

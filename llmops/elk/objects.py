"""What is set up in Elasticsearch, as it is sent there: made from the registry of fields and the configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from llmops import __version__
from llmops.config import Monitoring
from llmops.monitoring.datasets import TEXT
from llmops.monitoring.fields import FIELDS, LONGEST_KEYWORD
from llmops.monitoring.fields.field import Field

STREAMS = "logs-llmops.*-*"  #: all our data streams
PASSAGES = "llmops-passages-*"  #: all indexes of passages, see `llmops.data.index.filling`
WRITER, READER, INDEXER = "llmops_writer", "llmops_reader", "llmops_indexer"


def mappings() -> dict[str, Any]:
    """How each field is indexed.

    `dynamic` is false: a field that the registry does not have (a newer writer before the next `setup`) stays in the
    document and is found there, but not searched; `strict` would refuse the event, and an event may not be lost.
    """
    return {"dynamic": False, "properties": {field.name: _mapping(field) for field in FIELDS}}


def _mapping(field: Field) -> dict[str, Any]:
    if field.type == "keyword":
        return {"type": "keyword", "ignore_above": LONGEST_KEYWORD}
    if field.type == "object":
        return {"type": "object", "enabled": False}
    return {"type": field.type}


def templates(config: Monitoring) -> dict[str, dict[str, Any]]:
    """The index templates: all events, and texts, which are kept for a shorter time."""
    days = {"llmops-events": config.elasticsearch_days, "llmops-texts": config.keep_text_days}
    patterns = {"llmops-events": STREAMS, "llmops-texts": f"logs-{TEXT}-*"}
    return {
        name: stamped(
            {
                "index_patterns": [patterns[name]],
                "priority": 500 + n,  # above Elastic's own for logs-*-*, which has 100
                "data_stream": {},
                "template": {
                    "settings": {
                        "index": {
                            "mode": "standard",  # else servers 9 take logsdb for logs-*-*, which may make up the source
                            "number_of_shards": "1",
                            "auto_expand_replicas": "0-1",
                            "codec": "best_compression",
                        }
                    },
                    "mappings": mappings(),
                    "lifecycle": {"enabled": True, "data_retention": f"{days[name]}d"},
                },
            },
            "_meta",
        )
        for n, name in enumerate(days)
    }


def roles() -> dict[str, dict[str, Any]]:
    """Who writes may add events and cannot read any; who reads may look at them, in Kibana too, and at passages, and
    change nothing; who indexes may do everything with passages, and nothing else."""
    return {
        WRITER: {
            "cluster": ["monitor"],  # to ask which server it is
            "indices": [{"names": [STREAMS], "privileges": ["create_doc", "auto_configure"]}],
        },
        READER: {
            "cluster": ["monitor"],
            "indices": [{"names": [STREAMS, PASSAGES], "privileges": ["read", "view_index_metadata"]}],
            "applications": [{"application": "kibana-.kibana", "privileges": ["read"], "resources": ["*"]}],
        },
        INDEXER: {"cluster": [], "indices": [{"names": [PASSAGES], "privileges": ["manage", "read", "write"]}]},
    }


def stamped(thing: dict[str, Any], where: str) -> dict[str, Any]:
    """A thing with who made it, and a version that follows from what it says."""
    made = {"managed_by": "llmops", "made_by": f"llmops {__version__}", "version": digest(thing)}
    return {**thing, where: made}


def digest(thing: Any) -> str:
    """A version that is another whenever `thing` is."""
    return hashlib.sha256(json.dumps(thing, sort_keys=True).encode()).hexdigest()[:12]


def holds(found: Any, wanted: Any) -> bool:
    """Whether what a server says has all that is wanted: servers add defaults, and write numbers as texts."""
    return set(_leaves(wanted)) <= set(_leaves(found))


def _leaves(thing: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(thing, dict):
        for name, value in thing.items():
            if name != "made_by":  # another release with the same content changes nothing
                yield from _leaves(value, f"{path}.{name}")
    elif isinstance(thing, list):
        for n, value in enumerate(thing):
            yield from _leaves(value, f"{path}[{n}]")
    else:
        yield path, str(thing).lower()

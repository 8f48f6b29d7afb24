"""The connection to Elasticsearch: client, credentials and names of data streams."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

TIMEOUT_S = 10.0  #: seconds for one answer
NAMESPACE = "default"
#: prefixes of a reader's variables; the first one that is set counts
READER_LOGINS = ("ELASTICSEARCH_READER_", "ELASTICSEARCH_")


def make_client(url: str, login: Mapping[str, Any], ca_file: Path | None = None, timeout_s: float = TIMEOUT_S) -> Any:
    """Return a client of the server at `url` (8.19 or 9). It sends nothing yet, and never repeats a request."""
    from elasticsearch import Elasticsearch

    options: dict[str, Any] = {**login, "request_timeout": timeout_s, "max_retries": 0, "retry_on_timeout": False}
    if ca_file:
        options["ca_certs"] = str(ca_file)
    return Elasticsearch(url, **options)


def read_login(environ: Mapping[str, str], *prefixes: str) -> dict[str, Any]:
    """Return the first API key, or user and password, found under these prefixes; empty if there are none."""
    for prefix in prefixes:
        key, user, password = (environ.get(f"{prefix}{part}", "").strip() for part in ("API_KEY", "USER", "PASSWORD"))
        if key:
            return {"api_key": key}
        if user:
            return {"basic_auth": (user, password)}
    return {}


def get_stream_name(dataset: str) -> str:
    """Return the name of a dataset's data stream."""
    return f"logs-{dataset}-{NAMESPACE}"

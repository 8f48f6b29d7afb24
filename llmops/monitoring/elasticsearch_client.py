"""How Elasticsearch is reached, by the sink and by the reader: where events are, and who asks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmops.errors import ConfigError

TIMEOUT_S = 10.0  #: for one answer
NAMESPACE = "default"


def client_of(url: str, login: Mapping[str, Any], ca_file: Path | None = None, timeout_s: float = TIMEOUT_S) -> Any:
    """A client of the server at `url`, 8.19 or 9; nothing is asked yet, and nothing twice.

    Args:
        url: the server.
        login: as `login_of` gives it.
        ca_file: certificates (PEM) to check the server's with, if not the system's.
        timeout_s: how long an answer may take, seconds.

    Raises:
        ConfigError: if the address is none, or does not go with certificates.
    """
    from elasticsearch import Elasticsearch

    options: dict[str, Any] = {**login, "request_timeout": timeout_s, "max_retries": 0, "retry_on_timeout": False}
    if ca_file:
        options["ca_certs"] = str(ca_file)
    try:
        return Elasticsearch(url, **options)
    except ValueError as error:
        raise ConfigError(f"monitoring.elasticsearch_url or monitoring.ca_file cannot be used ({error}).") from error


def login_of(environ: Mapping[str, str], *prefixes: str) -> dict[str, Any]:
    """What a client logs in with: the first of these variables' key, or user and password; nothing if there is none."""
    for prefix in prefixes:
        key, user, password = (environ.get(f"{prefix}{part}", "").strip() for part in ("API_KEY", "USER", "PASSWORD"))
        if key:
            return {"api_key": key}
        if user:
            return {"basic_auth": (user, password)}
    return {}


def stream_of(dataset: str) -> str:
    """The data stream of a kind of event."""
    return f"logs-{dataset}-{NAMESPACE}"

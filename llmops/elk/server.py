"""A server that is asked by HTTP, and what it refuses."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from llmops.errors import ConfigError, TransientError, is_busy


class Cannot(Exception):
    """What a server cannot take; it goes on without."""


class Server:
    """Elasticsearch or Kibana at `url`, whose certificate is checked with `ca_file`; a context manager."""

    def __init__(self, name: str, url: str, environ: Mapping[str, str], ca_file: Path | None = None) -> None:
        key, password = environ.get("ELASTICSEARCH_API_KEY", ""), environ.get("ELASTIC_PASSWORD", "")
        headers = {"kbn-xsrf": "llmops", **({"Authorization": f"ApiKey {key}"} if key and not password else {})}
        auth = (environ.get("ELASTIC_USERNAME") or "elastic", password) if password else None
        verify = ssl.create_default_context(cafile=ca_file) if ca_file else True
        self.name, self.url = name, url
        self._http = httpx.Client(base_url=url, headers=headers, auth=auth, timeout=60, verify=verify)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def ask(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        """The status of an answer and what it says.

        Raises:
            TransientError: if there is no answer, or the server is busy.
            ConfigError: if the server does not know who asks.
        """
        answer = self._send(method, path, body, **options)
        if answer.status_code == 401:
            raise ConfigError(
                f"{self.name} at {self.url} does not let this user in; set ELASTIC_PASSWORD (of ELASTIC_USERNAME, by "
                "default elastic) or ELASTICSEARCH_API_KEY."
            )
        try:
            return answer.status_code, answer.json()
        except json.JSONDecodeError:
            return answer.status_code, answer.text

    def do(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """What a server answers that does what it is told.

        Raises:
            Cannot: with the server's reason, if it does not.
        """
        status, said = self.ask(method, path, body, **options)
        if status >= 400:
            raise Cannot(f"{status}: {reason(said)}")
        return said

    def knows(self, user: str, password: str) -> list[str] | None:
        """The roles of a user of Elasticsearch with this password; None if it is not let in."""
        answer = self._send("GET", "/_security/_authenticate", auth=(user, password))
        return list(answer.json()["roles"]) if answer.status_code == 200 else None

    def _send(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        if body is not None:
            options["json"] = body
        try:
            answer = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise TransientError(f"{self.name} at {self.url} does not answer ({error}).") from error
        if is_busy(answer.status_code):
            raise TransientError(f"{self.name} at {self.url} is busy ({answer.status_code}: {answer.text[:300]}).")
        return answer


def reason(said: Any) -> str:
    """What an answer says of why, in one line."""
    error = said.get("error", said.get("message", said)) if isinstance(said, dict) else said
    if isinstance(error, dict):
        error = error.get("reason", error)
    elif isinstance(said, dict) and said.get("message"):
        error = said["message"]
    return " ".join(str(error).split())[:300]

"""The HTTP client of Elasticsearch and Kibana."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from llmops.frame.errors import ConfigError, TransientError, is_busy


class RefusedError(Exception):
    """The server refuses a request. The set-up goes on without this step."""


class Server:
    """Elasticsearch or Kibana at `url`, whose certificate is checked with `ca_file`."""

    def __init__(self, name: str, url: str, environ: Mapping[str, str], ca_file: Path | None = None) -> None:
        key, password = environ.get("ELASTICSEARCH_API_KEY", ""), environ.get("ELASTIC_PASSWORD", "")
        headers = {"kbn-xsrf": "llmops", **({"Authorization": f"ApiKey {key}"} if key and not password else {})}
        auth = (environ.get("ELASTIC_USERNAME") or "elastic", password) if password else None
        verify = ssl.create_default_context(cafile=ca_file) if ca_file else True
        self._name = f"{name} at {url}"
        self._http = httpx.Client(base_url=url, headers=headers, auth=auth, timeout=60, verify=verify)

    def request(self, method: str, path: str, body: Any = None, lines: bool = False, **options: Any) -> Any:
        """Return the JSON of the answer; with `lines`, a list with the JSON of each line.

        Raises:
            RefusedError: if the server refuses, or its answer is not JSON, such as an error page of a proxy.
            ConfigError: if it does not let this user in.
            TransientError: if it does not answer, or is busy.
        """
        if body is not None:
            options["json"] = body
        try:
            answer = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise TransientError(f"{self._name} does not answer ({error}).") from error
        if is_busy(answer.status_code):
            raise TransientError(f"{self._name} is busy ({answer.status_code}: {answer.text[:300]}).")
        if answer.status_code == 401:
            raise ConfigError(
                f"{self._name} does not let this user in; set ELASTIC_PASSWORD (of ELASTIC_USERNAME, by default "
                "elastic) or ELASTICSEARCH_API_KEY."
            )
        try:
            if not answer.is_error:
                return [json.loads(line) for line in answer.text.splitlines()] if lines else answer.json()
        except ValueError:
            pass
        raise RefusedError(f"{answer.status_code}: {' '.join(answer.text.split())[:300]}")

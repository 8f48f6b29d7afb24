"""HTTP delivery of a batch of events. The status of the answer decides about the events."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import urllib3
from urllib3.util import Timeout

from llmops.events.sinks.sink import BatchRefusedError, SinkError
from llmops.frame.errors import is_busy

TIMEOUT_S = 10.0
#: a redirect, or a wrong key, address or proxy: no event is faulty, somebody must fix the configuration
_MISCONFIGURED = frozenset({*range(300, 400), 401, 402, 403, 404, 405, 406, 407, 421, 426, 451})
_MAX_SHOWN_CHARS = 300  #: characters of an answer in an error message


class HttpClient:
    """A client that posts to one URL over persistent connections."""

    def __init__(
        self, name: str, url: str, headers: Mapping[str, str], ca_file: Path | None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._name, self._url, self._headers = name, url, dict(headers)
        self._pool = urllib3.PoolManager(
            ca_certs=str(ca_file) if ca_file else None,
            timeout=Timeout(connect=timeout_s, read=timeout_s),
            retries=False,
        )

    def post(self, body: bytes) -> bytes:
        """Send a batch and return the body of the answer. The status was 2xx.

        Raises:
            SinkError: if the server is away, busy or broken, or refuses the client.
            BatchRefusedError: if it refuses the content.
        """
        try:
            answer = self._pool.request("POST", self._url, body=body, headers=self._headers)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise SinkError(f"{self._name} does not take events ({type(error).__name__}: {error}).") from error
        if 200 <= answer.status < 300:
            return answer.data
        text = " ".join(answer.data[: 4 * _MAX_SHOWN_CHARS].decode(errors="replace").split())[:_MAX_SHOWN_CHARS]
        reason = f"{self._name} answers {answer.status}" + (f": {text}" if text else "")
        if answer.status in _MISCONFIGURED:
            raise SinkError(f"{reason}. Check its URL, and the user or key in the environment.")
        if is_busy(answer.status):
            raise SinkError(f"{reason}.")
        raise BatchRefusedError(reason)

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

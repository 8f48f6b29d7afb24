"""The Elasticsearch sink: one data stream per kind of event."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmops.events.elasticsearch_client import NAMESPACE, TIMEOUT_S, get_stream_name, make_client
from llmops.events.sinks.sink import BatchRefusedError, Rejection, SinkError
from llmops.frame.errors import is_busy

_QUOTED_VALUE = re.compile(r" Preview of field's value| the prefix of the first immense term")
_MISCONFIGURED = frozenset({401, 403, 404})  #: status of an event: no permission, or no template of the data stream


class ElasticsearchSink:
    """A sink for Elasticsearch 8.19 or 9: data streams `logs-<event.dataset>-default`, with `event.id` as `_id`.

    A repeated event changes nothing, unless its data stream has rolled over in between. Then it is stored twice, with
    the same `event.id`.
    """

    name = "elasticsearch"

    def __init__(self, client: Any) -> None:
        self._client = client

    @classmethod
    def connect(
        cls, url: str, login: Mapping[str, Any] | None = None, ca_file: Path | None = None, timeout_s: float = TIMEOUT_S
    ) -> ElasticsearchSink:
        """Return a sink for the server at `url`; nothing is sent yet. The arguments are those of `make_client`."""
        return cls(make_client(url, login or {}, ca_file, timeout_s))

    def send(self, events: Sequence[dict[str, Any]]) -> list[Rejection]:
        """See `Sink`."""
        from elasticsearch import ApiError, SerializationError, TransportError

        try:
            answer = self._client.bulk(
                operations=[line for event in events for line in _make_bulk_lines(event)],
                require_data_stream=True,  # without its template it would become an index of guessed types
                include_source_on_error=False,
                filter_path="errors,items.*.status,items.*.error",
            )
        except SerializationError as error:
            raise BatchRefusedError(f"Elasticsearch's client cannot write it as JSON ({error}).") from error
        except ApiError as error:
            if error.meta.status == 413:
                raise BatchRefusedError(f"Elasticsearch answers {error}") from error
            raise SinkError(f"Elasticsearch does not take events ({error}).") from error
        except TransportError as error:
            raise SinkError(f"Elasticsearch does not take events ({error}).") from error
        return _read_rejections(events, answer) if answer["errors"] else []

    def close(self) -> None:
        """See `Sink`."""
        self._client.close()


def _make_bulk_lines(event: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    dataset = event["event.dataset"]
    stream = {"data_stream.type": "logs", "data_stream.dataset": dataset, "data_stream.namespace": NAMESPACE}
    return {"create": {"_index": get_stream_name(dataset), "_id": event["event.id"]}}, {**event, **stream}


def _read_rejections(events: Sequence[dict[str, Any]], answer: Mapping[str, Any]) -> list[Rejection]:
    rejections, busy, missing = [], "", ""
    for event, item in zip(events, answer["items"], strict=True):
        result = item["create"]
        status = int(result["status"])
        if status < 300 or status == 409:  # conflict: already stored
            continue
        if is_busy(status):
            busy = busy or _describe_failure(result)
        elif status in _MISCONFIGURED:
            missing = missing or f"{get_stream_name(event['event.dataset'])}: {_describe_failure(result)}"
        else:
            rejections.append(Rejection(str(event["event.id"]), _describe_failure(result), dict(event)))
    if busy:
        raise SinkError(f"Elasticsearch could not store all events ({busy}).")
    if missing:
        raise SinkError(
            f"Elasticsearch does not take all events ({missing}). Its index templates must be there, and the key must "
            "be allowed to create documents in logs-llmops.*."
        )
    return rejections


def _describe_failure(result: Mapping[str, Any]) -> str:
    """Return why a document was not stored. The faulty value is cut out, because reasons are logged."""
    error = result.get("error")
    if isinstance(error, Mapping):
        return f"{result['status']} {error.get('type')}: {_QUOTED_VALUE.split(str(error.get('reason')))[0]}"
    return f"{result['status']} {error}"

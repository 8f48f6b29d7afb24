"""Elasticsearch, as a sink."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmops.monitoring.sinks.base import Rejection, SinkError


class ElasticsearchSink:
    """Elasticsearch: a data stream or an index, with `event.id` as `_id`, so that a repeated event changes nothing.

    In a data stream that has rolled over in between, a repeated event is stored twice; it still carries its `event.id`.
    """

    name = "elasticsearch"

    def __init__(self, client: Any, index: str) -> None:
        self._client, self._index = client, index

    @classmethod
    def connect(cls, url: str, index: str, api_key: str = "") -> ElasticsearchSink:
        """A sink for the server at `url`; nothing is sent yet."""
        from elasticsearch import Elasticsearch

        return cls(Elasticsearch(url, api_key=api_key or None, request_timeout=10, max_retries=0), index)

    def send(self, events: Sequence[dict[str, Any]]) -> list[Rejection]:
        """See `Sink`."""
        from elasticsearch import ApiError, TransportError
        from elasticsearch.helpers import streaming_bulk

        actions = [{"_op_type": "create", "_index": self._index, "_id": e["event.id"], "_source": e} for e in events]
        rejections, busy = [], ""
        try:
            results = streaming_bulk(self._client, actions, raise_on_error=False)
            for event, (stored, item) in zip(events, results, strict=True):
                answer = item["create"]
                status = int(answer["status"])
                if stored or status == 409:  # conflict: it is there already
                    continue
                if status == 429 or status >= 500:
                    busy = busy or _reason(answer)
                else:
                    rejections.append(Rejection(str(event["event.id"]), _reason(answer), dict(event)))
        except (ApiError, TransportError) as error:
            raise SinkError(f"Elasticsearch does not take events ({error}).") from error
        if busy:
            raise SinkError(f"Elasticsearch could not store all events ({busy}).")
        return rejections

    def close(self) -> None:
        """See `Sink`."""
        self._client.close()


def _reason(answer: Mapping[str, Any]) -> str:
    error = answer.get("error")
    if isinstance(error, Mapping):
        return f"{answer['status']} {error.get('type')}: {error.get('reason')}"
    return f"{answer['status']} {error}"

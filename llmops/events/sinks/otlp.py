"""The OpenTelemetry sink: log records to a collector, by OTLP over HTTP.

OpenTelemetry's own encoder makes the records. Its exporter is not used: it reports neither a partial success nor the
difference between a collector that is away and one that refuses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops import __version__
from llmops.events.sinks.http_client import TIMEOUT_S, HttpClient
from llmops.events.sinks.sink import BatchRefusedError, Rejection

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

LOGS_PATH = "/v1/logs"
_MAX_INTEGER = 2**63 - 1  #: OTLP integers have 64 bits


class OtlpSink:
    """A sink for a collector at a base URL such as `http://collector:4318`.

    A record has the event's fields as attributes, `event.dataset` as its name and `message` as its body. Receivers
    can recognise a repeated record by its attribute `event.id`.
    """

    name = "otlp"

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        ca_file: Path | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        all_headers = {**(headers or {}), "Content-Type": "application/x-protobuf"}
        self._http_client = HttpClient("The collector", url.rstrip("/") + LOGS_PATH, all_headers, ca_file, timeout_s)

    def send(self, events: Sequence[dict[str, Any]]) -> list[Rejection]:
        """See `Sink`."""
        from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

        answer = self._http_client.post(encode_logs([_make_record(event) for event in events]).SerializeToString())
        partial = ExportLogsServiceResponse.FromString(answer).partial_success
        if not (refused := partial.rejected_log_records):
            return []
        reason = f"The collector refuses {refused} of {len(events)}: {partial.error_message or 'no reason given'}"
        if refused < len(events):
            raise BatchRefusedError(reason)  # the answer does not say which; sending in parts finds them
        return [Rejection(str(event["event.id"]), reason, dict(event)) for event in events]

    def close(self) -> None:
        """See `Sink`."""
        self._http_client.close()


@cache
def _make_resource() -> tuple[Resource, InstrumentationScope]:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    resource = Resource({"service.name": "llmops", "service.version": __version__})
    return resource, InstrumentationScope("llmops.monitoring", __version__)


def _make_record(event: Mapping[str, Any]) -> ReadableLogRecord:
    from opentelemetry._logs import LogRecord, SeverityNumber
    from opentelemetry.context import Context
    from opentelemetry.sdk._logs import ReadableLogRecord

    failed = event.get("event.outcome") == "failure"
    moment = round(datetime.fromisoformat(event["@timestamp"]).timestamp() * 1000) * 1_000_000
    record = LogRecord(
        timestamp=moment,
        observed_timestamp=moment,
        context=Context(),
        severity_text="ERROR" if failed else "INFO",
        severity_number=SeverityNumber.ERROR if failed else SeverityNumber.INFO,
        body=event.get("message"),
        attributes={
            name: _convert_value(value) for name, value in event.items() if name != "@timestamp" and value is not None
        },
        event_name=event["event.dataset"],
    )
    return ReadableLogRecord(record, *_make_resource())


def _convert_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _convert_value(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_convert_value(part) for part in value]
    if isinstance(value, int) and abs(value) > _MAX_INTEGER:
        return str(value)
    return value

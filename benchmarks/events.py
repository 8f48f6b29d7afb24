"""Events: how many per second each sink takes, what recording costs a request, and whether a sink that hangs is felt.

The same events, ready in a spool, are shipped to the local store, to Elasticsearch, to a receiver of JSON arrays as
Logstash's HTTP input is one, and to an OpenTelemetry collector. Beside them stands what one would write without a
spool: a `logging` handler that keeps 500 records and gives them to `elasticsearch.helpers.bulk`; what it keeps is lost
with its process. Elasticsearch and the collector are those of the folder `shared` beside this project; where it has
none, their arms are left out. Recording is the commit that a request waits for. At last the whole app with the echo
engine answers lone requests while its receiver takes events, and while it hangs, in turns.

    python benchmarks/events.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # or serving.py beside this file would hide the package

from overhead import ask, committed, made_app, times  # noqa: E402
from peers import ROOT, ArmFailedError, attempted  # noqa: E402
from report import divided, finish, parser  # noqa: E402
from servers import Running, free_port, running  # noqa: E402

from llmops.events.datasets import SERVING  # noqa: E402
from llmops.events.delivery import Delivery  # noqa: E402
from llmops.events.elasticsearch_client import get_stream_name  # noqa: E402
from llmops.events.events import build_event  # noqa: E402
from llmops.events.sinks.elasticsearch import ElasticsearchSink  # noqa: E402
from llmops.events.sinks.local import LocalStore  # noqa: E402
from llmops.events.sinks.logstash import LogstashSink  # noqa: E402
from llmops.events.sinks.otlp import OtlpSink  # noqa: E402
from llmops.events.sinks.sink import Sink  # noqa: E402
from llmops.events.spool import Spool  # noqa: E402

LOCAL, ELASTIC, ARRAYS, OTLP, PLAIN = "local", "elasticsearch", "JSON arrays", "otlp", "plain handler"
TAKES, HANGS = "app, sink takes events", "app, sink hangs"
TOGETHER = 50  #: requests that one app gets before it is the other's turn
PLAIN_DATASET = "llmops.plain"
TEMPLATE = {
    "index_patterns": ["logs-llmops.*-*"],
    "data_stream": {},
    "priority": 500,
    "template": {"settings": {"number_of_replicas": 0}},
}
COLLECTOR = """
receivers: {{otlp: {{protocols: {{http: {{endpoint: "127.0.0.1:{port}"}}}}}}}}
exporters: {{file: {{path: {received}}}}}
extensions: {{health_check: {{endpoint: "127.0.0.1:{health}"}}}}
service:
  extensions: [health_check]
  telemetry: {{metrics: {{level: none}}}}
  pipelines: {{logs: {{receivers: [otlp], exporters: [file]}}}}
"""

Figures = dict[str, float]


class BulkHandler(logging.Handler):
    """What one would write without a spool."""

    def __init__(self, client: Any, index: str) -> None:
        super().__init__()
        self._client, self._index, self._kept = client, index, []  # type: ignore[var-annotated]

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record; the 500th brings all of them."""
        self._kept.append({"_op_type": "create", "_index": self._index, "_source": record.event})  # type: ignore[attr-defined]
        if len(self._kept) == 500:
            self.flush()

    def flush(self) -> None:
        """Bring what is kept."""
        from elasticsearch.helpers import bulk

        bulk(self._client, self._kept)
        self._kept.clear()


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__file__, __doc__, "one round of 10,000 events and 500 requests, not three of 50,000 and 2,000")
    made.add_argument("--receive", type=int, help=argparse.SUPPRESS)
    made.add_argument("--hang", action="store_true", help=argparse.SUPPRESS)
    return made.parse_args(arguments)


def main() -> None:
    """Measure every sink and the app in turns, and print the table."""
    told = options()
    if told.receive:
        receive(told.receive, told.hang)
        return
    rounds, count, requests = (1, 10_000, 500) if told.quick else (3, 50_000, 2_000)
    found: dict[str, list[Figures]] = {}
    failed: dict[str, str] = {}

    def note(arm: str, figures: Figures) -> None:
        found.setdefault(arm, []).append(figures)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for turn in range(rounds):
            place = folder / str(turn)
            events = [build_event(SERVING, fields(number)) for number in range(count)]
            with Spool(place) as spool:
                spool.register(["local", "logstash", "otlp", "elasticsearch"])
                for start in range(0, count, 500):
                    spool.append(events[start : start + 500])
                note(LOCAL, shipped(spool, LocalStore(place), count))
                with attempted(ARRAYS, failed), receiver(folder / "arrays.log") as server:
                    note(ARRAYS, shipped(spool, LogstashSink(server.url), count))
                with attempted(OTLP, failed), collector(place) as server:
                    note(OTLP, shipped(spool, OtlpSink(server.url), count))
                with attempted(ELASTIC, failed), elasticsearch(folder / f"elastic{turn}.log") as server:
                    note(ELASTIC, shipped(spool, elastic_sink(server), count))
                    note(PLAIN, logged(server, events))
            with attempted(HANGS, failed), app(folder / f"{turn}a") as takes, app(folder / f"{turn}b", True) as hangs:
                took: dict[str, list[float]] = {TAKES: [], HANGS: []}
                for _ in range(requests // TOGETHER):
                    for arm, server in ((TAKES, takes), (HANGS, hangs)):
                        took[arm] += asyncio.run(ask(server, TOGETHER, 1))[0]
                for arm, seconds in took.items():
                    note(arm, times(seconds))
        commits = times(committed(folder / "commits", requests))
    arms = {arm: {key: statistics.median(f[key] for f in some) for key in some[0]} for arm, some in found.items()}
    ratios = divided(
        arms,
        {
            "events/s into Elasticsearch, ours from the spool over a plain handler from memory": (
                (ELASTIC, "events/s"),
                (PLAIN, "events/s"),
            ),
            "p50 of a lone request, sink that hangs over one that takes events": ((HANGS, "p50 ms"), (TAKES, "p50 ms")),
        },
    )
    if arms.keys() >= {TAKES, HANGS}:
        ratios["ms of p50 that a sink that hangs adds"] = arms[HANGS]["p50 ms"] - arms[TAKES]["p50 ms"]
    arms["recorder's commit"] = commits
    finish(told, arms, ratios, failed, ("elasticsearch", "opentelemetry-sdk", "urllib3"))


def fields(number: int) -> dict[str, Any]:
    """What the event of a request says, about."""
    return {
        "event.action": "generate",
        "event.duration": 1_000_000 * (number % 900 + 100),
        "event.outcome": "success",
        "http.request.id": f"{number:032x}",
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.path": "/generate",
        "user.roles": ["user"],
        "llmops.key.prefix": f"key{number % 7}",
        "llmops.model.version": f"v{number % 3}",
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": "support-bot",
        "gen_ai.usage.input_tokens": number % 400,
        "gen_ai.usage.output_tokens": number % 100,
    }


def shipped(spool: Spool, sink: Sink, count: int) -> Figures:
    """Ship what waits, as the app's shipper does."""
    begun = time.perf_counter()
    shipment = Delivery(sink).ship(spool)
    took = time.perf_counter() - begun
    sink.close()
    if shipment.error or shipment.rejected or shipment.sent != count:
        raise ArmFailedError(f"{shipment.sent} of {count} arrived, {shipment.rejected} were refused. {shipment.error}")
    return {"events/s": count / took}


def elastic_sink(server: Running) -> ElasticsearchSink:
    """The sink of a server that is warm: it has the template of our data streams, and these, and has seen events."""
    client = client_of(server)
    client.indices.put_index_template(name="llmops", **TEMPLATE)
    sink = ElasticsearchSink(client)
    for dataset in (SERVING, PLAIN_DATASET) * 10:
        sink.send([build_event(SERVING, fields(number)) | {"event.dataset": dataset} for number in range(500)])
    return sink


def logged(server: Running, events: Sequence[dict[str, Any]]) -> Figures:
    """Log the events by a plain handler, into a data stream of its own."""
    client = client_of(server)
    handler, log = BulkHandler(client, get_stream_name(PLAIN_DATASET)), logging.Logger("plain")
    log.addHandler(handler)
    took = []
    begun = time.perf_counter()
    for event in events:
        before = time.perf_counter()
        log.info("request", extra={"event": event})
        took.append(time.perf_counter() - before)
    handler.flush()
    seconds = time.perf_counter() - begun
    client.close()
    return {"events/s": len(events) / seconds, **times(took)}


@contextlib.contextmanager
def app(folder: Path, hang: bool = False) -> Iterator[Running]:
    """The app with the echo engine, whose events go to the local store and to a receiver."""
    folder.mkdir()
    with receiver(folder / "receiver.log", hang) as sink:
        environ = {
            "LLMOPS_MONITORING__SINKS": '["local", "logstash"]',
            "LLMOPS_MONITORING__LOGSTASH_URL": sink.url,
        }
        with made_app(ROOT, folder).running(**environ) as server:
            asyncio.run(ask(server, 100, 4))  # to warm up
            yield server


@contextlib.contextmanager
def receiver(log: Path, hang: bool = False) -> Iterator[Running]:
    """A receiver of JSON arrays."""
    port = free_port()
    command = [sys.executable, __file__, "--receive", str(port), *(["--hang"] if hang else [])]
    with running(command, port, {}, log) as server:
        yield server


@contextlib.contextmanager
def collector(folder: Path) -> Iterator[Running]:
    """An OpenTelemetry collector that writes to a file."""
    port, health = free_port(), free_port()
    settings = folder / "collector.yaml"
    settings.write_text(COLLECTOR.format(port=port, health=health, received=folder / "received.jsonl"))
    command = [shared("otel/otelcol"), "--config", settings]
    with running(command, health, {}, folder / "collector.log", "/") as server:
        server.url = f"http://127.0.0.1:{port}"
        yield server


@contextlib.contextmanager
def elasticsearch(log: Path) -> Iterator[Running]:
    """A server of Elasticsearch that forgets everything at its end."""
    port = free_port()
    with running([shared("elasticsearch/start"), "--port", str(port)], port, {}, log, "/_cluster/health") as server:
        yield server


def shared(name: str) -> Path:
    """A server of the folder `shared` beside this project."""
    for parent in Path(__file__).resolve().parents:
        if (there := parent / "shared" / name).exists():
            return there
    raise ArmFailedError(f"There is no shared/{name} beside this project.")


def client_of(server: Running) -> Any:
    """A client of Elasticsearch."""
    from elasticsearch import Elasticsearch

    return Elasticsearch(server.url, request_timeout=60)


class Receiving(BaseHTTPRequestHandler):
    """Takes whatever is posted; or hangs over it."""

    protocol_version, hangs = "HTTP/1.1", False

    def do_GET(self) -> None:
        """It is there."""
        self._answer()

    def do_POST(self) -> None:
        """A batch."""
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.hangs:
            time.sleep(3600)
        self._answer()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")


def receive(port: int, hang: bool) -> None:
    """Run a receiver until told to stop."""
    Receiving.hangs = hang
    server = ThreadingHTTPServer(("127.0.0.1", port), Receiving)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main()

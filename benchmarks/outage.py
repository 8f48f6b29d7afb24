"""Outage: whether events are lost or stored twice while Elasticsearch is stopped, killed with -9 and started again.

One process puts events into a spool as fast as it takes them, and the app's shipper brings them to a real
Elasticsearch, that of the folder `shared` beside this project, which keeps its data. A quarter of the events comes
while it runs, one while it is stopped, one while it takes what waited and is killed, and one while it is dead. Then all
that it has stored is read and compared, event by event, with what the spool acknowledged.

    python benchmarks/outage.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # or serving.py beside this file would hide the package

from elasticsearch.helpers import scan  # noqa: E402
from events import TEMPLATE, client_of, fields, shared  # noqa: E402
from peers import ArmFailedError, attempted  # noqa: E402
from report import finish, parser  # noqa: E402
from servers import Running, free_port, running  # noqa: E402

from llmops.events.datasets import SERVING  # noqa: E402
from llmops.events.elasticsearch_client import get_stream_name  # noqa: E402
from llmops.events.events import emit_all  # noqa: E402
from llmops.events.shipping import Shipper  # noqa: E402
from llmops.events.sinks.elasticsearch import ElasticsearchSink  # noqa: E402
from llmops.events.spool import Spool  # noqa: E402

ARM = "stopped, killed with -9, started again"
TOGETHER = 500  #: events of a commit
PATIENCE_S = 1800.0  #: for the last event to arrive


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    return parser(__file__, __doc__, "40,000 events, not a million").parse_args(arguments)


def main() -> None:
    """Run the outage and print what became of the events."""
    told = options()
    figures: dict[str, float] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, attempted(ARM, failed):
        Path(name).chmod(0o711)  # the server runs as another user where this one is root, and is to reach its data
        figures = outage(Path(name), 40_000 if told.quick else 1_000_000)
    ratios = {what: figures[what] for what in ("lost", "of another content") if what in figures}
    finish(told, {ARM: figures} if figures else {}, ratios, failed, ("elasticsearch",))


def outage(folder: Path, count: int) -> dict[str, float]:
    """Emit `count` events through two outages; returns how many were lost, and how many were stored more than once."""
    port, spool, quarter = free_port(), folder / "spool", count // 4
    ids: list[str] = []
    (folder / "data").mkdir()
    begun = time.monotonic()
    with elasticsearch(folder, port) as server:
        client_of(server).indices.put_index_template(name="llmops", **TEMPLATE)
        shipper = Shipper(spool, [ElasticsearchSink(client_of(server))], max_period_s=5.0)
        shipper.start()
        emit(spool, ids, quarter)
    emit(spool, ids, quarter)
    with elasticsearch(folder, port) as server:
        emit(spool, ids, quarter // 2)
        if not waiting(spool):
            raise ArmFailedError("Nothing waited any more when it was to be killed; this machine ships too fast.")
        os.killpg(server.process.pid, signal.SIGKILL)
        emit(spool, ids, quarter - quarter // 2)
    emit(spool, ids, count - len(ids))
    with elasticsearch(folder, port) as server:
        restarted, waited = time.monotonic(), waiting(spool)
        while waiting(spool):
            if time.monotonic() > restarted + PATIENCE_S:
                raise ArmFailedError(f"{waiting(spool)} events still wait in the spool.")
            time.sleep(0.2)
        ended = time.monotonic()
        shipper.stop()
        with Spool(spool) as opened:
            rejected = sum(opened.count_rejected().values())
        return {
            "events": count,
            **compared(server, ids),
            "rejected": rejected,
            "seconds": ended - begun,
            "caught up/s": waited / max(ended - restarted, 0.001),
        }


def emit(spool: Path, ids: list[str], count: int) -> None:
    """Commit that many events to the spool, and note the ids of those that it has acknowledged."""
    end = len(ids) + count
    for start in range(len(ids), end, TOGETHER):
        numbers = range(start, min(start + TOGETHER, end))
        ids += emit_all(spool, SERVING, [fields(number) for number in numbers])


def waiting(spool: Path) -> int:
    """How many events Elasticsearch has not confirmed."""
    with Spool(spool) as opened:
        return opened.count_waiting().get("elasticsearch", 0)


def compared(server: Running, ids: Sequence[str]) -> dict[str, float]:
    """Read all that is stored: what is lost, stored more than once, or has the id of an event and another content."""
    client, stored, wrong = client_of(server), Counter[str](), 0
    client.indices.refresh(index=get_stream_name(SERVING))
    numbers = {event: f"{number:032x}" for number, event in enumerate(ids)}
    query = {"_source": ["event.id", "http.request.id"]}
    for hit in scan(client, index=get_stream_name(SERVING), query=query, size=5000):
        event = hit["_source"]
        stored[event["event.id"]] += 1
        wrong += numbers.get(event["event.id"]) != event["http.request.id"]
    client.close()
    again = sum(times - 1 for times in stored.values())
    return {"lost": len(numbers.keys() - stored.keys()), "stored again": again, "of another content": wrong}


@contextlib.contextmanager
def elasticsearch(folder: Path, port: int) -> Iterator[Running]:
    """A server that keeps its data in `folder`; it is stopped at the end of the block."""
    command = [shared("elasticsearch/start"), "--port", str(port), "--data", folder / "data"]
    with running(command, port, {}, folder / "elasticsearch.log", "/_cluster/health") as server:
        yield server


if __name__ == "__main__":
    main()

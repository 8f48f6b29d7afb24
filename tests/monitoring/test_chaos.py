"""No accepted event is lost, whatever breaks on its way."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from elasticsearch import Elasticsearch

from llmops.monitoring.elasticsearch_client import stream_of
from llmops.monitoring.shipping import retry
from llmops.monitoring.sinks.local import LocalStore
from llmops.monitoring.spool import Spool
from tests.clock import wait_until

from . import chaos
from .conftest import answers, shared
from .receiver import Receiver

pytestmark = pytest.mark.journey

#: what the receiver does to requests, the largest body it takes, and who is killed with -9 meanwhile
SCHEDULE = [
    (("429", "500", "lost", "", ""), 10**9, "shipper"),
    (("429",), 10**9, "writer0"),
    (("reset",), 10**9, "shipper"),
    (("500",), 10**9, "writer1"),
    (("hang", ""), 10**9, "shipper"),
    (("lost",), 10**9, "shipper"),
    (("",), 20_000, "shipper"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "events"
    folder.mkdir()
    return folder


def arrived(folder: Path) -> bool:
    """Nothing waits any more."""
    with Spool(folder) as spool:
        return not any(spool.waiting().values())


def test_nothing_accepted_is_lost_while_everything_breaks(folder: Path, receiver: Receiver) -> None:
    with chaos.Children(folder, receiver.url) as children:
        for faults, largest, victim in SCHEDULE:
            receiver.misbehave(*faults, largest=largest, poison=True)
            asked, before = len(receiver.requests) + 9, len(chaos.accepted(folder)) + 200
            wait_until(lambda n=asked: len(receiver.requests) > n, "a request", 120)
            wait_until(lambda n=before: len(chaos.accepted(folder)) > n, "an event", 120)
            children.kill(victim)
            children.start(victim)
        for number in range(chaos.WRITERS):
            children.kill(f"writer{number}")
        receiver.misbehave(poison=True)
        wait_until(lambda: arrived(folder), "the last event", 300)
    accepted = chaos.accepted(folder)
    poison, dead = {event for event, bad in accepted.items() if bad}, {}
    with Spool(folder) as spool:
        for sink, letter in spool.rejected():
            dead.setdefault(sink, set()).add(letter.id)
    assert poison and dead.keys() == receiver.taken.keys() and all(ids >= poison for ids in dead.values())
    receiver.misbehave()
    retry(folder, chaos.sinks(folder, receiver.url, 60))
    with Spool(folder) as spool:
        assert spool.rejected_counts() == {}
    assert {sink: len(accepted.keys() - taken.keys()) for sink, taken in receiver.taken.items()} == dict.fromkeys(
        dead, 0
    )
    local = [event["event.id"] for event in LocalStore(folder).find("llmops.chaos")]
    assert accepted.keys() <= set(local) and len(local) == len(set(local))


class Server:
    """An Elasticsearch that can be killed and started again, with its data."""

    def __init__(self, data: Path) -> None:
        self.port, self._data = quiet_port(), data
        self.url, self._process = f"http://127.0.0.1:{self.port}", None

    def start(self) -> None:
        command = [str(shared("elasticsearch/start")), "--port", str(self.port), "--data", str(self._data)]
        self._process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        health = f"{self.url}/_cluster/health?wait_for_status=yellow"
        wait_until(lambda: self._process.poll() is not None or answers(health), "Elasticsearch", 240)
        assert self._process.poll() is None

    def kill(self) -> None:
        """With -9, as a machine that loses its power."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(60)


def quiet_port() -> int:
    """A port that the kernel gives nobody who asks for a free one: it can be had again after a while."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in range(first - 1, 1024, -1):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    pytest.fail("every port is taken")


@pytest.fixture
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="events-", ignore_cleanup_errors=True) as data:
        server = Server(Path(data))
        server.start()
        try:
            yield server
        finally:
            with suppress(ProcessLookupError):
                server.kill()


def test_nothing_accepted_is_lost_while_elasticsearch_is_killed(folder: Path, server: Server) -> None:
    stream = stream_of("llmops.chaos")

    def count() -> int:
        return int(client.options(ignore_status=[404, 503]).count(index=stream).body.get("count", 0))

    def failing() -> bool:
        with Spool(folder) as spool:
            return "elasticsearch" in spool.in_state("failing")

    with Elasticsearch(server.url, request_timeout=60) as client:
        template = {"settings": {"number_of_replicas": 0}, "mappings": {"properties": {"@timestamp": {"type": "date"}}}}
        client.indices.put_index_template(
            name="llmops", index_patterns=["logs-llmops.*-*"], data_stream={}, priority=500, template=template
        )
        with chaos.Children(folder, server.url, of="elasticsearch") as children:
            wait_until(lambda: count() > 0, "an event", 120)
            server.kill()
            wait_until(failing, "the shipper's failure", 120)
            children.kill("shipper")
            children.start("shipper")
            server.start()
            before = count()
            wait_until(lambda: count() > before, "an event after the restart", 120)
            for number in range(chaos.WRITERS):
                children.kill(f"writer{number}")
            wait_until(lambda: arrived(folder), "the last event", 300)
        accepted = chaos.accepted(folder).keys()
        client.indices.refresh(index=stream)
        found, after = set(), None
        while hits := client.search(index=stream, size=5_000, sort=["_doc"], search_after=after, source=False)["hits"][
            "hits"
        ]:
            found |= {hit["_id"] for hit in hits}
            after = hits[-1]["sort"]
    assert len(accepted) > 100 and accepted <= found
    with Spool(folder) as spool:
        assert spool.rejected_counts() == {}

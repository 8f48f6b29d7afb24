"""No accepted event is lost, whatever breaks on its way.

`python -m tests.monitoring.chaos` and `python -m tests.monitoring.outages` do the same with more.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from elasticsearch import Elasticsearch

from llmops.monitoring.elasticsearch_client import stream_of
from llmops.monitoring.spool import Spool

from ..event_server import running
from . import chaos
from .conftest import TEMPLATE
from .outages import through_outages
from .receiver import Receiver

MOST_MEMORY = 400_000_000  #: of a shipper with four sinks; its libraries take a third of it


def test_nothing_accepted_is_lost_while_everything_breaks(tmp_path: Path, receiver: Receiver) -> None:
    folder = tmp_path / "events"
    folder.mkdir()
    told = chaos.break_everything(folder, receiver, count=3_000, seconds=9)
    chaos.check(told, folder, receiver)
    assert len(told.accepted) >= 3_000 and told.kills > 2
    assert max(told.memory) < MOST_MEMORY


@pytest.mark.slow
def test_nothing_accepted_is_lost_while_elasticsearch_is_killed_and_stopped(tmp_path, elasticsearch) -> None:
    folder, told = tmp_path / "events", chaos.Told()
    folder.mkdir()
    with Elasticsearch(elasticsearch.url, request_timeout=60) as client:
        client.indices.put_index_template(name="llmops", **TEMPLATE)
        with chaos.Children(folder, elasticsearch.url, pause_s=0.1, of="elasticsearch") as children:
            for end in (elasticsearch.kill, elasticsearch.stop):
                reached = count(client)
                until(lambda at=reached: count(client) > at)  # it has taken some, and is taking more
                end()
                time.sleep(0.5)
                children.kill("shipper")
                children.start("shipper")
                elasticsearch.start()
            for number in range(chaos.WRITERS):
                children.kill(f"writer{number}")
            chaos.arrived(folder, told, children, 120)
        accepted = set(chaos.accepted(folder))
        client.indices.refresh(index=stream_of("llmops.chaos"))
        found = {hit["_id"] for hit in every(client)}
    assert len(accepted) > 500 and accepted <= found
    with Spool(folder) as spool:
        assert spool.rejected_counts() == {}


@pytest.mark.slow
def test_every_event_is_there_once_after_elasticsearch_and_the_shipper_were_killed_and_stopped(tmp_path) -> None:
    with running() as server:
        told = through_outages(server, tmp_path / "events", count=10_000, breaks=3)
    assert (told.stored, told.lost, told.strange, told.dead) == (10_000, 0, 0, {})
    assert set(told.breaks.values()) == {1} and told.memory_mb < MOST_MEMORY / 10**6


def count(client: Elasticsearch) -> int:
    return int(client.options(ignore_status=[404, 503]).count(index=stream_of("llmops.chaos")).body.get("count", 0))


def every(client: Elasticsearch):
    after = None
    while hits := client.search(
        index=stream_of("llmops.chaos"), size=5_000, sort=["_doc"], search_after=after, source=False
    )["hits"]["hits"]:
        yield from hits
        after = hits[-1]["sort"]


def until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)

"""Many events on their way into a real Elasticsearch, which is stopped, killed with -9 and started, as is the shipper.

What the tests do with thousands, this does with a million:

    python -m tests.monitoring.outages COUNT FOLDER
"""

from __future__ import annotations

import json
import random
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from elasticsearch import Elasticsearch

from llmops.config import Monitoring
from llmops.elk import setup
from llmops.monitoring.elasticsearch_client import stream_of
from llmops.monitoring.events import build
from llmops.monitoring.spool import Spool

from ..event_server import EventServer, running
from .chaos import Children

DATASET, TOGETHER, PAGE = "llmops.chaos", 1000, 10_000


@dataclass
class Told:
    """What came of it."""

    sent: int = 0
    stored: int = 0  #: documents
    lost: int = 0
    strange: int = 0  #: that nobody sent
    dead: dict[str, int] = field(default_factory=dict)
    breaks: dict[str, int] = field(default_factory=lambda: {"killed": 0, "stopped": 0, "shipper killed": 0})
    memory_mb: int = 0  #: most of the shipper
    append_s: float = 0.0
    ship_s: float = 0.0


def through_outages(server: EventServer, folder: Path, count: int, breaks: int, seed: int = 0) -> Told:
    """Have `count` events accepted, then ship them while something breaks so many times on the way."""
    list(setup.setup(Monitoring(sinks=("elasticsearch",), elasticsearch_url=server.url), {}))
    chance, told, memory = random.Random(seed), Told(sent=count), [0]
    with Spool(folder) as spool:
        spool.register(["elasticsearch"])
        begun, ids = time.monotonic(), set[str]()
        for start in range(0, count, TOGETHER):
            events = [build(DATASET, {"user.roles": ["user"]}) for _ in range(start, min(start + TOGETHER, count))]
            spool.append(events)
            ids |= {event["event.id"] for event in events}
        told.append_s, begun = time.monotonic() - begun, time.monotonic()
        children = Children(folder, server.url, 1, of="elasticsearch")
        children.start("shipper")
        for number in range(1, breaks + 2):
            left = count * (breaks + 1 - number) // (breaks + 1)
            while spool.waiting()["elasticsearch"] > left:
                memory.append(children.memory())
                time.sleep(0.05)
            if left:
                _break(server, children, chance, told)
        children.kill("shipper")
        told.ship_s, told.dead = time.monotonic() - begun, spool.rejected_counts()
    with Elasticsearch(server.url, request_timeout=60) as client:
        found = stored(client)
    told.stored, told.lost, told.strange = len(found), len(ids - set(found)), len(set(found) - ids)
    told.memory_mb = max(memory) // 10**6
    return told


def stored(client: Elasticsearch) -> list[str]:
    """The `event.id` of every document, each as often as it is there."""
    client.indices.refresh(index=stream_of(DATASET))
    pit, after, found = client.open_point_in_time(index=stream_of(DATASET), keep_alive="2m")["id"], None, list[str]()
    while hits := client.search(
        pit={"id": pit, "keep_alive": "2m"}, size=PAGE, sort=["_shard_doc"], search_after=after, source=["event.id"],
        track_total_hits=False,
    )["hits"]["hits"]:  # fmt: skip
        found += [hit["_source"]["event.id"] for hit in hits]
        after = hits[-1]["sort"]
    client.close_point_in_time(id=pit)
    return found


def _break(server: EventServer, children: Children, chance: random.Random, told: Told) -> None:
    what = min(told.breaks, key=lambda one: (told.breaks[one], chance.random()))  # each as often as the others
    told.breaks[what] += 1
    if what == "shipper killed":
        children.kill("shipper")
        children.start("shipper")
        return
    if what == "killed":
        server.kill()
    else:
        server.stop()
    time.sleep(chance.uniform(0, 2))
    server.start()


def _main(count: int, folder: Path) -> None:
    folder.mkdir(parents=True)
    with running() as server:
        told = through_outages(server, folder, count, breaks=12)
    sys.stdout.write(json.dumps(asdict(told)) + "\n")


if __name__ == "__main__":
    _main(int(sys.argv[1]), Path(sys.argv[2]))

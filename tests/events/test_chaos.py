"""No accepted event is lost, whatever breaks on its way."""

from pathlib import Path

import pytest

from llmops.events.shipping import resend_rejected
from llmops.events.sinks.local import LocalStore
from llmops.events.spool import Spool
from tests.clock import wait_until

from . import chaos
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


def has_arrived(folder: Path) -> bool:
    with Spool(folder) as spool:
        return not any(spool.count_waiting().values())


def test_nothing_accepted_is_lost_while_everything_breaks(tmp_path: Path, receiver: Receiver) -> None:
    folder = tmp_path / "events"
    folder.mkdir()
    with chaos.Children(folder, receiver.url) as children:
        for faults, largest, victim in SCHEDULE:
            receiver.misbehave(*faults, largest=largest, poison=True)
            asked, before = len(receiver.requests) + 9, len(chaos.read_accepted(folder)) + 200
            wait_until(lambda n=asked: len(receiver.requests) > n, "a request", 120)
            wait_until(lambda n=before: len(chaos.read_accepted(folder)) > n, "an event", 120)
            children.kill(victim)
            children.start(victim)
        for number in range(chaos.WRITERS):
            children.kill(f"writer{number}")
        receiver.misbehave(poison=True)
        wait_until(lambda: has_arrived(folder), "the last event", 300)
    accepted = chaos.read_accepted(folder)
    poison, dead = {event for event, bad in accepted.items() if bad}, {}
    with Spool(folder) as spool:
        for sink, letter in spool.read_rejected():
            dead.setdefault(sink, set()).add(letter.id)
    assert poison and dead.keys() == receiver.taken.keys() and all(ids >= poison for ids in dead.values())
    receiver.misbehave()
    resend_rejected(folder, chaos.make_sinks(folder, receiver.url, 60))
    with Spool(folder) as spool:
        assert spool.count_rejected() == {}
    assert all(accepted.keys() <= taken.keys() for taken in receiver.taken.values())
    local = [event["event.id"] for event in LocalStore(folder).find("llmops.chaos")]
    assert accepted.keys() <= set(local) and len(local) == len(set(local))

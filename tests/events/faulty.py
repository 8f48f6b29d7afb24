"""A sink for tests that is in the process."""

from llmops.events.datasets import SINK
from llmops.events.events import emit_all
from llmops.events.sinks.sink import BatchRefusedError, Rejection, SinkError
from llmops.events.spool import Spool


class ListSink:
    """Keeps what it gets; can be down, refuse events or batches, or fail."""

    def __init__(self, name="list"):
        self.name, self.got, self.states, self.sizes = name, [], [], []
        self.down, self.closed, self.asked = False, False, 0
        self.refuse, self.spoil, self.crash, self.most = set(), set(), set(), 10**9

    def send(self, events):
        self.asked += 1
        if self.down:
            raise SinkError("it is down.")
        numbers = [e.get("n") for e in events]
        self.sizes.append(len(events))
        if len(events) > self.most or self.spoil.intersection(numbers):
            raise BatchRefusedError("it is refused.")
        if self.crash.intersection(numbers):
            raise SinkError("it answers 500.")
        self.states += [e for e in events if e["event.dataset"] == SINK]
        refused = [Rejection(e["event.id"], "no", e) for e in events if e.get("n") in self.refuse]
        self.got += [n for n in numbers if n is not None and n not in self.refuse]
        return refused

    def close(self):
        self.closed = True


def emit_numbers(folder, *numbers):
    emit_all(folder, "llmops.test", [{"n": n, "event.id": f"id{n}"} for n in numbers])


def count_waiting(folder):
    with Spool(folder) as spool:
        return spool.count_waiting()


def read_dead_letters(folder):
    with Spool(folder) as spool:
        return [(sink, letter.id, letter.reason) for sink, letter in spool.read_rejected()]

"""Events on their way while everything around them breaks: what the tests do with thousands, this does with more.

Two writers put events into the spool and note which were accepted; a shipper brings them to the local store and to a
receiver that speaks as Elasticsearch, Logstash and a collector do. All are killed with -9 at random, the receiver
hangs, answers 429, 500 and 413, forgets to answer, and refuses single documents.

    python -m tests.monitoring.chaos COUNT SECONDS FOLDER
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from llmops.monitoring.events import build
from llmops.monitoring.shipping import Shipper, retry
from llmops.monitoring.sinks.base import Sink
from llmops.monitoring.sinks.elasticsearch import ElasticsearchSink
from llmops.monitoring.sinks.local import LocalStore
from llmops.monitoring.sinks.logstash import LogstashSink
from llmops.monitoring.sinks.otlp import OtlpSink
from llmops.monitoring.spool import Spool

from .receiver import Receiver

ROOT = Path(__file__).parents[2]
WRITERS, TOGETHER, POISON = 2, 20, 499  #: processes, events of a commit, every which one is poisonous
FAULTS = [
    {},
    {"429": 0.2, "500": 0.2, "lost": 0.1},
    {"429": 1.0},
    {"500": 1.0},
    {"hang": 0.5},
    {"largest": 20_000},
]


@dataclass
class Told:
    """What came of it."""

    accepted: set[str] = field(default_factory=set)
    poison: set[str] = field(default_factory=set)
    dead: dict[str, set[str]] = field(default_factory=dict)  #: sink → dead letters, before they were sent again
    dead_after: int = 0
    kills: int = 0
    memory: list[int] = field(default_factory=list)  #: of shippers, in bytes, as it was looked at
    seconds: float = 0.0


def sinks(folder: Path, url: str, timeout_s: float = 0.5) -> list[Sink]:
    elasticsearch = ElasticsearchSink.connect(url, timeout_s=timeout_s)
    return [
        LocalStore(folder),
        elasticsearch,
        LogstashSink(url, timeout_s=timeout_s),
        OtlpSink(url, timeout_s=timeout_s),
    ]


def write(folder: Path, pause_s: float) -> None:
    """Put events into the spool until killed, and note each that was accepted."""
    noted = os.open(folder / f"accepted.{os.getpid()}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    with Spool(folder) as spool:
        while True:
            numbers = [random.randrange(POISON) for _ in range(TOGETHER)]
            events = [build("llmops.chaos", {"llmops.n": n, "poison": n == 0, "text": "é" * 300}) for n in numbers]
            spool.append(events)
            lines = [f"{event['event.id']} {int(event['poison'])}\n" for event in events]
            os.write(noted, "".join(lines).encode())
            time.sleep(pause_s)


def accepted(folder: Path) -> dict[str, bool]:
    """Events that were accepted, and whether they are poisonous."""
    lines = [line.split() for path in folder.glob("accepted.*") for line in path.read_text().splitlines()]
    return {event: bad == "1" for event, bad in lines}


class Children:
    """The processes of a run."""

    def __init__(self, folder: Path, url: str, pause_s: float, of: str = "") -> None:
        self._folder, self._of = folder, of
        self._commands = {f"writer{n}": ["write", str(folder), str(pause_s)] for n in range(WRITERS)}
        self._commands["shipper"] = ["ship", str(folder), url, of]
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        command = [sys.executable, "-m", "tests.monitoring.chaos", *self._commands[name]]
        log = open(self._folder / f"{name}.log", "ab")  # noqa: SIM115
        self._running[name] = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=_environ())
        log.close()

    def kill(self, name: str) -> None:
        process = self._running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def memory(self) -> int:
        with suppress(psutil.NoSuchProcess, KeyError):
            return int(psutil.Process(self._running["shipper"].pid).memory_info().rss)
        return 0

    def __enter__(self) -> Children:
        for name in self._commands:
            self.start(name)
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._running):
            self.kill(name)


def break_everything(folder: Path, receiver: Receiver, count: int, seconds: float, seed: int = 0) -> Told:
    """Have about `count` events accepted in about `seconds` of faults, then let all arrive; dead letters last."""
    chance, told, begun = random.Random(seed), Told(), time.monotonic()
    receiver.misbehave(poison=True)
    with Children(folder, receiver.url, pause_s=seconds * WRITERS * TOGETHER / count) as children:
        next_kill = time.monotonic() + chance.uniform(0, 3)
        while time.monotonic() - begun < seconds or len(accepted(folder)) < count:
            assert time.monotonic() - begun < 5 * seconds + 60, "the writers are too slow"
            time.sleep(0.1)
            told.memory.append(children.memory())
            if chance.random() < 0.1:
                receiver.misbehave(**chance.choice(FAULTS), poison=True)
            if time.monotonic() > next_kill:
                told.kills += 1
                name = chance.choice(["writer0", "writer1", "shipper", "receiver"])
                if name == "receiver":
                    receiver.kill()
                    time.sleep(chance.uniform(0, 1))
                    receiver.start()
                else:
                    children.kill(name)
                    children.start(name)
                next_kill = time.monotonic() + chance.uniform(0, 4)
        for number in range(WRITERS):
            children.kill(f"writer{number}")
        receiver.misbehave(poison=True)
        arrived(folder, told, children, 60 + 4 * seconds)
    told.accepted = set(accepted(folder))
    told.poison = {event for event, bad in accepted(folder).items() if bad}
    with Spool(folder) as spool:
        for sink, letter in spool.rejected():
            told.dead.setdefault(sink, set()).add(letter.id)
    receiver.misbehave()
    retry(folder, sinks(folder, receiver.url, 30))
    with Spool(folder) as spool:
        told.dead_after = sum(spool.rejected_counts().values())
    told.seconds = time.monotonic() - begun
    return told


def arrived(folder: Path, told: Told, children: Children, within_s: float) -> None:
    """Wait until nothing waits any more."""
    end = time.monotonic() + within_s
    with Spool(folder) as spool:
        while any(spool.waiting().values()) or len(spool.waiting()) < 1:
            assert time.monotonic() < end, f"these still wait: {spool.waiting()}"
            told.memory.append(children.memory())
            time.sleep(0.1)


def check(told: Told, folder: Path, receiver: Receiver) -> dict[str, int]:
    """That nothing was lost; returns how many events each sink got twice or more."""
    twice = {}
    for sink in ("elasticsearch", "logstash", "otlp"):
        taken = receiver.taken(sink)
        assert told.accepted <= taken.keys(), f"{sink} lost {len(told.accepted - taken.keys())}"
        assert told.dead.get(sink, set()) >= told.poison, f"{sink}: dead letters are missing"
        twice[sink] = sum(number > 1 for number in taken.values())
    local = [event["event.id"] for event in LocalStore(folder).find("llmops.chaos")]
    assert told.accepted <= set(local) and len(local) == len(set(local)) and "local" not in told.dead
    assert told.dead_after == 0
    return twice


def _environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _main(role: str, *arguments: str) -> None:
    if role == "write":
        write(Path(arguments[0]), float(arguments[1]))
    elif role == "ship":
        folder, url, of = Path(arguments[0]), arguments[1], arguments[2]
        chosen = [ElasticsearchSink.connect(url, timeout_s=10)] if of else sinks(folder, url)
        Shipper(folder, chosen, period_s=0.02, longest_s=0.5).start()
        signal.pause()
    else:
        count, seconds, folder = int(role), float(arguments[0]), Path(arguments[1])
        folder.mkdir(parents=True)
        receiver = Receiver(folder / "receiver")
        receiver.start()
        try:
            told = break_everything(folder, receiver, count, seconds)
            twice = check(told, folder, receiver)
        finally:
            receiver.kill()
        found = {
            "accepted": len(told.accepted),
            "poisonous": len(told.poison),
            "dead": {sink: len(ids) for sink, ids in told.dead.items()},
            "twice": twice,
            "kills": told.kills,
            "memory_mb": max(told.memory) // 10**6,
            "seconds": round(told.seconds),
        }
        sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])

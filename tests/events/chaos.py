"""Processes that `test_chaos` kills: writers of events, and a shipper."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from llmops.events.events import build_event
from llmops.events.shipping import Shipper
from llmops.events.sinks.elasticsearch import ElasticsearchSink
from llmops.events.sinks.local import LocalStore
from llmops.events.sinks.logstash import LogstashSink
from llmops.events.sinks.otlp import OtlpSink
from llmops.events.sinks.sink import Sink
from llmops.events.spool import Spool

ROOT = Path(__file__).parents[2]
WRITERS, TOGETHER, POISON = 2, 20, 10  #: processes, events of a commit, every which commit has a poisonous one


def make_sinks(folder: Path, url: str, timeout_s: float = 0.5) -> list[Sink]:
    return [
        LocalStore(folder),
        ElasticsearchSink.connect(url, timeout_s=timeout_s),
        LogstashSink(url, timeout_s=timeout_s),
        OtlpSink(url, timeout_s=timeout_s),
    ]


def write_events(folder: Path) -> None:
    """Put events into the spool until killed, and note each that was accepted."""
    accepted = os.open(folder / f"accepted.{os.getpid()}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    with Spool(folder) as spool:
        for turn in itertools.count(1):
            bad = turn % POISON == 0
            events = [
                build_event("llmops.chaos", {"poison": bad and n == 0, "text": "é" * 300, "llmops.n": n})
                for n in range(TOGETHER)
            ]
            spool.append(events)
            os.write(accepted, "".join(f"{event['event.id']} {int(event['poison'])}\n" for event in events).encode())
            time.sleep(0.2)


def read_accepted(folder: Path) -> dict[str, bool]:
    """Events that were accepted, and whether they are poisonous."""
    lines = [line.split() for path in folder.glob("accepted.*") for line in path.read_text().splitlines()]
    return {event: bad == "1" for event, bad in lines}


class Children:
    """The processes of a run."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._commands = {f"writer{n}": ["write", str(folder)] for n in range(WRITERS)}
        self._commands["shipper"] = ["ship", str(folder), url]
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        command = [sys.executable, "-m", "tests.events.chaos", *self._commands[name]]
        with open(self._folder / f"{name}.log", "ab") as log:
            self._running[name] = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def kill(self, name: str) -> None:
        process = self._running.pop(name)
        process.kill()
        process.wait(60)

    def __enter__(self) -> Children:
        for name in self._commands:
            self.start(name)
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._running):
            self.kill(name)


def _main(role: str, folder: Path, url: str = "") -> None:
    if role == "write":
        write_events(folder)
    else:
        Shipper(folder, make_sinks(folder, url), period_s=0.02, max_period_s=0.5).start()
        signal.pause()


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])

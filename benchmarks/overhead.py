"""Overhead of our app per request: key, limits, schema, guard, id, headers and a durable event, around an echo engine.

The same echo engine twice, each in a server of its own with one worker: behind a bare FastAPI route, and behind our
`/generate`, asked with a key that has limits. Requests come over kept connections, as plain bytes on sockets, so that
the client costs little beside the server: first one after another, the servers in turns, for the time of a request,
then 16 at a time, for requests per second; `CPU ms` is what the server's process computes for each of these. Every
answer of ours has its event in the spool, committed to disk, before its last byte leaves; the last arm shows what one
such commit costs alone.

With `--against REVISION`, once or more often, the app of that revision is measured beside ours, in turns, in the same
environment and with a home made by its own code.

    python benchmarks/overhead.py [--quick] [--json] [--against REVISION]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # or serving.py beside this file would hide the package

import psutil  # noqa: E402
from peers import ROOT, attempted  # noqa: E402
from pydantic import BaseModel  # noqa: E402
from report import divided, finish, parser  # noqa: E402
from servers import Running, Site, free_port, running  # noqa: E402

from llmops.events.datasets import SERVING  # noqa: E402
from llmops.events.events import build_event  # noqa: E402
from llmops.events.spool import Spool  # noqa: E402
from serving.engines.base import EngineRequest, Question  # noqa: E402
from tests.serving.echo import EchoEngine  # noqa: E402

BODY = {"prompt": "How do I return order 4711-0815 of 2 October 2026 without its box?", "max_new_tokens": 20}
STREAMS = 16
IN_TURN = 50  #: lone requests that one server gets before it is the next one's turn
BARE, OURS = "bare route", "our app"
#: run by the Python of whichever tree is measured
SERVE = f"""
from llmops.config import load
from serving.app import serve
try:
    from tests.serving.echo import EchoEngine
except ImportError:  # an older revision
    from serving.engines.echo import EchoEngine
serve(load(), lambda version: EchoEngine(max_queue={4 * STREAMS}, max_batch={STREAMS}))
"""
MAKE = """
import sys
from pathlib import Path
from servers import make_site
folder = Path(sys.argv[1])
limits = {"requests_per_minute": 10**9, "tokens_per_minute": 10**9}
print(make_site(folder / "home", folder / "servable", limits).key)
"""

Seconds = list[float]


class Body(BaseModel):
    """What a bare route takes."""

    prompt: str
    max_new_tokens: int


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__file__, __doc__, "three rounds of 300 requests, not five of 2,000")
    made.add_argument("--against", action="append", default=[], metavar="REVISION", help="measure that revision, too")
    made.add_argument("--bare", type=int, help=argparse.SUPPRESS)
    return made.parse_args(arguments)


def main() -> None:
    """Measure all servers in turns and print the table."""
    told = options()
    if told.bare:
        bare(told.bare)
        return
    rounds, count = (3, 300) if told.quick else (5, 2000)
    found: dict[str, list[dict[str, float]]] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        apps = {OURS: made_app(ROOT, folder / "ours")}
        for revision in told.against:
            apps[revision] = made_app(unpacked(revision, folder / f"tree {revision}"), folder / revision)
        for turn in range(rounds):
            with contextlib.ExitStack() as stack:
                servers: dict[str, Running] = {}
                port = free_port()
                command = [sys.executable, __file__, "--bare", str(port)]
                starts = {BARE: running(command, port, {}, folder / f"bare{turn}")}
                for arm, start in (starts | {arm: app.running() for arm, app in apps.items()}).items():
                    with attempted(arm, failed):
                        servers[arm] = stack.enter_context(start)
                for arm, figures in measured(servers, count).items():
                    found.setdefault(arm, []).append(figures)
        commits = committed(folder / "events", count)
    arms = {
        arm: {key: statistics.median(f[key] for f in figures) for key in figures[0]} for arm, figures in found.items()
    }
    others = {arm: arm if arm in told.against else "the bare route" for arm in (BARE, *told.against)}
    claims = {
        f"requests/s, our app over {words}": ((OURS, "requests/s"), (arm, "requests/s"))
        for arm, words in others.items()
    }
    ratios = divided(arms, claims)
    for arm in (OURS, *told.against):
        if arms.keys() >= {arm, BARE}:
            ratios |= {
                f"{p} that {arm} adds to a lone request": arms[arm][p] - arms[BARE][p] for p in ("p50 ms", "p99 ms")
            }
    arms["one event's commit alone"] = times(commits)
    finish(told, arms, ratios, failed, ("fastapi", "uvicorn"))


@dataclass(frozen=True)
class App:
    """The app of one tree of this repository, with the echo engine."""

    tree: Path
    folder: Path
    site: Site

    @contextlib.contextmanager
    def running(self, **environ: str) -> Iterator[Running]:
        """The app as a server, for the time of a block."""
        port = free_port()
        environ = {**self.site.environ(port), "PYTHONPATH": str(self.tree), **environ}
        with running([sys.executable, "-P", "-c", SERVE], port, environ, self.folder / "app.log") as server:
            server.headers = self.site.headers
            yield server


def made_app(tree: Path, folder: Path) -> App:
    """Make a home with a released model and a key, by the code of that tree."""
    (folder / "servable").mkdir(parents=True)
    paths = os.pathsep.join([str(tree), str(tree / "benchmarks")])
    command = [sys.executable, "-P", "-c", MAKE, str(folder)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True, check=True
    )
    return App(tree, folder, Site(folder / "home", done.stdout.split()[-1]))


def unpacked(revision: str, folder: Path) -> Path:
    """Write the files of a revision of this repository to a folder."""
    done = subprocess.run(["git", "-C", str(ROOT), "archive", revision], stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"overhead: there is no revision {revision} here")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def bare(port: int) -> None:
    """The same engine with nothing around it."""
    import uvicorn
    from fastapi import FastAPI

    engine, app = EchoEngine(max_queue=4 * STREAMS, max_batch=STREAMS), FastAPI()
    engine.load()

    @app.get("/readyz")
    async def ready() -> None:
        """Answers at once."""

    @app.post("/generate")
    async def generate(body: Body) -> dict[str, str]:
        answer = await engine.generate(EngineRequest(Question(body.prompt), body.max_new_tokens)).collect()
        return {"response": answer.text}

    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False)


def measured(servers: Mapping[str, Running], count: int) -> dict[str, dict[str, float]]:
    """Return each server's times of lone requests, made in turns, and its requests per second at `STREAMS`."""
    alone: dict[str, Seconds] = {arm: [] for arm in servers}
    for server in servers.values():
        asyncio.run(ask(server, 100, 4))  # to warm up
    for _ in range(count // IN_TURN):
        for arm, server in servers.items():
            alone[arm] += asyncio.run(ask(server, IN_TURN, 1))[0]
    return {arm: times(alone[arm]) | together(server, count) for arm, server in servers.items()}


def together(server: Running, count: int) -> dict[str, float]:
    """Return what one server does at `STREAMS`: long enough that its background counts, too."""
    before = _computed_s(server)
    took, seconds = asyncio.run(ask(server, count, STREAMS))
    computed_ms = 1000 * (_computed_s(server) - before) / count
    at = {f"{name} at {STREAMS}": value for name, value in times(took).items()}
    return {"requests/s": count / seconds, **at, "CPU ms": computed_ms}


def _computed_s(server: Running) -> float:
    used = psutil.Process(server.process.pid).cpu_times()
    return float(used.user + used.system)


async def ask(server: Running, count: int, streams: int) -> tuple[Seconds, float]:
    """Send `count` requests over `streams` connections; returns how long each took, and all of them."""
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps(BODY)
    lines = [
        f"POST /generate HTTP/1.1\r\nHost: {host}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    lines += [f"{name}: {value}" for name, value in server.headers.items()]
    request = ("\r\n".join(lines) + "\r\n\r\n" + body).encode()
    left, took = iter(range(count)), []

    async def work() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for _ in left:
            begun = time.perf_counter()
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
            took.append(time.perf_counter() - begun)
            if not head.startswith("http/1.1 200"):
                raise RuntimeError(f"A request failed: {head}")
        writer.close()

    begun = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(streams)))
    return took, time.perf_counter() - begun


def committed(folder: Path, count: int) -> Seconds:
    """How long it takes to build an event and commit it to an open spool, as the app does."""
    took = []
    with Spool(folder) as spool:
        for _ in range(count):
            begun = time.perf_counter()
            spool.append([build_event(SERVING, {"event.action": "generate"})])
            took.append(time.perf_counter() - begun)
    return took


def times(seconds: Sequence[float]) -> dict[str, float]:
    """Percentiles in milliseconds."""
    ordered = sorted(seconds)
    return {f"p{p} ms": 1000 * ordered[min(len(ordered) - 1, p * len(ordered) // 100)] for p in (50, 99)}


if __name__ == "__main__":
    main()

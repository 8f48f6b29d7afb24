"""What our app adds to a request: key, limits, schema, guard, id, headers and a durable event, around an echo engine.

The same echo engine twice, each in a server of its own with one worker: behind a bare FastAPI route, and behind our
`/generate`, asked with a key that has limits. Requests come over kept connections, as plain bytes on sockets, so that
the client costs little beside the server: first one after another, for the time of a request, then 16 at a time, for
requests per second. Every answer of ours has its event in the spool, committed to disk, before its last byte leaves;
the last arm shows what one such commit costs alone.

    python benchmarks/overhead.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # or serving.py beside this file would hide the package

from peers import attempted  # noqa: E402
from pydantic import BaseModel  # noqa: E402
from report import divided, finish, parser  # noqa: E402
from servers import Running, free_port, make_site, running  # noqa: E402

from llmops.config import load  # noqa: E402
from llmops.monitoring.datasets import SERVING  # noqa: E402
from llmops.monitoring.events import build  # noqa: E402
from llmops.monitoring.spool import Spool  # noqa: E402
from serving.app import serve  # noqa: E402
from serving.engines.base import EngineRequest, Question  # noqa: E402
from serving.engines.echo import EchoEngine  # noqa: E402

BODY = {"prompt": "How do I return order 4711-0815 of 2 October 2026 without its box?", "max_new_tokens": 20}
STREAMS = 16
BARE, OURS = "bare route", "our app"

Seconds = list[float]


class Body(BaseModel):
    """What a bare route takes."""

    prompt: str
    max_new_tokens: int


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__file__, __doc__, "one round of 500 requests, not three of 2,000")
    made.add_argument("--bare", type=int, help=argparse.SUPPRESS)
    made.add_argument("--ours", action="store_true", help=argparse.SUPPRESS)
    return made.parse_args(arguments)


def main() -> None:
    """Measure both servers in turns and print the table."""
    told = options()
    if told.bare:
        bare(told.bare)
        return
    if told.ours:
        serve(load(), lambda version: EchoEngine(max_queue=4 * STREAMS, max_batch=STREAMS))
        return
    rounds, count = (1, 500) if told.quick else (3, 2000)
    found: dict[str, list[dict[str, float]]] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "servable").mkdir()
        site = make_site(
            folder / "home", folder / "servable", {"requests_per_minute": 10**9, "tokens_per_minute": 10**9}
        )
        for turn in range(rounds):
            port = free_port()
            command = [sys.executable, __file__, "--bare", str(port)]
            with attempted(BARE, failed), running(command, port, {}, folder / f"bare{turn}") as server:
                found.setdefault(BARE, []).append(measured(server, count))
            port = free_port()
            command = [sys.executable, __file__, "--ours"]
            with attempted(OURS, failed), running(command, port, site.environ(port), folder / f"ours{turn}") as server:
                server.headers = site.headers
                found.setdefault(OURS, []).append(measured(server, count))
        commits = committed(folder / "events", count)
    arms = {
        arm: {key: statistics.median(f[key] for f in figures) for key in figures[0]} for arm, figures in found.items()
    }
    ratios = divided(arms, {"requests/s, our app over the bare route": ((OURS, "requests/s"), (BARE, "requests/s"))})
    if arms.keys() >= {OURS, BARE}:
        ratios |= {
            f"{p} that our app adds to a lone request": arms[OURS][p] - arms[BARE][p] for p in ("p50 ms", "p99 ms")
        }
    arms["one event's commit alone"] = times(commits)
    finish(told, arms, ratios, failed, ("fastapi", "uvicorn"))


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
        answer = await engine.generate(EngineRequest(Question(body.prompt), body.max_new_tokens)).whole()
        return {"response": answer.text}

    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False)


def measured(server: Running, count: int) -> dict[str, float]:
    """Times of lone requests, and requests per second at `STREAMS`."""
    asyncio.run(ask(server, 100, 4))  # to warm up
    alone, _ = asyncio.run(ask(server, count, 1))
    together, seconds = asyncio.run(ask(server, count, STREAMS))
    at = {f"{name} at {STREAMS}": value for name, value in times(together).items()}
    return {**times(alone), "requests/s": len(together) / seconds, **at}


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
            spool.append([build(SERVING, {"event.action": "generate"})])
            took.append(time.perf_counter() - begun)
    return took


def times(seconds: Sequence[float]) -> dict[str, float]:
    """Percentiles in milliseconds."""
    ordered = sorted(seconds)
    return {f"p{p} ms": 1000 * ordered[min(len(ordered) - 1, p * len(ordered) // 100)] for p in (50, 99)}


if __name__ == "__main__":
    main()

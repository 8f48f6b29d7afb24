"""Twice as much load as the app can take, for minutes: nothing breaks, memory stays flat, no event is lost.

The app runs as `python -m serving` with the `openvino` engine on SmolLM2-135M-Instruct, eight requests in its batch
and eight in its queue. Twice as many callers as both hold, with four keys, send one question after another, half of
them reading the answer as a stream. Who gets 429 waits as long as the answer says, at most a second. A stream that ends
in an error counts as 500. In the end the app is stopped as an operator stops it, and the events in its store are
counted: as many with status 200 as callers got answers. Memory is read twice a second; its slope is that of the
straight line through the second half of the readings.

    python benchmarks/load.py [--minutes 10] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # or serving.py beside this file would hide the package
os.environ["HF_HUB_OFFLINE"] = "1"

import httpx  # noqa: E402
from contenders import SMALL, prepare  # noqa: E402
from report import finish, parser  # noqa: E402
from servers import Running, free_port, make_site, running  # noqa: E402

from llmops.access.keys import KeyStore  # noqa: E402
from llmops.events.datasets import SERVING  # noqa: E402
from llmops.events.sinks.local import LocalStore  # noqa: E402
from llmops.state.database import database_at  # noqa: E402

BATCH = QUEUE = 8
CALLERS = 2 * (BATCH + QUEUE)
KEYS = 4  #: one alone may fill half of the queue
TOKENS = (8, 16, 24, 32, 48)  #: longest answers, in turns
LONGEST_PAUSE_S = 1.0


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__file__, __doc__, "two minutes")
    made.add_argument("--minutes", type=float, default=10.0, help="how long")
    return made.parse_args(arguments)


def main() -> None:
    """Run, count and print the table."""
    told = options()
    seconds = 120.0 if told.quick else told.minutes * 60
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        prepare()
        site = make_site(folder / "home", SMALL, {"max_batch": BATCH, "max_queue": QUEUE})
        store = KeyStore(database_at(f"sqlite:///{site.home / 'state.db'}"), site.home / "events")
        no_limits = {"requests_per_minute": 0, "tokens_per_minute": 0}
        keys = [store.create("user", "benchmark", **no_limits)[0] for _ in range(KEYS)]
        command = [sys.executable, "-m", "serving"]
        with running(command, port, site.environ(port), folder / "log") as server:
            statuses, took, memory = asyncio.run(overload(server, keys, seconds))
            crashed = server.process.poll() is not None
        events = Counter(e["http.response.status_code"] for e in LocalStore(site.home / "events").find(SERVING))
        if "Traceback" in (log := (folder / "log").read_text()):
            print(f"The app's log has an error:\n{log[log.index('Traceback') :][:3000]}")
    half = memory[len(memory) // 2 :]
    slope = statistics.linear_regression([t for t, _ in half], [m for _, m in half]).slope * 60
    answered = statuses[200]
    print(f"answers by status: {dict(statuses)}, events by status: {dict(events)}")
    figures = {
        "minutes": seconds / 60,
        "callers": CALLERS,
        "200": answered,
        "429": statuses[429],
        "other": sum(statuses.values()) - answered - statuses[429],
        "events 200": events[200],
        "p50 s": statistics.median(took),
        "p99 s": sorted(took)[len(took) * 99 // 100],
        "first MiB": memory[0][1],
        "last MiB": memory[-1][1],
        "most MiB": max(m for _, m in memory),
        "MiB/min": slope,
    }
    ratios = {
        "events per answered request": events[200] / answered,
        "share of answers that are neither 200 nor 429": figures["other"] / sum(statuses.values()),
        "memory at the end over that at half time": half[-1][1] / half[0][1],
        "crashes": float(crashed),
    }
    finish(told, {"app": figures}, ratios, packages=("torch", "transformers", "fastapi"))


async def overload(
    server: Running, keys: Sequence[str], seconds: float
) -> tuple[Counter[int], list[float], list[tuple[float, float]]]:
    """Send requests for so long; returns answers by status (0: none), seconds that each 200 took, and memory."""
    statuses: Counter[int] = Counter()
    took: list[float] = []
    memory: list[tuple[float, float]] = []
    begun, numbers = time.monotonic(), itertools.count()
    limits = httpx.Limits(max_connections=CALLERS + 1)

    async def call(client: httpx.AsyncClient, key: str) -> None:
        while time.monotonic() - begun < seconds:
            n, sent = next(numbers), time.monotonic()
            body = {
                "prompt": f"Order {n}. How should I store a tent and {n % 30} pairs of boots through the winter?",
                "max_new_tokens": TOKENS[n % len(TOKENS)],
                "stream": bool(n % 2),
            }
            try:
                response = await client.post("/generate", json=body, headers={"X-API-Key": key})
            except httpx.TransportError as error:
                statuses[0] += 1
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
                await asyncio.sleep(LONGEST_PAUSE_S)
                continue
            broken = body["stream"] and "event: error" in response.text
            status = 500 if broken else response.status_code
            statuses[status] += 1
            if status == 200:
                took.append(time.monotonic() - sent)
            else:
                await asyncio.sleep(min(LONGEST_PAUSE_S, float(response.headers.get("Retry-After", 1))))

    async def watch() -> None:
        while True:
            memory.append((time.monotonic() - begun, server.memory()))
            await asyncio.sleep(0.5)

    async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:
        watching = asyncio.create_task(watch())
        await asyncio.gather(*(call(client, keys[n % KEYS]) for n in range(CALLERS)))
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    return statuses, took, memory


if __name__ == "__main__":
    main()

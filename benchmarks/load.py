"""Twice as much load as the app can take, for minutes, while an operator changes versions: nothing breaks, memory stays
flat, no event is lost.

The app runs as `python -m serving` with the engine `openvino` on SmolLM2-135M-Instruct in 8 bits, eight requests in its
batch and eight in its queue. Twice as many callers as both hold, each with a key of its own, send one question after
another, half of them reading the answer as a stream; who gets 429 waits as long as the answer says, at most a second.
All the while an operator goes round: a canary of the other version and its end, a promotion, a canary that a rollback
ends; each waits until the app answers with what was asked for. In the end the app is stopped as an operator stops it,
and the events in its store are counted: as many with status 200 as callers got answers. Memory is read twice a second;
its slope is that of the straight line through the second half of the readings.

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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # or serving.py beside this file would hide the package
os.environ["HF_HUB_OFFLINE"] = "1"

import httpx  # noqa: E402
from contenders import MODELS, prepare  # noqa: E402
from report import finish, parser  # noqa: E402
from servers import Running, free_port, make_key, make_site, running  # noqa: E402

from llmops.monitoring.datasets import SERVING  # noqa: E402
from llmops.monitoring.sinks.local import LocalStore  # noqa: E402

BATCH = QUEUE = 8
CALLERS = 2 * (BATCH + QUEUE)
TOKENS = (8, 16, 24, 32, 48)  #: longest answers, in turns
LONGEST_PAUSE_S = 1.0
STAY_S = 5.0  #: how long what the operator asked for stays
PATIENCE_S = 60.0  #: how long a change may take until it is one that failed

#: what the operator asks for in turns: a path below /admin, a body, and who answers then, of each side
ROUND: tuple[tuple[str, dict[str, Any], dict[str, str]], ...] = (
    ("canary", {"version": "v1", "share": 0.5}, {"canary": "v1", "champion": "v2"}),
    ("canary", {"stop": True}, {"": "v2"}),
    ("promote", {"version": "v1"}, {"": "v1"}),
    ("canary", {"version": "v2", "share": 0.5}, {"canary": "v2", "champion": "v1"}),
    ("rollback", {}, {"": "v2"}),
)


@dataclass
class Seen:
    """What callers, the operator and the process showed."""

    statuses: Counter[int] = field(default_factory=Counter)  #: of answers; 0: none
    took_s: list[float] = field(default_factory=list)  #: that each 200 took
    memory: list[tuple[float, float]] = field(default_factory=list)  #: seconds since the beginning, MiB
    changed_s: list[float] = field(default_factory=list)  #: until the app answered with what was asked for
    failed: list[str] = field(default_factory=list)  #: changes that were refused, or not seen in time


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__file__, __doc__, "two minutes")
    made.add_argument("--minutes", type=float, default=10.0, help="how long")
    return made.parse_args(arguments)


def main() -> None:
    """Run, count and print the table."""
    told = options()
    seconds = 120.0 if told.quick else told.minutes * 60
    prepare()
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        settings = {"max_batch": BATCH, "max_queue": QUEUE, "max_context": 512}
        site = make_site(folder / "home", MODELS / "q8_0", settings, versions=2)
        keys = [make_key(site.home, "user") for _ in range(CALLERS)]
        operator = make_key(site.home, "admin")
        command = [sys.executable, "-m", "serving"]
        with running(command, port, site.environ(port), folder / "log") as server:
            seen = asyncio.run(overload(server, keys, operator, seconds))
            crashed = server.process.poll() is not None
        events = Counter(e["http.response.status_code"] for e in LocalStore(site.home / "events").find(SERVING))
        if "Traceback" in (log := (folder / "log").read_text()):
            print(f"The app's log has an error:\n{log[log.index('Traceback') :][:3000]}")
    print(f"answers by status: {dict(seen.statuses)}, events by status: {dict(events)}")
    for reason in seen.failed:
        print(f"a change failed: {reason}")
    half = seen.memory[len(seen.memory) // 2 :]
    earlier, later = half[: len(half) // 2], half[len(half) // 2 :]
    answered = seen.statuses[200]
    figures = {
        "minutes": seconds / 60,
        "callers": CALLERS,
        "200": answered,
        "429": seen.statuses[429],
        "other": sum(seen.statuses.values()) - answered - seen.statuses[429],
        "events 200": events[200],
        "p50 s": statistics.median(seen.took_s),
        "p99 s": sorted(seen.took_s)[len(seen.took_s) * 99 // 100],
        "changes": len(seen.changed_s),
        "change p50 s": statistics.median(seen.changed_s) if seen.changed_s else float("nan"),
        "failed changes": len(seen.failed),
        "first MiB": seen.memory[0][1],
        "last MiB": seen.memory[-1][1],
        "most MiB": max(m for _, m in seen.memory),
        "MiB/min": statistics.linear_regression([t for t, _ in half], [m for _, m in half]).slope * 60,
    }
    ratios = {
        "events per answered request": events[200] / answered,
        "share of answers that are neither 200 nor 429": figures["other"] / sum(seen.statuses.values()),
        "memory in the last quarter over that in the third": statistics.median(m for _, m in later)
        / statistics.median(m for _, m in earlier),
        "crashes": float(crashed),
    }
    finish(told, {"app": figures}, ratios, packages=("openvino-genai", "fastapi"))


async def overload(server: Running, keys: Sequence[str], operator: str, seconds: float) -> Seen:
    """Send requests for so long, one caller for each key, and change versions meanwhile."""
    seen, begun, numbers = Seen(), time.monotonic(), itertools.count()
    limits = httpx.Limits(max_connections=len(keys) + 2)

    def goes_on() -> bool:
        return time.monotonic() - begun < seconds

    async def send(key: str, body: dict[str, Any]) -> httpx.Response | None:
        sent = time.monotonic()
        try:
            response = await client.post("/generate", json=body, headers={"X-API-Key": key})
        except httpx.TransportError as error:
            seen.statuses[0] += 1
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return None
        seen.statuses[response.status_code] += 1
        if response.status_code == 200:
            seen.took_s.append(time.monotonic() - sent)
        elif response.status_code != 429:
            print(f"{response.status_code}: {response.text[:500]}", file=sys.stderr)
        return response

    async def call(key: str) -> None:
        while goes_on():
            n = next(numbers)
            prompt = f"Order {n}. How should I store a tent and {n % 30} pairs of boots through the winter?"
            body = {"prompt": prompt, "max_new_tokens": TOKENS[n % len(TOKENS)], "stream": bool(n % 2)}
            response = await send(key, body)
            if response is None or response.status_code != 200:
                told = float(response.headers.get("Retry-After", 1)) if response else LONGEST_PAUSE_S
                await asyncio.sleep(min(LONGEST_PAUSE_S, told))

    async def answers(side: str, version: str) -> bool:
        headers = {"X-API-Key": operator, **({"X-Llmops-Side": side} if side else {})}
        body = {"prompt": "Who answers?", "max_new_tokens": 1}
        response = await client.post("/generate", json=body, headers=headers)
        if response.status_code == 404:  # a side that is not loaded yet
            return False
        seen.statuses[response.status_code] += 1
        return response.status_code == 200 and response.json()["model_version"] == version

    async def operate() -> None:
        for path, body, sides in itertools.cycle(ROUND):
            await asyncio.sleep(STAY_S)
            if not goes_on():
                return
            asked = time.monotonic()
            response = await client.post(f"/admin/{path}", json=body, headers={"X-API-Key": operator})
            if response.status_code != 200:
                seen.failed.append(f"{path} {body}: {response.status_code} {response.text[:300]}")
                continue
            waiting = dict(sides)
            while waiting and time.monotonic() - asked < PATIENCE_S:
                waiting = {side: version for side, version in waiting.items() if not await answers(side, version)}
                await asyncio.sleep(0.2)
            if waiting:
                seen.failed.append(f"{path} {body}: {waiting} not seen in {PATIENCE_S:g} s")
            else:
                seen.changed_s.append(time.monotonic() - asked)

    async def watch() -> None:
        while True:
            seen.memory.append((time.monotonic() - begun, server.memory()))
            await asyncio.sleep(0.5)

    async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:
        watching = asyncio.create_task(watch())
        await asyncio.gather(operate(), *(call(key) for key in keys))
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    return seen


if __name__ == "__main__":
    main()

"""Time that the dashboard waits for figures of 1 hour to 90 days at a million requests in the local event store.

The same store twice: read through its roll-ups, and one by one, as releases before 0.2 read it. The events are spread
over 90 days, a tenth of them over the last day, and go in by 500 as the shipper brings them. Raw events are kept all
90 days here, so that there is something to read one by one.

    python benchmarks/event_store.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # or serving.py beside this file would hide the package

from report import divided, finish, parser  # noqa: E402

from llmops.config import Monitoring  # noqa: E402
from llmops.events.datasets import FEEDBACK, SERVING  # noqa: E402
from llmops.events.events import build_event, format_timestamp  # noqa: E402
from llmops.events.sinks.local import MAX_EXACT, LocalStore  # noqa: E402
from serving.observe.dashboard import SPANS, read_dashboard  # noqa: E402

ROLLUPS, ONE_BY_ONE = "roll-ups", "one by one"
BATCH = 500
KEPT = Monitoring(raw_days=100, raw_mb=100_000)


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    return parser(__file__, __doc__, "200,000 events, not a million").parse_args(arguments)


def main() -> None:
    """Fill the store, ask it, and print the table."""
    told = options()
    count = 200_000 if told.quick else 1_000_000
    now = datetime.now(UTC)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begun = time.perf_counter()
        fill(LocalStore(folder, KEPT), count, now)
        stored = count / (time.perf_counter() - begun)
        arms: dict[str, dict[str, float]] = {
            arm: asked(LocalStore(folder, KEPT, few), now, rounds)
            for arm, few, rounds in ((ROLLUPS, MAX_EXACT, 7), (ONE_BY_ONE, count + 1, 1))
        }
        arms[ROLLUPS] |= {"stored/s": stored, "bytes/event": sum(f.stat().st_size for f in folder.iterdir()) / count}
    ratios = divided(arms, {f"{span}: roll-ups over one by one": ((ONE_BY_ONE, f"{span} ms"), (ROLLUPS, f"{span} ms"))
                            for span in SPANS})  # fmt: skip
    ratios["90d p95, roll-ups against exact: relative error"] = abs(
        arms[ROLLUPS].pop("p95") / arms[ONE_BY_ONE].pop("p95") - 1
    )
    finish(told, arms, ratios)


def fill(store: LocalStore, count: int, now: datetime) -> None:
    """Deliver `count` requests, and a rating of every hundredth."""
    batch = []
    for number, event in enumerate(requests(count, now)):
        batch.append(event)
        if number % 100 == 0:
            said = {"http.request.id": event["http.request.id"], "llmops.key.prefix": "abcd1234"}
            batch.append(
                build_event(FEEDBACK, {**said, "@timestamp": event["@timestamp"], "llmops.feedback.rating": "up"})
            )
        if len(batch) >= BATCH:
            store.send(batch)
            batch = []
    store.send(batch)


def requests(count: int, now: datetime) -> Iterator[dict[str, Any]]:
    """Requests as the app tells of them, in order of time."""
    chance = random.Random(7)
    old = [timedelta(days=90) * chance.random() for _ in range(count - count // 10)]
    new = [timedelta(days=1) * chance.random() for _ in range(count // 10)]
    for number, ago in enumerate(sorted([*old, *new], reverse=True)):
        status = chance.choices((200, 429, 503), (97, 2, 1))[0]
        answered = {
            "gen_ai.usage.input_tokens": 40 + number % 50,
            "gen_ai.usage.output_tokens": 20 + number % 90,
            "llmops.time_to_first_token": int(chance.lognormvariate(-2.5, 0.6) * 1e9),
            "llmops.queue_time": int(chance.expovariate(50) * 1e9),
        }
        yield build_event(
            SERVING,
            {
                "@timestamp": format_timestamp(now - ago),
                "event.duration": int(chance.lognormvariate(-0.7, 0.7) * 1e9),
                "event.action": "request",
                "event.outcome": "success" if status == 200 else "failure",
                "gen_ai.operation.name": "text_completion",
                "gen_ai.request.model": "support-bot",
                "http.request.id": f"{number:032x}",
                "http.request.method": "POST",
                "http.response.status_code": status,
                "url.path": "/generate",
                "client.ip": "192.0.2.7",
                "llmops.key.prefix": "abcd1234",
                "user.roles": ["user"],
                "llmops.model.version": f"v{1 + number * 6 // count + (number % 10 == 0)}",
                **(answered if status == 200 else {"error.type": "limited" if status == 429 else "engine_died"}),
            },
        )


def asked(store: LocalStore, now: datetime, rounds: int) -> dict[str, float]:
    """Milliseconds that the figures of each span take, the median of some rounds; and the p95 of 90 days."""
    found: dict[str, float] = {}
    for span in SPANS:
        taken = []
        for _ in range(rounds):
            begun = time.perf_counter()
            figures = read_dashboard(store, span, 2, now)
            taken.append((time.perf_counter() - begun) * 1000)
        found[f"{span} ms"] = statistics.median(taken)
        found["p95"] = figures["totals"]["latency_ms"]["p95"]
    return found


if __name__ == "__main__":
    main()

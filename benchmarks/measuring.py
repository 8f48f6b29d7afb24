"""How a server is measured: the same questions to each, at several numbers of streams, and its figures."""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

from contenders import MOST_STREAMS, Arm
from peers import ArmFailedError
from servers import MODEL, Running, load

STREAMS = (1, 4, 16, MOST_STREAMS)
MAX_TOKENS = 48

THINGS = (
    *("rain jacket", "down sleeping bag", "two-person tent", "pair of hiking boots", "gas stove", "water filter"),
    *("climbing rope", "head torch", "wool jumper", "canoe", "camping mat", "pair of trekking poles"),
)
QUESTIONS = (
    "How should I clean a {0} after a week of rain, and what must I never do with it?",
    "What should I look at when I choose a {0} for a long tour in autumn? Please give me several points.",
    "My new {0} arrived with a small defect. The guarantee covers defects of material for two years, parts that wear "
    "are left out, and the receipt has to be shown in the shop or sent by mail together with a photograph of the "
    "defect. Explain step by step what I can do now.",
    "Explain how to store a {0} through the winter.",
)

Result = dict[str, Any]


def measured(
    arm: Arm, server: Running, rounds: int, levels: Sequence[int]
) -> tuple[dict[int, dict[str, float]], dict[str, str]]:
    """The figures of a server at each level, and its answers."""
    results: dict[int, list[Result]] = {streams: [] for streams in levels if streams <= arm.most_streams}
    texts: dict[str, str] = {}
    ask(arm, server, questions(0, 2), 2)
    for turn, streams in itertools.product(range(min(rounds, arm.most_rounds)), results):
        if streams == MOST_STREAMS and turn:  # one round has as many answers as three of all other levels
            continue
        asked = of_round(turn, streams)
        result = ask(arm, server, asked, streams)
        texts |= {question: one["text"] for question, one in zip(asked, result["answers"], strict=True)}
        results[streams].append(result)
        print(f"  {streams} streams: {shown(summary([result]))}", file=sys.stderr, flush=True)
    peak = server.peak()
    return {n: {**summary(found), "peak MiB": peak, "start s": server.start_s} for n, found in results.items()}, texts


def ask(arm: Arm, server: Running, asked: list[str], streams: int) -> Result:
    """Ask some questions, `streams` at a time; every model gets the same tokens."""
    if server.lines:
        made = [f"[Question] {question}" for question in asked]
        parts = [
            server.lines({"questions": made[n : n + streams], "tokens": MAX_TOKENS})
            for n in range(0, len(made), streams)
        ]
        return {
            "seconds": sum(part["seconds"] for part in parts),
            "answers": [one for part in parts for one in part["answers"]],
        }
    result = load(
        arm.style,
        url=server.url,
        questions=[question if arm.marks else f"[Question] {question}" for question in asked],
        streams=streams,
        max_tokens=MAX_TOKENS,
        model=MODEL,
        headers=server.headers,
    )
    if bad := [one for one in result["answers"] if one["status"] != 200 or not one["tokens"]]:
        raise ArmFailedError(f"An answer failed: {bad[0]}")
    return result


def of_round(turn: int, streams: int) -> list[str]:
    """The questions of a round at a level."""
    return questions(1 + turn * len(STREAMS) + STREAMS.index(streams), max(3, streams))


def questions(seed: int, count: int) -> list[str]:
    """Different questions for every seed, so that no server has seen the beginning of one before."""
    made = itertools.cycle(itertools.product(QUESTIONS, THINGS))
    chosen = itertools.islice(made, seed * 7, seed * 7 + count)
    return [f"Order {seed}-{n}. {text.format(thing)}" for n, (text, thing) in enumerate(chosen)]


def summary(results: Sequence[Result]) -> dict[str, float]:
    """Medians over the rounds."""

    def over(figure: Callable[[Result], float]) -> float:
        return statistics.median(figure(result) for result in results)

    speeds = [sum(one["tokens"] for one in r["answers"]) / r["seconds"] for r in results]
    figures = {"tokens/s": statistics.median(speeds), "low": min(speeds), "high": max(speeds)}
    for name, percent in (("p50", 50), ("p95", 95), ("p99", 99)):
        figures[f"first {name} ms"] = over(lambda r, p=percent: percentile([o["first_s"] for o in r["answers"]], p))  # type: ignore[misc]
    gaps = [[gap for one in result["answers"] for gap in one["gaps_s"]] for result in results]
    if all(gaps):
        for name, percent in (("p50", 50), ("p95", 95), ("p99", 99)):
            figures[f"gap {name} ms"] = statistics.median(percentile(found, percent) for found in gaps)
    return figures


def percentile(seconds: Sequence[float], percent: int) -> float:
    """A percentile, nearest rank, in milliseconds."""
    ordered = sorted(seconds)
    return 1000 * ordered[min(len(ordered) - 1, percent * len(ordered) // 100)]


def shown(figures: dict[str, float]) -> str:
    """One line of figures."""
    return ", ".join(f"{name} {value:.1f}" for name, value in figures.items())

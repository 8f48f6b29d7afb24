"""Drift of what users ask: false alarms, and shifts that are found, beside Evidently's text drift.

Texts with their topics, banking77 where it is at hand (`--data`, else `../shared/data`), otherwise made ones. 3,000 are
the training data, other 3,000 what was asked in a version's first days, and windows are drawn from the rest: of the
same topics; with a share of them about seven topics that were never there (`new`); or with that share moved to seven
topics that were (`more`). Training data, first days and topics are drawn anew for every ten windows. What is found is
what differs in two windows in a row, the same comparison in both; `once` is what a single window says. The method
is that of `llmops drift`: with the prompts' texts kept, and their vectors compared or, without a model, their words;
and with the features alone. The peer is Evidently's text drift with its defaults, two windows in a row likewise: a
domain classifier.

    python benchmarks/drift.py [--quick] [--json] [--data FOLDER]
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # beside this file is a serving.py, which would hide the package

from peers import ArmFailedError, Peer, attempted, in_process  # noqa: E402
from report import divided, finish, parser  # noqa: E402

EVIDENTLY = Peer("evidently", ("evidently==0.7.23", "pandas<3", "psutil>=7.0"))
VECTORS, WORDS, FEATURES, PEER = "texts kept", "texts kept, no model", "features only", "Evidently"
SIDE, TRAINED, WINDOW, DEAL, TOPICS = 3_000, 3_000, 2_000, 10, 7
#: what windows are like → share of the window, and whether of new topics
SHIFTS = {
    "same": (0.0, True),
    "new10": (0.1, True),
    "new30": (0.3, True),
    "more10": (0.1, False),
    "more30": (0.3, False),
}


@dataclass(frozen=True, slots=True)
class Deal:
    """Training data, what was asked first, and windows: numbers of texts."""

    trained: list[int]
    first: list[int]
    windows: dict[str, list[list[int]]]


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__file__, __doc__, "20 windows of the same topics instead of 200, 10 of every shift instead of 40")
    made.add_argument("--data", type=Path, help="folder with banking77_train.csv and banking77_test.csv")
    made.add_argument("--arm", help=argparse.SUPPRESS)
    made.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    return made.parse_args(arguments)


def main() -> None:
    """Run all arms and print the tables."""
    told = options()
    if told.arm:
        work = json.loads(told.work.read_text(encoding="utf-8"))
        deals = [Deal(**deal) for deal in work["deals"]]
        print(json.dumps(ARMS[told.arm](work["texts"], work["topics"], deals)))
        return
    texts, topics = corpus(told.data)
    print(f"  {len(texts):,} texts, {len(set(topics))} topics", file=sys.stderr, flush=True)
    counts = {
        name: (20 if name == "same" else 10) if told.quick else (200 if name == "same" else 40) for name in SHIFTS
    }
    deals = list(dealt(topics, counts))
    arms: dict[str, dict[str, float]] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name) / "work.json"
        values = [{field: getattr(deal, field) for field in deal.__slots__} for deal in deals]
        work.write_text(json.dumps({"texts": texts, "topics": topics, "deals": values}), encoding="utf-8")
        for arm in ARMS:
            with attempted(arm, failed):
                print(f"  {arm} …", file=sys.stderr, flush=True)
                python = EVIDENTLY.python() if arm == PEER else Path(sys.executable)
                arms[arm] = figures(in_process(__file__, "--arm", arm, "--work", work, python=python))
    claims = {
        f"{what}, ours ({ours}) over Evidently": ((ours, what), (PEER, what))
        for ours in (VECTORS, FEATURES)
        for what in ("s/window", "new10", "more10")
    }
    finish(told, arms, divided(arms, claims), failed, ("scikit-learn", "scipy"), [EVIDENTLY])


def figures(found: dict[str, Any]) -> dict[str, float]:
    """Shares of windows in which something is found, by what they are like, and the time for one."""
    out: dict[str, float] = {}
    for name in SHIFTS:
        runs: list[list[list[str]]] = found["windows"][name]  # of every deal, of every window: what differs
        pairs = [set(a) & set(b) for run in runs for a, b in zip(run, run[1:], strict=False)]
        out[name] = statistics.mean(bool(pair) for pair in pairs)
        out[f"{name} once"] = statistics.mean(bool(differs) for run in runs for differs in run)
    return {**out, "s/window": statistics.median(found["seconds"])}


def corpus(folder: Path | None) -> tuple[list[str], list[str]]:
    """Texts and their topics."""
    places = [folder] if folder else [parent / "shared" / "data" for parent in Path(__file__).parents]
    for place in places:
        files = [place / f"banking77_{part}.csv" for part in ("train", "test")]
        if all(file.is_file() for file in files):
            rows = [row for file in files for row in csv.DictReader(file.open(encoding="utf-8", newline=""))]
            return [row["text"] for row in rows], [row["category"] for row in rows]
    if folder:
        raise ArmFailedError(f"{folder} has no banking77_train.csv and banking77_test.csv")
    return made_up()


def made_up(count: int = 13_000, topics: int = 77) -> tuple[list[str], list[str]]:
    """Texts of common words, and of some that a topic has more often than others."""
    rng = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(3_000)]
    own = [rng.sample(words, 25) for _ in range(topics)]
    texts, names = [], []
    for n in range(count):
        topic = n % topics
        length = rng.randint(5, 20)
        texts.append(" ".join(rng.choice(own[topic] if rng.random() < 0.3 else words[:600]) for _ in range(length)))
        names.append(f"topic {topic}")
    return texts, names


def dealt(topics: Sequence[str], counts: dict[str, int]) -> Iterator[Deal]:
    """What every arm works on. A window's texts differ from one another; windows of a deal may share some."""
    rng = random.Random(1)
    left = dict(counts)
    while any(left.values()):
        chosen = rng.sample(sorted(set(topics)), 2 * TOPICS)
        new, more = set(chosen[:TOPICS]), set(chosen[TOPICS:])
        known = [n for n, topic in enumerate(topics) if topic not in new]
        rng.shuffle(known)
        trained, first, rest = known[:TRAINED], known[TRAINED : TRAINED + SIDE], known[TRAINED + SIDE :]
        pools = {
            True: [n for n, topic in enumerate(topics) if topic in new],
            False: [n for n in rest if topics[n] in more],
        }
        windows: dict[str, list[list[int]]] = {}
        for name, (share, fresh) in SHIFTS.items():
            shifted = min(int(share * WINDOW), len(pools[fresh]))
            size = min(left[name], DEAL)
            left[name] -= size
            windows[name] = [
                rng.sample(rest, round(shifted / share * (1 - share)) if share else WINDOW)
                + rng.sample(pools[fresh], shifted)
                for _ in range(size)
            ]
        yield Deal(trained, first, windows)


def ours(texts: list[str], topics: list[str], deals: list[Deal], keep: bool, model: bool = False) -> dict[str, Any]:
    """What `llmops drift` finds. A text's vector is computed once, and its time counts in every window that has it."""
    from llmops.monitoring.drift.lexicon import TrainingRow, build_lexicon
    from llmops.monitoring.drift.sample import build_prompt_sample
    from llmops.monitoring.drift.sample_comparison import compare_samples

    windows: dict[str, list[list[list[str]]]] = {name: [] for name in SHIFTS}
    seconds = []
    vector_of, each = vectors(texts) if model else (None, 0.0)
    for deal in deals:
        lexicon = build_lexicon(TrainingRow(texts[n], "", "", topics[n], "made") for n in deal.trained)
        first = build_prompt_sample([texts[n] for n in deal.first], lexicon, keep)
        for name, several in deal.windows.items():
            run = []
            for number, window in enumerate(several):
                sample = build_prompt_sample([texts[n] for n in window], lexicon, keep)  # done when an answer has left
                begun = time.perf_counter()
                run.append([one.feature for one in compare_samples(first, sample, number, vector_of) if one.drifted])
                seconds.append(time.perf_counter() - begun + each * (len(first) + len(sample)))
            windows[name].append(run)
    return {"windows": windows, "seconds": seconds}


def vectors(texts: list[str]) -> tuple[Any, float]:
    """A function from texts to their vectors, and the seconds that one takes."""
    from llmops.data.retrieval.embedder import Embedder

    with closing(Embedder()) as embedder:
        embedder.embed(texts[:1])  # the model is loaded
        begun = time.perf_counter()
        made = dict(zip(texts, embedder.embed(texts), strict=True))
        return lambda some: np.stack([made[text] for text in some]), (time.perf_counter() - begun) / len(texts)


def evidently(texts: list[str], topics: list[str], deals: list[Deal]) -> dict[str, Any]:
    """What Evidently finds."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    definition = DataDefinition(text_columns=["text"])

    def dataset(numbers: list[int]) -> Any:
        return Dataset.from_pandas(pd.DataFrame({"text": [texts[n] for n in numbers]}), data_definition=definition)

    windows: dict[str, list[list[list[str]]]] = {name: [] for name in SHIFTS}
    seconds = []
    for deal in deals:
        first = dataset(deal.first)
        for name, several in deal.windows.items():
            run = []
            for window in several:
                begun = time.perf_counter()
                report = Report([ValueDrift(column="text")], include_tests=True).run(dataset(window), first)
                tests = json.loads(report.json())["tests"]
                run.append(["text" for test in tests if test["status"] == "FAIL"])
                seconds.append(time.perf_counter() - begun)
            windows[name].append(run)
    return {"windows": windows, "seconds": seconds}


ARMS = {
    FEATURES: lambda *work: ours(*work, keep=False),
    WORDS: lambda *work: ours(*work, keep=True),
    VECTORS: lambda *work: ours(*work, keep=True, model=True),
    PEER: evidently,
}

if __name__ == "__main__":
    main()

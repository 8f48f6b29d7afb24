"""Seeded documents of about 367 characters: with planted exact and near duplicates, lookalikes and dirt, or questions
with their answers."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from llmops.frame.records import Document, get_schema, make_content_id

WORDS = 60_000
VOCABULARY = 20_000
SHARES = {"exact": 0.05, "near": 0.10, "lookalike": 0.05}
DIRT = ("&amp; ", "\u200b", "  \t ", "itâ€™s ", "“so” ", "\r\n", "ﬁne ")


def documents(folder: Path, count: int) -> dict[str, list[list[str]]]:
    """Write `documents.parquet` and the same in eight files; returns the ids of every planted cluster, by its kind."""
    rng = random.Random(0)
    vocabulary, spoken = _words(rng)
    originals: list[tuple[str, list[str]]] = []
    clusters: dict[str, dict[str, list[str]]] = {kind: {} for kind in SHARES}
    folder.mkdir(exist_ok=True)
    parts = [folder / "parts" / f"{number}.parquet" for number in range(8)]
    parts[0].parent.mkdir()
    rows: list[dict[str, str]] = []
    with pq.ParquetWriter(folder / "documents.parquet", get_schema(Document), compression="zstd") as whole:
        for number in range(count):
            kind = rng.choices([*SHARES, "new"], weights=[*SHARES.values(), 1 - sum(SHARES.values())])[0]
            key = make_content_id("bench", str(number))
            if kind == "new" or len(originals) < 100:
                at = rng.randrange(len(spoken) - 80)
                words = rng.sample(spoken[at : at + 80], rng.randint(45, 75))
                originals.append((key, words))
            else:
                first, source = originals[rng.randrange(len(originals))]
                words = CHANGES[kind](list(source), vocabulary, rng)
                clusters[kind].setdefault(first, [first]).append(key)
            text = " ".join(words)
            if rng.random() < 0.1:
                at = text.index(" ") + 1
                text = text[:at] + rng.choice(DIRT) + text[at:]
            rows.append({"id": key, "source": "bench", "location": "docs", "position": f"line {number}", "text": text})
            if len(rows) == 10_000 or number == count - 1:
                table = pa.Table.from_pylist([{**EMPTY, **row} for row in rows], schema=get_schema(Document))
                whole.write_table(table)
                rows = []
    table = pq.read_table(folder / "documents.parquet", columns=["id", "text"])
    for number, part in enumerate(parts):
        start = number * len(table) // 8
        pq.write_table(table.slice(start, (number + 1) * len(table) // 8 - start), part)
    mixed = {first for kind, found in clusters.items() if kind != "near" for first in found}
    near = [ids for first, ids in clusters["near"].items() if first not in mixed]  # only what one kind was planted in
    return {"near": near, "all": [ids for kind in ("near", "exact") for ids in clusters[kind].values()]}


def answers(folder: Path, count: int) -> None:
    """Write `faq-<n>.csv` of 100,000 rows each: a question and its answer, as a rule of two sentences; one of twenty
    answers names an address, one of fifty rows stands there twice."""
    rng = random.Random(0)
    _, spoken = _words(rng)
    folder.mkdir(parents=True, exist_ok=True)
    row = ("", "")
    for start in range(0, count, 100_000):
        with open(folder / f"faq-{start // 100_000:03d}.csv", "w", newline="", encoding="utf-8") as file:
            out = csv.writer(file)
            out.writerow(("question", "answer"))
            for number in range(start, min(count, start + 100_000)):
                if number % 50 != 49:
                    at = rng.randrange(len(spoken) - 90)
                    words = rng.sample(spoken[at : at + 90], rng.randint(50, 80))
                    address = f" Write to {words[0]}@example.com." if number % 20 == 0 else ""
                    said = (" ".join(some).capitalize() for some in (words[12:32], words[32:]))
                    row = f"How {' '.join(words[:12])}?", f"{'. '.join(said)}.{address}"
                out.writerow(row)


def _words(rng: random.Random) -> tuple[list[str], list[str]]:
    """A vocabulary, and a text of its words, some of them far more common than others."""
    vocabulary = ["".join(rng.choices("etaoinshrdlucmfwypvbgk", k=rng.randint(1, 9))) for _ in range(VOCABULARY)]
    return vocabulary, rng.choices(vocabulary, [1 / (rank + 20) for rank in range(VOCABULARY)], k=WORDS * 20)


EMPTY = {name: "{}" if name == "fields" else "" for name in get_schema(Document).names}


def _edited(words: list[str], vocabulary: list[str], rng: random.Random) -> list[str]:
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(words))
        words[at : at + rng.randint(0, 1)] = rng.choice(([rng.choice(vocabulary)], []))
    return words


CHANGES: dict[str, Callable[[list[str], list[str], random.Random], list[str]]] = {
    "exact": lambda words, vocabulary, rng: [words[0].upper(), *words[1:]],
    "near": _edited,
    "lookalike": lambda words, vocabulary, rng: words[: len(words) // 2] + rng.choices(vocabulary, k=len(words) // 2),
}

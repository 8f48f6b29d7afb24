"""Seeded documents of about 367 characters, with planted exact and near duplicates, lookalikes and dirt."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from llmops.records import Document, content_id, schema

WORDS = 60_000
VOCABULARY = 20_000
SHARES = {"exact": 0.05, "near": 0.10, "lookalike": 0.05}
DIRT = ("&amp; ", "\u200b", "  \t ", "itâ€™s ", "“so” ", "\r\n", "ﬁne ")


def documents(folder: Path, count: int) -> dict[str, list[list[str]]]:
    """Write `documents.parquet` and the same in eight files; returns the ids of every planted cluster, by its kind."""
    rng = random.Random(0)
    vocabulary = ["".join(rng.choices("etaoinshrdlucmfwypvbgk", k=rng.randint(1, 9))) for _ in range(VOCABULARY)]
    spoken = rng.choices(vocabulary, weights=[1 / (rank + 20) for rank in range(VOCABULARY)], k=WORDS * 20)
    originals: list[tuple[str, list[str]]] = []
    clusters: dict[str, dict[str, list[str]]] = {kind: {} for kind in SHARES}
    folder.mkdir(exist_ok=True)
    parts = [folder / "parts" / f"{number}.parquet" for number in range(8)]
    parts[0].parent.mkdir()
    rows: list[dict[str, str]] = []
    with pq.ParquetWriter(folder / "documents.parquet", schema(Document), compression="zstd") as whole:
        for number in range(count):
            kind = rng.choices([*SHARES, "new"], weights=[*SHARES.values(), 1 - sum(SHARES.values())])[0]
            key = content_id("bench", str(number))
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
                table = pa.Table.from_pylist([{**EMPTY, **row} for row in rows], schema=schema(Document))
                whole.write_table(table)
                rows = []
    table = pq.read_table(folder / "documents.parquet", columns=["id", "text"])
    for number, part in enumerate(parts):
        start = number * len(table) // 8
        pq.write_table(table.slice(start, (number + 1) * len(table) // 8 - start), part)
    mixed = {first for kind, found in clusters.items() if kind != "near" for first in found}
    near = [ids for first, ids in clusters["near"].items() if first not in mixed]  # only what one kind was planted in
    return {"near": near, "all": [ids for kind in ("near", "exact") for ids in clusters[kind].values()]}


EMPTY = {name: "{}" if name == "fields" else "" for name in schema(Document).names}


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

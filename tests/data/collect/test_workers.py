"""workers: several processes give the same result as one, and a process that dies is reported with its file."""

import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest

from llmops.config import Collect, Source
from llmops.data.collect import extracts, workers
from llmops.data.collect import stage as collect
from llmops.frame.errors import SourceError, SourceUnavailableError
from llmops.frame.machine import count_cores
from tests.clock import wait_until

FIELDS = {"question": "q", "answer": "a"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder of many files: some are empty, malformed, in another encoding, or binary."""
    for number in range(12):
        rows = "".join(f"{number}-{row},ja\n" for row in range(50 * number))
        (tmp_path / f"{number:02}.csv").write_text("q,a\n" + rows + ("one cell\n" if number % 3 == 0 else ""))
    (tmp_path / "03.csv").write_bytes("q,a\nWie geht’s?,Gut\nÄhnlich,Übel\n".encode("cp1252"))
    (tmp_path / "05.csv").write_bytes(b"\x00\x01\x02" * 99)
    return tmp_path


def run_collect(root: Path, *sources: Source) -> tuple[bytes, ...]:
    out = root / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    config = Collect(root=root, sources=sources, cache=root / "cache")
    metrics = collect.run(config, interval="2026-01-31", out=out)
    files = [out / "documents.parquet", out / "quarantine.parquet", *sorted((root / "cache").glob("*.parquet"))]
    return repr(metrics).encode(), *(path.read_bytes() for path in files)


def make_source(**more: object) -> Source:
    return Source(**{"name": "s", "kind": "csv", "location": "*.csv", "fields": FIELDS, **more})


def test_the_same_bytes_counts_and_warnings_as_in_one_process(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("llmops.frame.machine.count_cores", lambda: 2)
    with monkeypatch.context() as patch:
        patch.setattr(extracts, "run_in_processes", lambda *_: pytest.fail("a process for a few small files"))
        alone = run_collect(root, make_source())
    messages = [record.getMessage() for record in caplog.records]
    caplog.clear()
    shutil.rmtree(root / "cache")
    monkeypatch.setattr(extracts, "MIN_PARALLEL_S", 0.0)
    assert run_collect(root, make_source()) == alone
    assert [record.getMessage() for record in caplog.records] == messages and any("cp1252" in text for text in messages)
    assert not list(root.rglob("copies")) and not list((root / "cache").glob(".*.new"))


def test_an_error_in_a_process_is_that_of_its_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "04.csv").write_text("other,names\n1,2\n")
    monkeypatch.setattr("llmops.frame.machine.count_cores", lambda: 2)
    monkeypatch.setattr(extracts, "MIN_PARALLEL_S", 0.0)
    with pytest.raises(SourceError, match=r"04\.csv"):
        run_collect(root, make_source())


def wait_for_signal(mark: Path) -> None:
    mark.touch()
    signal.pause()


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_process_is_reported_with_its_file(signal_number: int) -> None:
    calls = [("a.csv", partial(print, "no harm")), ("b.csv", partial(signal.raise_signal, signal_number))]
    with pytest.raises(SourceUnavailableError, match=rf"b\.csv ended with {signal.Signals(signal_number).name}"):
        workers.run_in_processes(calls, 1)


def test_an_interruption_ends_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, marks = [], [tmp_path / name for name in "xy"]
    original = workers._start_worker
    monkeypatch.setattr(workers, "_start_worker", lambda: started.append(original()) or started[-1])

    class Interrupted(ThreadPoolExecutor):
        def map(self, *arguments: Any) -> NoReturn:
            super().map(*arguments)
            wait_until(lambda: all(mark.exists() for mark in marks), "both processes at work")
            raise KeyboardInterrupt

    monkeypatch.setattr(workers, "ThreadPoolExecutor", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        workers.run_in_processes([(mark.name, partial(wait_for_signal, mark)) for mark in marks], 2)
    assert len(started) == 2 and all(worker.poll() is not None for worker in started)


def test_cores_are_those_of_the_container(tmp_path: Path) -> None:
    assert count_cores(tmp_path) == len(os.sched_getaffinity(0))
    group = tmp_path / "sys" / "fs" / "cgroup"
    (group / "cpu").mkdir(parents=True)
    for text, least in (("50000 100000", 1), ("max 100000", count_cores(tmp_path / "none"))):
        (group / "cpu.max").write_text(text)
        assert count_cores(tmp_path) == least
    (group / "cpu.max").unlink()
    (group / "cpu" / "cpu.cfs_quota_us").write_text("100000\n")
    (group / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert count_cores(tmp_path) == 1


def test_files_of_a_store_are_read_so_too(
    s3: str, tmp_path: Path, objects: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        objects(s3).pipe_file(f"{s3}/{number}.csv", f"q,a\n{number},ja\n".encode())
    alone = run_collect(tmp_path, make_source(location=f"{s3}/*.csv"))
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr("llmops.frame.machine.count_cores", lambda: 2)
    monkeypatch.setattr(extracts, "MIN_PARALLEL_S", 0.0)
    assert run_collect(tmp_path, make_source(location=f"{s3}/*.csv")) == alone
    assert not [p for p in (tmp_path / "cache" / "downloads").rglob("*") if p.is_file()]

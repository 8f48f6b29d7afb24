"""workers: the result is that of one process, and a file that takes too much is lost alone.

These tests start real workers.
"""

import ctypes
import logging
import os
import shutil
import signal
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reportlab.pdfgen.canvas import Canvas

from llmops.config import Collect, Source
from llmops.data.collect import extracts
from llmops.data.collect import stage as collect
from llmops.data.collect.readers import kinds
from llmops.data.collect.readers.origin import Items, Origin
from llmops.data.collect.workers import LimitExceededError, ReaderCrashedError, Workers
from llmops.frame.errors import SourceError, SourceUnavailableError
from llmops.frame.machine import count_cores
from llmops.frame.records import Document, DroppedRow, read_rows
from tests.clock import wait_until

FIELDS = {"question": "q", "answer": "a"}
MIB = 1 << 20
LIMIT = 400 * MIB  #: a fresh worker with the modules of these tests has some 130 MiB
CALL = Workers.call  # the real one: fixtures come after the import
KEPT: list[bytes] = []  #: what a worker keeps between calls


@pytest.fixture(autouse=True)
def real_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workers, "call", CALL)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder of many files: some are empty, malformed, in another encoding, or binary."""
    for number in range(12):
        rows = "".join(f"{number}-{row},ja\n" for row in range(50 * number))
        (tmp_path / f"{number:02}.csv").write_text("q,a\n" + rows + ("one cell\n" if number % 3 == 0 else ""))
    (tmp_path / "03.csv").write_bytes("q,a\nWie geht’s?,Gut\nÄhnlich,Übel\n".encode("cp1252"))
    (tmp_path / "05.csv").write_bytes(b"\x00\x01\x02" * 99)
    return tmp_path


def run_collect(root: Path, *sources: Source, **limits: float) -> tuple[bytes, ...]:
    out = root / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    config = Collect(root=root, sources=sources, cache=root / "cache", **limits)
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
        patch.setattr(Workers, "call", lambda self, name, function, seconds: (function(self.shared), ()))
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


def test_small_files_share_one_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "05.csv").unlink()  # an unreadable file is read by every run
    started = count_workers(monkeypatch)
    monkeypatch.setattr("llmops.frame.machine.count_cores", lambda: 2)
    run_collect(root, make_source(), make_source(name="t", location="0*.csv"))
    assert len(started) == 1
    run_collect(root, make_source())
    assert len(started) == 1, "nothing is read anew, so nothing starts"


def count_workers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    started: list[Any] = []
    original = Workers._start_worker
    monkeypatch.setattr(Workers, "_start_worker", lambda self: started.append(original(self)) or started[-1])
    return started


def wait_for_signal(mark: Path, shared: object) -> None:
    mark.touch()
    signal.pause()


def raise_signal(number: int, shared: object) -> None:
    signal.raise_signal(number)


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_is_reported_with_its_file(signal_number: int) -> None:
    with Workers(LIMIT) as workers:
        workers.call("a.csv", print, 60)
        with pytest.raises(SourceUnavailableError, match=rf"b\.csv ended with {signal.Signals(signal_number).name}"):
            workers.call("b.csv", partial(raise_signal, signal_number), 60)


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL"])
def test_a_crash_is_the_fault_of_its_file(name: str) -> None:
    with Workers(LIMIT) as workers:
        workers.call("a.csv", print, 60)
        with pytest.raises(ReaderCrashedError, match=rf"crashes .*{name}"):
            workers.call("b.csv", partial(raise_signal, signal.Signals[name]), 60)
        assert workers.call("c.csv", str, 60) == ("None", [])


def crash_if_used(shared: object) -> str:
    if KEPT:
        signal.raise_signal(signal.SIGSEGV)
    return "read by a fresh process"


def test_a_crash_after_other_files_is_tried_afresh() -> None:
    with Workers(LIMIT) as workers:
        workers.call("a.csv", partial(keep_memory, 1), 60)
        assert workers.call("b.csv", crash_if_used, 60)[0] == "read by a fresh process"


def read_and_crash(path: Path, origin: Origin) -> Items:
    """Read a file. One named `bad…` crashes the process, as a damaged data set crashes Arrow."""
    yield from kinds.read_file(path, origin)
    if path.name.startswith("bad"):
        signal.raise_signal(signal.SIGBUS)


def test_a_file_that_crashes_its_reader_is_lost_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("bad.csv", "good.csv"):
        (tmp_path / name).write_text("q,a\n1,2\n")
    monkeypatch.setattr(extracts, "read_file", read_and_crash)
    run_collect(tmp_path, make_source())
    dropped = read_rows(tmp_path / "out" / "quarantine.parquet", DroppedRow)
    assert [(row.location, row.position, row.rule) for row in dropped] == [("bad.csv", "file", "unreadable")]
    assert [row.location for row in read_rows(tmp_path / "out" / "documents.parquet", Document)] == ["good.csv"]


def print_controls(shared: object) -> None:
    library = logging.getLogger("library")
    library.addHandler(logging.StreamHandler())
    library.warning("\x1b[2J\nby its logger")
    warnings.warn("\x1b[2J\nas a warning", stacklevel=1)
    os.write(2, b"\x1b[2Jby native code\n")
    os.write(1, b"\x1b[2Jto its output\n")


def test_libraries_print_nothing_past_the_log(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with Workers(LIMIT) as workers:
        _, records = workers.call("a.csv", print_controls, 60)
    assert [(record.name, record.getMessage().count("\x1b")) for record in records] == [
        ("library", 1),
        ("py.warnings", 1),
    ], "escaped by the formatter of the caller"
    printed = [record.getMessage() for record in caplog.records if "prints" in record.getMessage()]
    assert [text.partition(": ")[2] for text in printed] == [r"\x1b[2Jby native code", r"\x1b[2Jto its output"]
    assert capfd.readouterr().err == ""


def test_an_interruption_ends_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, marks = count_workers(monkeypatch), [tmp_path / name for name in ("x.csv", "y.csv")]
    for mark in marks:
        mark.write_text("q,a\n1,2\n")

    class Interrupted(ThreadPoolExecutor):
        def map(self, *arguments: Any) -> NoReturn:
            super().map(*arguments)
            wait_until(lambda: all(mark.with_suffix(".mark").exists() for mark in marks), "both processes at work")
            raise KeyboardInterrupt

    monkeypatch.setattr(extracts, "ThreadPoolExecutor", Interrupted)
    monkeypatch.setattr("llmops.frame.machine.count_cores", lambda: 2)
    monkeypatch.setattr(extracts, "MIN_PARALLEL_S", 0.0)
    monkeypatch.setattr(extracts, "read_file", partial(read_and_wait, tmp_path))
    with pytest.raises(KeyboardInterrupt):
        run_collect(tmp_path, make_source())
    assert len(started) == 2 and all(worker.poll() is not None for worker in started)


def read_and_wait(folder: Path, path: Path, origin: Origin) -> NoReturn:
    (folder / path.name).with_suffix(".mark").touch()
    while True:
        signal.pause()


def hang_in_native_code(shared: object) -> None:
    ctypes.PyDLL(None).pause()  # holds the lock of the interpreter


def test_the_time_limit_ends_native_code() -> None:
    with Workers(LIMIT) as workers:
        with pytest.raises(LimitExceededError, match=r"more than 0\.1 s; .*`collect\.file_timeout_s`"):
            workers.call("a.csv", hang_in_native_code, 0.1)
        assert workers.call("b.csv", str, 60) == ("None", [])


def fill_memory(size: int, shared: object) -> int:
    return len(b"x" * size)


def keep_memory(size: int, shared: object) -> None:
    KEPT.append(b"x" * size)


def fill_memory_and_wait(size: int, shared: object) -> None:
    KEPT.append(b"x" * size)
    signal.pause()


def test_the_memory_limit_ends_a_worker() -> None:
    with Workers(LIMIT) as workers:
        with pytest.raises(LimitExceededError, match=r"more than 400 MiB .*`collect\.file_memory_mb`"):
            workers.call("a.csv", partial(fill_memory_and_wait, LIMIT), 60)
        assert workers.call("b.csv", str, 60) == ("None", [])


def wait_if_full(size: int, shared: object) -> str:
    if KEPT:
        fill_memory_and_wait(size, shared)
    return "read by a fresh process"


def test_memory_of_earlier_files_is_no_files_fault() -> None:
    with Workers(LIMIT) as workers:
        workers.call("a.csv", partial(keep_memory, 200 * MIB), 60)
        assert workers.call("b.csv", partial(wait_if_full, 200 * MIB), 60)[0] == "read by a fresh process"


def read_with_short_alarm(path: Path, origin: Origin) -> Items:
    """Read a file. One named `bad…` never ends; what is left of its time passes at once."""
    yield from kinds.read_file(path, origin)
    if path.name.startswith("bad"):
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0.01)
        assert 60 < left <= 120, "the configured limit counts"
        while True:
            signal.pause()


def test_a_file_without_end_is_lost_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("bad.csv", "good.csv"):
        (tmp_path / name).write_text("q,a\n1,2\n")
    with monkeypatch.context() as patch:
        patch.setattr(extracts, "read_file", read_with_short_alarm)
        run_collect(tmp_path, make_source())
    dropped = read_rows(tmp_path / "out" / "quarantine.parquet", DroppedRow)
    assert [(row.location, row.position, row.rule) for row in dropped] == [("bad.csv", "file", "limit")]
    assert "more than 120 s" in dropped[0].detail and "`collect.file_timeout_s`" in dropped[0].detail
    assert [row.location for row in read_rows(tmp_path / "out" / "documents.parquet", Document)] == ["good.csv"]


@pytest.mark.parametrize("change", [{"file_timeout_s": 240.0}, {"file_memory_mb": 4096}, {"libraries": "lxml 99"}])
def test_a_failed_file_is_read_again_only_after_a_change(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bad.csv", "good.csv"):
        (tmp_path / name).write_text("q,a\n1,2\n")
    with monkeypatch.context() as patch:
        patch.setattr(extracts, "read_file", read_and_crash)
        run_collect(tmp_path, make_source())
    run_collect(tmp_path, make_source())
    (dropped,) = read_rows(tmp_path / "out" / "quarantine.parquet", DroppedRow)
    assert (dropped.location, dropped.rule) == ("bad.csv", "unreadable")

    if libraries := change.pop("libraries", ""):
        monkeypatch.setattr(extracts, "list_versions", lambda kind: libraries)
    run_collect(tmp_path, make_source(), **change)
    assert not read_rows(tmp_path / "out" / "quarantine.parquet", DroppedRow)


def test_a_large_file_has_time_for_each_mb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = []

    def note_seconds(self: Workers, name: str, function: Callable[[Any], Any], limit: float) -> tuple[Any, list[Any]]:
        seconds.append(limit)
        return function(self.shared), []

    monkeypatch.setattr(Workers, "call", note_seconds)
    for number, size in enumerate((5, 10**6, 10**6 + 1, 3 * 10**6)):
        (tmp_path / f"{number}.txt").write_bytes(b"words".ljust(size, b"\n"))
    run_collect(tmp_path, Source(name="s", kind="text", location="*.txt"))
    assert seconds == [120, 120, 240, 360]


def write_parquet_bomb(path: Path) -> None:
    """Write a thousand times the same 8 MB, which Parquet stores once and packs."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), [b"x" * (8 << 20)])
    pq.write_table(pa.table({"q": column}), path, compression="brotli", store_schema=False, write_statistics=False)


def write_pdf_bomb(path: Path) -> None:
    """Write 640 MiB of one byte, packed twice."""
    packer = zlib.compressobj(9)
    block = b"\n" * MIB
    stream = zlib.compress(b"".join([*(packer.compress(block) for _ in range(640)), packer.flush()]), 9)
    path.write_bytes(
        b"%%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R>>endobj\n4 0 obj<</Length %d"
        b"/Filter[/FlateDecode/FlateDecode]>>stream\n%b\nendstream endobj\ntrailer<</Root 1 0 R/Size 5>>\n%%%%EOF"
        % (len(stream), stream)
    )


def write_pdf(path: Path) -> None:
    canvas = Canvas(str(path))
    canvas.drawString(72, 700, "Text here.")
    canvas.save()


@pytest.mark.parametrize(
    ("kind", "write_bomb", "write_good"),
    [
        ("parquet", write_parquet_bomb, partial(pq.write_table, pa.table({"q": ["text"]}))),
        ("pdf", write_pdf_bomb, write_pdf),
    ],
)
def test_a_small_bomb_is_lost_alone(
    kind: str, write_bomb: Callable[[Path], None], write_good: Callable[[Path], None], tmp_path: Path
) -> None:
    write_bomb(tmp_path / f"bomb.{kind}")
    write_good(tmp_path / f"good.{kind}")
    assert (tmp_path / f"bomb.{kind}").stat().st_size < 20_000
    source = Source(name="s", kind=kind, location=f"*.{kind}")
    config = Collect(root=tmp_path, sources=(source,), cache=tmp_path / "cache", file_memory_mb=LIMIT // MIB)
    collect.run(config, interval="2026-01-31", out=tmp_path / "out")
    dropped = read_rows(tmp_path / "out" / "quarantine.parquet", DroppedRow)
    assert [(row.location, row.position, row.rule) for row in dropped] == [(f"bomb.{kind}", "file", "limit")]
    assert "more than 400 MiB" in dropped[0].detail and "`collect.file_memory_mb`" in dropped[0].detail
    assert [row.location for row in read_rows(tmp_path / "out" / "documents.parquet", Document)] == [f"good.{kind}"]


@pytest.mark.parametrize("kind", kinds.READERS)
def test_the_limits_hold_for_every_kind(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exceed(self: Workers, name: str, function: Callable[[Any], object], seconds: float) -> NoReturn:
        raise LimitExceededError("it takes too much")

    monkeypatch.setattr(Workers, "call", exceed)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "file").write_text("text")
    source = Source(name="s", kind=kind, location="data" if kind == "dataset" else "data/file")
    with pytest.raises(SourceError, match=r"file: limit: it takes too much"):
        run_collect(tmp_path, source)


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

"""files and remote: what a location names on this machine, in S3, in Azure Blob and on a web server, and its copies."""

from __future__ import annotations

import ast
import errno
import glob
import hashlib
import importlib.metadata
import json
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops import artifacts, cli, hashes
from llmops.config import Collect, Config, Source
from llmops.data import remote
from llmops.data.blocks import block
from llmops.data.collect import libraries, local_files
from llmops.data.collect import stage as collect
from llmops.data.collect.files import content, matching_files, memory
from llmops.data.collect.readers.kinds import READERS
from llmops.data.collect.readers.origin import Items, Origin
from llmops.errors import DiskFullError, SourceError
from llmops.pipeline import plan, run_stage
from llmops.records import Document, Dropped, read_rows

DAY = "2026-01-31"


def source(location: str, **more: Any) -> Source:
    return Source(**{"name": "s", "kind": "csv", "location": location, **more})


def configured(root: Path, *sources: Source) -> Collect:
    return Collect(root=root, sources=sources, cache=root / "cache", forgotten=root / "forgotten.json")


def run(root: Path, location: str, interval: str = DAY, **more: Any) -> tuple[dict[str, int], list[Document]]:
    out = root / "out"
    out.mkdir(exist_ok=True)
    metrics = collect.run(configured(root, source(location, **more)), interval=interval, out=out)
    return metrics["sources"]["s"], read_rows(out / "documents.parquet", Document)


@dataclass
class Web:
    """What a web server holds, how it behaves, and what it was asked for."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True  #: answers byte ranges
    names_version: bool = True  #: sends an ETag
    breaks: int = 0  #: cuts the line in the middle of this many answers
    slow_s: float = 0.0  #: before each answer
    password: str = ""  #: that it wants, as of the user `shop`
    asked: list[str] = field(default_factory=list)  #: path and range of each GET


@pytest.fixture
def web(no_credentials: None) -> Iterator[Web]:
    state = Web()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            state.asked.append(f"{self.path} {self.headers.get('Range', '')}".strip())
            time.sleep(state.slow_s)
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            from base64 import b64encode

            wanted = f"Basic {b64encode(f'shop:{state.password}'.encode()).decode()}"
            data, status = state.files.get(self.path), 200
            if state.password and self.headers.get("Authorization") != wanted:
                data, status = b"no entry", 401
            elif data is None:
                data, status = b"nothing here", 404
            tag = hashlib.sha256(data).hexdigest()[:8]
            if status == 200 and self.headers.get("If-Match", f'"{tag}"') != f'"{tag}"':
                data, status = b"another by now", 412
            if (
                status == 200
                and state.ranges
                and (asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or ""))
            ):
                data, status = data[int(asked[1]) : int(asked[2]) + 1], 206
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Content-Type", "text/html")
            if state.names_version:
                self.send_header("ETag", f'"{tag}"')
            self.end_headers()
            if body and state.breaks and status in (200, 206):
                state.breaks -= 1
                self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
            elif body:
                self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BLOCK", 10)


def put(objects: Callable[[str], Any], url: str, files: dict[str, str]) -> None:
    for name, text in files.items():
        objects(url).pipe_file(f"{url}/{name}", text.encode())


def test_files_of_a_bucket_are_read_once_and_by_interval(
    store: str, tmp_path: Path, objects: Callable[[str], Any]
) -> None:
    put(objects, store, {"2026-01-31/b.csv": "q\n1\n", "2026-01-31/a.csv": "q\n2\n", "2026-02-01/a.csv": "q\n3\n"})
    counts, documents = run(tmp_path, f"{store}/{{date}}/*.csv")
    assert [(d.location, d.fields) for d in documents] == [
        (f"{store}/2026-01-31/a.csv", '{"q": "2"}'),
        (f"{store}/2026-01-31/b.csv", '{"q": "1"}'),
    ]
    assert (counts["read"], counts["unchanged"]) == (2, 0)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and "downloads" in p.parts]
    before = content(configured(tmp_path, source(f"{store}/{{date}}/*.csv")), DAY)
    put(objects, store, {"2026-01-31/b.csv": "q\n4\n"})
    assert content(configured(tmp_path, source(f"{store}/{{date}}/*.csv")), DAY) != before
    counts, documents = run(tmp_path, f"{store}/{{date}}/*.csv")
    assert ([d.fields for d in documents], counts["read"], counts["unchanged"]) == (['{"q": "2"}', '{"q": "4"}'], 1, 1)
    _, documents = run(tmp_path, f"{store}/{{date}}/a.csv", "2026-02-01")
    assert [d.location for d in documents] == [f"{store}/2026-02-01/a.csv"]
    assert documents[0].fields == '{"q": "3"}'


def test_a_single_file_and_a_glob_that_finds_it_are_one(
    store: str, tmp_path: Path, objects: Callable[[str], Any]
) -> None:
    put(objects, store, {"a.csv": "q\n1\n"})
    run(tmp_path, f"{store}/a.csv")
    counts, _ = run(tmp_path, f"{store}/*.csv")
    assert (counts["read"], counts["unchanged"]) == (0, 1)


def test_nothing_there_is_named(store: str, tmp_path: Path) -> None:
    for location in (f"{store}/none.csv", f"{store}/*.csv", f"{store}-other/x.csv"):
        with pytest.raises(SourceError, match=re.escape(location)):
            matching_files(source(location), tmp_path, DAY)


def test_web_pages_are_found_through_their_listing(web: Web, tmp_path: Path) -> None:
    web.files = {
        "/docs/": b'<a href="/docs/a.csv">a</a> <a href="/docs/b.csv">b</a> <a href="/docs/c.pdf">c</a>',
        "/docs/a.csv": b"q\n1\n",
        "/docs/b.csv": b"q\n2\n",
    }
    counts, documents = run(tmp_path, f"{web.url}/docs/*.csv")
    assert [d.location for d in documents] == [f"{web.url}/docs/a.csv", f"{web.url}/docs/b.csv"]
    web.asked.clear()
    counts, _ = run(tmp_path, f"{web.url}/docs/*.csv")
    assert (counts["unchanged"], [path for path in web.asked if ".csv" in path]) == (2, [])


def test_without_a_version_a_page_is_read_every_time(web: Web, tmp_path: Path) -> None:
    web.files, web.names_version = {"/a.csv": b"q\n1\n"}, False
    run(tmp_path, f"{web.url}/a.csv")
    web.files["/a.csv"] = b"q\n2\n"
    counts, documents = run(tmp_path, f"{web.url}/a.csv")
    assert (counts["read"], documents[0].fields) == (1, '{"q": "2"}')


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 4, 5, 17])
def test_a_copy_of_many_blocks_is_the_file(
    web: Web, tmp_path: Path, small_blocks: None, ranges: bool, rows: int
) -> None:
    data = b"q\n" + b"".join(b"%03d\n" % n for n in range(rows)) if rows else b""
    web.files, web.ranges = {"/a.csv": data}, ranges
    (file,) = matching_files(source(f"{web.url}/a.csv"), tmp_path, DAY)
    assert file.fetch(tmp_path)[0].read_bytes() == data


def test_a_broken_line_is_taken_up_again(web: Web, tmp_path: Path, small_blocks: None) -> None:
    web.files, web.breaks = {"/a.csv": b"q\n" + b"1\n" * 20}, 2
    _, documents = run(tmp_path, f"{web.url}/a.csv")
    assert len(documents) == 20
    assert web.asked == [f"/a.csv bytes={a}-{min(a + 9, 41)}" for a in (0, 0, 0, 10, 20, 30, 40)]


def test_a_line_that_stays_broken_fails_and_the_next_run_goes_on(
    web: Web, tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.files = {"/a.csv": b"q\n" + b"1\n" * 20}
    original, calls = remote.Address.ask, iter(range(100))

    def ask(address: remote.Address, call: Callable[[], Any]) -> Any:
        if next(calls) == 4:  # connect, info, three blocks
            web.breaks = 100
        return original(address, call)

    monkeypatch.setattr(remote.Address, "ask", ask)
    with pytest.raises(SourceError, match="cannot be reached"):
        run(tmp_path, f"{web.url}/a.csv")
    monkeypatch.setattr(remote.Address, "ask", original)
    web.breaks = 0
    web.asked.clear()
    _, documents = run(tmp_path, f"{web.url}/a.csv")
    assert len(documents) == 20
    assert web.asked[0] == "/a.csv bytes=10-19"  # the last whole block is asked for again, the first is not


FETCH = textwrap.dedent("""
    import sys
    from pathlib import Path
    from llmops.config import Source
    from llmops.data import remote
    from llmops.data.collect.files import matching_files
    remote.BLOCK = 10
    (file,) = matching_files(Source(name="s", kind="csv", location=sys.argv[1]), Path(sys.argv[2]), "2026-01-31")
    file.fetch(Path(sys.argv[2]) / "cache" / "downloads")
""")


def test_a_killed_copy_goes_on(web: Web, tmp_path: Path, small_blocks: None) -> None:
    web.files = {"/a.csv": b"q\n" + b"".join(b"%d\n" % (n % 10) for n in range(40))}
    web.slow_s = 0.1
    process = subprocess.Popen([sys.executable, "-c", FETCH, f"{web.url}/a.csv", str(tmp_path)])
    deadline = time.monotonic() + 60
    while len(web.asked) < 5:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (part,) = (p for p in (tmp_path / "cache").rglob("*") if p.is_file())
    assert part.name.endswith(".partial") and 0 < part.stat().st_size < 82
    web.slow_s = 0
    web.asked.clear()
    _, documents = run(tmp_path, f"{web.url}/a.csv")
    assert [d.fields for d in documents] == [f'{{"q": "{n % 10}"}}' for n in range(40)]
    assert len(web.asked) < 8
    assert not [p for p in (tmp_path / "cache").rglob("*.partial")]


def test_a_file_that_changes_while_it_is_copied_is_not_mixed(
    web: Web, tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.files = {"/a.csv": b"q\n" + b"1\n" * 20}
    (file,) = matching_files(source(f"{web.url}/a.csv"), tmp_path, DAY)
    original, calls = remote.Address.ask, iter(range(100))

    def ask(address: remote.Address, call: Callable[[], Any]) -> Any:
        if next(calls) == 2:
            web.files = {"/a.csv": b"q\n" + b"2\n" * 20}
        return original(address, call)

    monkeypatch.setattr(remote.Address, "ask", ask)
    with pytest.raises(SourceError, match="changed"):
        file.fetch(tmp_path / "copies")
    assert not [p for p in (tmp_path / "copies").rglob("*") if p.is_file()]


@pytest.mark.parametrize("where", ["web", "s3", "azure"])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_file_that_becomes_another_and_what_it_was_is_not_mixed(
    request: pytest.FixtureRequest, tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch,
    objects: Callable[[str], Any], where: str, at: int,
) -> None:  # fmt: skip
    """No question for its ETag before or after sees it."""
    contents = [b"q\n" + digit * 20 for digit in (b"1\n", b"2\n")]
    held = request.getfixturevalue(where)
    url = held.url if where == "web" else held

    def becomes(content: bytes) -> None:
        if where == "web":
            held.files = {"/a.csv": content}
        else:
            objects(url).pipe_file(f"{url}/a.csv", content)

    becomes(contents[0])
    (file,) = matching_files(source(f"{url}/a.csv"), tmp_path, DAY)
    numbers = count()

    def between(*arguments: Any) -> bytes:
        if next(numbers) != at:
            return block(*arguments)
        becomes(contents[1])
        try:
            return block(*arguments)
        finally:
            becomes(contents[0])

    monkeypatch.setattr(remote, "block", between)
    with pytest.raises(SourceError, match="changed"):
        file.fetch(tmp_path / "copies")
    (file,) = matching_files(source(f"{url}/a.csv"), tmp_path, DAY)  # Azure's ETags are of writes, not of contents
    assert file.fetch(tmp_path / "copies")[0].read_bytes() == contents[0]


def test_a_damaged_copy_is_found_by_its_md5(azure: str, tmp_path: Path, objects: Callable[[str], Any]) -> None:
    put(objects, azure, {"a.csv": "q\n1\n"})
    (file,) = matching_files(source(f"{azure}/a.csv"), tmp_path, DAY)
    assert isinstance(file, remote.RemoteFile) and file.md5 == hashlib.md5(b"q\n1\n").hexdigest()
    half = tmp_path / "copies" / remote.content_id(file.location, file.tag) / ".a.csv.partial"
    half.parent.mkdir(parents=True)
    file.fetch(tmp_path / "copies")
    object.__setattr__(file, "md5", "0" * 32)
    (half.parent / "a.csv").unlink()
    with pytest.raises(SourceError, match="MD5"):
        file.fetch(tmp_path / "copies")


def test_a_file_that_changes_while_it_is_read_is_read_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").write_text("q\n1\n")
    original = READERS["csv"]

    def changing(path: Path, origin: Origin) -> Items:
        (tmp_path / "a.csv").write_text("q\n1\n2\n")
        yield from original(path, origin)

    changing.__module__ = original.__module__
    monkeypatch.setitem(READERS, "csv", changing)
    assert len(run(tmp_path, "a.csv")[1]) == 1
    monkeypatch.setitem(READERS, "csv", original)
    counts, documents = run(tmp_path, "a.csv")
    assert (len(documents), counts["read"]) == (2, 1)
    (tmp_path / "a.csv").write_text("q\n1\n")
    counts, documents = run(tmp_path, "a.csv")
    assert (len(documents), counts["unchanged"]) == (1, 1)
    assert not list(tmp_path.rglob("copies"))


def test_a_full_disk_makes_no_file_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, copy: Path) -> str:
        raise OSError(errno.ENOSPC, "No space left on device", str(copy))

    (tmp_path / "a.csv").write_text("q\n1\n")
    monkeypatch.setattr(local_files, "copied", full)
    config = Config(home=tmp_path / "home", collect={"root": tmp_path, "sources": [source("a.csv").model_dump()]})
    with pytest.raises(DiskFullError):
        run_stage("collect", config, DAY)


HOW = st.sampled_from(["in place", "in place, its time put back", "replaced", "appended", "gone"])


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 24), back=st.integers(1, 20), how=HOW, remembered=st.booleans())
def test_changed_at_any_moment_the_artifact_holds_what_its_fingerprint_says(
    at: int, back: int, how: str, remembered: bool
) -> None:
    """A file that becomes another, and later perhaps what it was, between any two steps from the plan to the record."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        root = Path(folder)
        file, moments = root / "a.csv", count()
        contents = {"first": "q\n" + "1\n" * 9, "second": "q\n" + "2\n" * 9}
        file.write_text(contents["first"])
        if remembered:
            patch.setattr("llmops.hashes._FRESH_NS", -1)
        stat = file.stat()

        def becomes(content: str) -> None:
            if how == "gone" and content == contents["second"]:
                return file.unlink(missing_ok=True)
            if how == "replaced":
                (root / "new").write_text(content)
                return os.replace(root / "new", file)
            if how == "appended" and content == contents["second"]:
                content = contents["first"] + "3\n"
            file.write_text(content)
            if how == "in place, its time put back":
                os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))

        def moment() -> None:
            number = next(moments)
            if number in (at, at + back):
                becomes(contents["second" if number == at else "first"])

        def before(function: Callable[..., Any]) -> Callable[..., Any]:
            def ticking(*arguments: Any) -> Any:
                moment()
                result = function(*arguments)
                moment()
                return result

            return ticking

        def sha256() -> Any:
            digest = hashlib.sha256()
            return SimpleNamespace(update=before(digest.update), hexdigest=digest.hexdigest)

        config = Config(
            home=root / "home",
            collect={
                "root": root,
                "sources": [{"name": "s", "kind": "csv", "location": "*.csv", "fields": {"question": "q"}}],
            },
        )
        with patch.context() as during:
            during.setattr("llmops.hashes._state", before(hashes._state))
            during.setattr("llmops.hashes.file_sha256", before(hashes.file_sha256))
            during.setattr(local_files, "_CHUNK", 5)
            during.setattr(local_files, "hashlib", SimpleNamespace(sha256=sha256))
            during.setitem(READERS, "csv", before(READERS["csv"]))
            try:
                made = run_stage("collect", config, DAY)
            except SourceError:
                return
        questions = [row.question for row in read_rows(made / "documents.parquet", Document)]
        file.write_text("q\n" + "".join(f"{question}\n" for question in questions))
        assert plan("collect", config, DAY).path == made


def test_the_content_of_sources(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("q\n1\n")
    config = configured(tmp_path, source("*.csv"))
    before = content(config, DAY)
    assert content(config, DAY) == before
    (tmp_path / "a.csv").rename(tmp_path / "b.csv")
    renamed = content(config, DAY)
    os.utime(tmp_path / "b.csv", (1, 1))
    assert content(config, DAY) == renamed != before
    (tmp_path / "b.csv").write_text("q\n2\n")
    assert content(config, DAY) != renamed


def test_a_file_is_hashed_once_for_all_plans_and_not_while_it_is_fresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counting(path: Path) -> str:
        read.append(path.name)
        return artifacts.file_sha256(path)

    monkeypatch.setattr("llmops.hashes.file_sha256", counting)
    monkeypatch.setattr("llmops.hashes._FRESH_NS", -1)
    names = ["Ana Li.csv", "b.csv", "c.csv"]
    for name in names:
        (tmp_path / name).write_text("q\n1\n")
    config = Config(home=tmp_path / "home", collect={"root": tmp_path, "sources": [source("*.csv").model_dump()]})
    first = plan("collect", config, DAY).path
    assert read == names
    assert all(plan("collect", config, DAY).path == first for _ in range(12))
    assert cli.main(["status", "--config", str(_saved(tmp_path)), "--interval", DAY]) == 0
    run_stage("collect", config, DAY)
    assert read == names
    assert "Ana" not in memory(config.collect).read_text()  # an erasure has nothing to look for there
    before = (tmp_path / "b.csv").stat()
    (tmp_path / "b.csv").write_text("q\n2\n")  # of the same size, its time put back
    os.utime(tmp_path / "b.csv", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert plan("collect", config, DAY).path != first and read == [*names, "b.csv"]
    monkeypatch.setattr("llmops.hashes._FRESH_NS", 10**12)  # it may be written again within the same tick
    (tmp_path / "c.csv").write_text("q\n3\n")
    plan("collect", config, DAY)
    plan("collect", config, DAY)
    assert read == [*names, "b.csv", "c.csv", "c.csv"]


def _saved(root: Path) -> Path:
    file = root / "llmops.yaml"
    sources = [{"name": "s", "kind": "csv", "location": "*.csv"}]
    file.write_text(json.dumps({"home": str(root / "home"), "collect": {"sources": sources}}))
    return file


def test_brackets_in_the_names_of_folders_are_no_pattern(tmp_path: Path) -> None:
    root, home = tmp_path / "a[1]*", tmp_path / "home [b]"
    (root / "in").mkdir(parents=True)
    (root / "in" / "x[2].csv").write_text("q\n1\n")
    (root / "in" / "y.csv").write_text("q\n2\n")
    with sqlite3.connect(root / "shop.db") as database:
        database.execute("create table t (id, q, changed)")
        database.executemany("insert into t values (?, ?, ?)", [(1, "3", "2026-01-01"), (2, "4", "2026-01-02")])
    table = {
        "kind": "sql",
        "location": "sqlite:///shop.db",
        "query": "select * from t",
        "cursor": "changed",
        "key": ["id"],
    }
    sources = [
        {"name": "all", "kind": "csv", "location": "in/*.csv"},
        {"name": "one", "kind": "csv", "location": "in/x[2].csv"},
        {"name": "digit", "kind": "csv", "location": "in/[xy].csv"},
        {"name": "absolute", "kind": "csv", "location": f"{glob.escape(str(root))}/in/*.csv"},
        {"name": "table", **table},
    ]
    config = Config(home=home, collect={"root": root, "sources": sources})
    for day in ("2026-01-01", "2026-01-02"):
        made = run_stage("collect", config, day)
    found = [(row.source, row.location) for row in read_rows(made / "documents.parquet", Document)]
    assert found == [
        *(("all", "in/x[2].csv"), ("all", "in/y.csv"), ("one", "in/x[2].csv"), ("digit", "in/y.csv")),
        *(("absolute", "in/x[2].csv"), ("absolute", "in/y.csv")),
        *(("table", "sqlite:///shop.db"), ("table", "sqlite:///shop.db")),
    ]


def test_another_version_of_a_library_reads_its_files_again_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").write_text("q\n1\n")
    (tmp_path / "a.html").write_text("<h2>Who pays?</h2><p>The one who sends it pays for it.</p>")
    sources = [{"name": kind, "kind": kind, "location": f"a.{kind}"} for kind in ("csv", "html")]
    config = Config(home=tmp_path / "home", collect={"root": tmp_path, "sources": sources})

    def read() -> tuple[Path, list[int]]:
        made = run_stage("collect", config, DAY)
        metrics = artifacts.read_record(made).metrics["sources"]
        return made, [metrics[kind]["read"] for kind in ("csv", "html")]

    first, counts = read()
    assert counts == [1, 1]
    real = importlib.metadata.version
    monkeypatch.setattr(libraries, "version", lambda name: "9.9.1" if name == "beautifulsoup4" else real(name))
    libraries.libraries.cache_clear()
    try:
        second, counts = read()
        assert second != first and counts == [0, 1]
    finally:
        monkeypatch.undo()
        libraries.libraries.cache_clear()
    assert read()[0] == first


def test_the_libraries_of_every_reader_are_known() -> None:
    """All that a reader imports but the standard library, ourselves, and what only adds names and types."""
    distributions = importlib.metadata.packages_distributions()
    assert READERS.keys() == libraries.LIBRARIES.keys()
    for kind, reader in READERS.items():
        names: set[str] = set()
        modules, seen = [reader.__module__], set[str]()
        while modules:
            module = modules.pop()
            if module in seen or not module.startswith("llmops.data.collect.readers"):
                names |= {module.partition(".")[0]} - {"llmops", "__future__"} - sys.stdlib_module_names
                continue
            seen.add(module)
            file = Path(artifacts.__file__).parent.joinpath(*module.split(".")[1:])
            for node in ast.walk(
                ast.parse((file / "__init__.py" if file.is_dir() else file.with_suffix(".py")).read_text())
            ):
                if isinstance(node, ast.Import):
                    modules += [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module:
                    modules.append(node.module)
        wanted = {distributions[name][0].lower().replace("_", "-") for name in names}
        assert wanted - {*libraries.TEXT} <= {name.lower() for name in libraries.LIBRARIES[kind]}, kind


def test_a_file_name_that_is_no_utf8_is_read(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.csv")
    (tmp_path / name).write_text("q\n1\n")
    _, documents = run(tmp_path, "*.csv")
    assert documents[0].location == "caf\\xe9.csv"


@pytest.mark.parametrize(
    "location",
    [
        "https://user:hush@shop.example/a.csv",
        "https://shop.example/a.csv?token=hush",
        "https://shop.example/a.csv?sp=r&sig=hush",
        "s3://key:hush@bucket/a.csv",
    ],
)
def test_a_credential_in_a_location_is_refused_and_not_told(location: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"\$\{VAR\}") as caught:
        matching_files(source(location), tmp_path, DAY)
    assert "hush" not in str(caught.value)


def test_a_scheme_that_nobody_reads_and_an_unset_variable_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="gs://"):
        matching_files(source("gs://bucket/a.csv"), tmp_path, DAY)
    with pytest.raises(SourceError, match="NO_SUCH_TOKEN"):
        matching_files(source("https://shop.example/${NO_SUCH_TOKEN}/a.csv"), tmp_path, DAY)


@pytest.mark.parametrize(
    "secret",
    [
        "shop.example/a.csv?X-Amz-Credential=AKIA&X-Amz-Signature=5up",
        "shop.example/a.csv?auth=5up",
        "5up@shop.example/a",
    ],
)
def test_a_signed_address_or_a_token_for_a_name_is_refused(secret: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds a password or token") as caught:
        matching_files(source(f"https://{secret}"), tmp_path, DAY)
    assert "5up" not in str(caught.value)


def test_a_password_from_the_environment_opens_and_appears_nowhere(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    web.files, web.password = {"/a.csv": b"q\n1\n", "/b.csv": b"q\n2\n"}, "p@ss/word"
    location = web.url.replace("http://", "http://shop:${SHOP_PASSWORD}@") + "/a.csv"
    monkeypatch.setenv("SHOP_PASSWORD", "p@ss/word")
    _, documents = run(tmp_path, location)
    assert documents[0].location == location
    monkeypatch.setenv("SHOP_PASSWORD", "old/p@ss")
    with pytest.raises(SourceError) as caught:
        run(tmp_path, location.replace("a.csv", "b.csv"))
    kept = (
        b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()) + str(list(tmp_path.rglob("*"))).encode()
    )
    for secret in ("p@ss", "p%40ss"):
        assert secret not in str(caught.value) and secret not in caplog.text and secret.encode() not in kept


def test_an_airflow_connection_holds_the_credentials(
    s3: str, s3_server: str, tmp_path: Path, objects: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(objects, s3, {"a.csv": "q\n1\n"})
    for name in [n for n in os.environ if n.startswith("AWS_") and n != "AWS_EC2_METADATA_DISABLED"]:
        monkeypatch.delenv(name)
    with pytest.raises(SourceError, match=s3):
        run(tmp_path, f"{s3}/a.csv")
    extra = {"endpoint_url": s3_server}
    connection = {"conn_type": "aws", "login": "shop-key", "password": "shop-secret", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(connection))
    _, documents = run(tmp_path, f"{s3}/a.csv", connection="shop")
    assert documents[0].fields == '{"q": "1"}'
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"shop-secret" in p.read_bytes()]
    with pytest.raises(SourceError, match="nobody"):
        run(tmp_path, f"{s3}/a.csv", connection="nobody")


def test_a_connection_names_a_database_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("create table t (q)")
        database.execute("insert into t values ('x')")
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", '{"conn_type": "sqlite", "schema": "shop.db"}')
    location = "sqlite:///${CONNECTION_SCHEMA}"
    _, documents = run(tmp_path, location, kind="sql", query="select q from t order by q", connection="shop")
    assert (documents[0].location, documents[0].fields) == (location, '{"q": "x"}')


def test_quarantine_of_remote_rows_names_the_url(store: str, tmp_path: Path, objects: Callable[[str], Any]) -> None:
    put(objects, store, {"a.csv": "q,a\n1,2\n3\n"})
    run(tmp_path, f"{store}/a.csv")
    (row,) = read_rows(tmp_path / "out" / "quarantine.parquet", Dropped)
    assert (row.location, row.position) == (f"{store}/a.csv", "row 3")

"""files and remote: finding and copying files on this machine, in S3, in Azure Blob and on a web server."""

import errno
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import re
import socket
import sqlite3
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import count, cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.config import Collect, Config, Source
from llmops.data import remote
from llmops.data.collect import libraries, local_files
from llmops.data.collect import stage as collect
from llmops.data.collect.files import find_source_files, hash_content
from llmops.data.collect.readers.kinds import READERS
from llmops.data.web_session import InternalAddressError, make_socket
from llmops.frame import artifacts
from llmops.frame.errors import DiskFullError, SourceError, SourceUnavailableError
from llmops.frame.records import Document, DroppedRow, read_rows
from llmops.pipeline.pipeline import plan_stage, run_stage
from llmops.state import file_hashes, tables
from llmops.state.database import database_of
from tests.served import Answer, served

DAY = "2026-01-31"


def make_source(location: str, **more: Any) -> Source:
    return Source(**{"name": "s", "kind": "csv", "location": location, **more})


def make_config(root: Path, *sources: Source) -> Collect:
    return Collect(root=root, sources=sources, cache=root / "cache")


def run_collect(root: Path, location: str, interval: str = DAY, **more: Any) -> tuple[dict[str, int], list[Document]]:
    out = root / "out"
    out.mkdir(exist_ok=True)
    metrics = collect.run(make_config(root, make_source(location, **more)), interval=interval, out=out)
    return metrics["sources"]["s"], read_rows(out / "documents.parquet", Document)


@dataclass
class WebServer:
    """A web server: its files, its behaviour, and the requests that it received."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    supports_ranges: bool = True  #: answers requests for byte ranges
    sends_etag: bool = True  #: sends an ETag with each file
    broken_answers: int = 0  #: number of answers that end in the middle
    password: str = ""  #: the password that it asks of the user `shop`
    requests: list[str] = field(default_factory=list)  #: path and range of each GET


@pytest.fixture
def web(no_credentials: None) -> Iterator[WebServer]:
    state = WebServer()

    def answer(method: str, path: str, headers: Mapping[str, str], _: bytes) -> Answer:
        if method == "GET":
            state.requests.append(f"{path} {headers.get('Range', '')}".strip())
        expected_login = f"Basic {b64encode(f'shop:{state.password}'.encode()).decode()}"
        data, status = state.files.get(path), 200
        if state.password and headers.get("Authorization") != expected_login:
            data, status = b"no entry", 401
        elif data is None:
            data, status = b"nothing here", 404
        tag = hashlib.sha256(data).hexdigest()[:8]
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("Range", ""))
        if status == 200 and headers.get("If-Match", f'"{tag}"') != f'"{tag}"':
            data, status = b"another by now", 412
        if status == 200 and state.supports_ranges and part:
            data, status = data[int(part[1]) : int(part[2]) + 1], 206
        response_headers = {"Content-Length": str(len(data)), "Content-Type": "text/html"}
        if state.sends_etag:
            response_headers["ETag"] = f'"{tag}"'
        if method == "GET" and state.broken_answers and status in (200, 206):
            state.broken_answers -= 1
            data = data[: len(data) // 2]
        return status, response_headers, data

    with served(answer) as state.url:
        yield state


def upload_texts(objects: Callable[[str], Any], url: str, files: dict[str, str]) -> None:
    for name, text in files.items():
        objects(url).pipe_file(f"{url}/{name}", text.encode())


def test_files_of_a_bucket_are_read_once_by_interval(store: str, tmp_path: Path, objects: Callable[[str], Any]) -> None:
    upload_texts(
        objects, store, {"2026-01-31/b.csv": "q\n1\n", "2026-01-31/a.csv": "q\n2\n", "2026-02-01/a.csv": "q\n3\n3,4\n"}
    )
    daily = f"{store}/{{date}}/*.csv"
    counts, documents = run_collect(tmp_path, daily)
    assert [(d.location, d.fields) for d in documents] == [
        (f"{store}/2026-01-31/a.csv", '{"q": "2"}'),
        (f"{store}/2026-01-31/b.csv", '{"q": "1"}'),
    ]
    assert (counts["read"], counts["unchanged"]) == (2, 0)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and "downloads" in p.parts]
    before = hash_content(make_config(tmp_path, make_source(daily)), DAY)
    upload_texts(objects, store, {"2026-01-31/b.csv": "q\n4\n"})
    assert hash_content(make_config(tmp_path, make_source(daily)), DAY) != before
    counts, documents = run_collect(tmp_path, daily)
    assert ([d.fields for d in documents], counts["read"], counts["unchanged"]) == (['{"q": "2"}', '{"q": "4"}'], 1, 1)
    _, documents = run_collect(tmp_path, f"{store}/{{date}}/a.csv", "2026-02-01")
    assert [(d.location, d.fields) for d in documents] == [(f"{store}/2026-02-01/a.csv", '{"q": "3"}')]
    (row,) = read_rows(tmp_path / "out" / "quarantine.parquet", DroppedRow)
    assert (row.location, row.position) == (f"{store}/2026-02-01/a.csv", "row 3")
    counts, _ = run_collect(tmp_path, daily, "2026-02-01")  # a single file and a glob that finds it are one
    assert (counts["read"], counts["unchanged"]) == (0, 1)
    for location in (f"{store}/none.csv", f"{store}/*.csv", f"{store}-other/x.csv"):
        with pytest.raises(SourceError, match=re.escape(location)):
            find_source_files(make_source(location), tmp_path, DAY)


def test_web_pages_are_found_through_their_listing(web: WebServer, tmp_path: Path) -> None:
    web.files = {
        "/docs/": b'<a href="/docs/a.csv">a</a> <a href="/docs/b.csv">b</a> <a href="/docs/c.pdf">c</a>',
        "/docs/a.csv": b"q\n1\n",
        "/docs/b.csv": b"q\n2\n",
    }
    _, documents = run_collect(tmp_path, f"{web.url}/docs/*.csv")
    assert [d.location for d in documents] == [f"{web.url}/docs/a.csv", f"{web.url}/docs/b.csv"]
    web.requests.clear()
    counts, _ = run_collect(tmp_path, f"{web.url}/docs/*.csv")
    assert (counts["unchanged"], [path for path in web.requests if ".csv" in path]) == (2, [])
    web.sends_etag = False  # a file without a version is read every time
    web.files["/docs/b.csv"] = b"q\n3\n"
    counts, documents = run_collect(tmp_path, f"{web.url}/docs/*.csv")
    assert (counts["read"], documents[1].fields) == (2, '{"q": "3"}')


@pytest.mark.parametrize("ranges", [True, False])
def test_a_copy_is_the_file(web: WebServer, tmp_path: Path, ranges: bool) -> None:
    web.supports_ranges = ranges
    for size in (0, 6, 11 << 20):
        content = os.urandom(size)
        web.files = {"/a.csv": content}
        (file,) = find_source_files(make_source(f"{web.url}/a.csv"), tmp_path, DAY)
        assert file.fetch(tmp_path)[0].read_bytes() == content


def test_a_line_that_stays_broken_fails_and_the_next_run_begins_again(web: WebServer, tmp_path: Path) -> None:
    web.files = {"/a.csv": b"q\n" + b"".join(b"%d\n" % (n % 10) for n in range(20))}
    web.broken_answers = 100
    with pytest.raises(SourceError, match="cannot be reached"):
        run_collect(tmp_path, f"{web.url}/a.csv")
    web.broken_answers = 2  # a request that breaks off is tried again
    web.requests.clear()
    _, documents = run_collect(tmp_path, f"{web.url}/a.csv")
    assert [d.fields for d in documents] == [f'{{"q": "{n % 10}"}}' for n in range(20)]
    assert web.requests == ["/a.csv"] * 3
    assert not [p for p in (tmp_path / "cache").rglob("*.partial")]


def test_a_file_without_a_version_that_becomes_shorter_is_refused(web: WebServer, tmp_path: Path) -> None:
    web.files, web.sends_etag = {"/a.csv": b"q\n" + b"1\n" * 20}, False
    (file,) = find_source_files(make_source(f"{web.url}/a.csv"), tmp_path, DAY)
    web.files = {"/a.csv": b"q\n"}
    with pytest.raises(SourceError, match="2 bytes came for 42"):
        file.fetch(tmp_path / "copies")


def test_a_file_that_becomes_another_while_it_is_read_is_refused(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.files = {"/a.csv": b"q\n" + b"1\n" * 20}
    (file,) = find_source_files(make_source(f"{web.url}/a.csv"), tmp_path, DAY)
    original, calls = remote.Address.retry, count()

    def retry(address: remote.Address, call: Callable[[], Any]) -> Any:
        if next(calls) == 1:
            web.files = {"/a.csv": b"q\n" + b"2\n" * 20}
        return original(address, call)

    monkeypatch.setattr(remote.Address, "retry", retry)
    with pytest.raises(SourceError, match="changed"):
        file.fetch(tmp_path / "copies")
    assert not [p for p in (tmp_path / "copies").rglob("*") if p.is_file()]


def test_a_damaged_copy_is_found_by_its_md5(azure: str, tmp_path: Path, objects: Callable[[str], Any]) -> None:
    upload_texts(objects, azure, {"a.csv": "q\n1\n"})
    (file,) = find_source_files(make_source(f"{azure}/a.csv"), tmp_path, DAY)
    assert isinstance(file, remote.RemoteFile) and file.md5 == hashlib.md5(b"q\n1\n").hexdigest()
    with pytest.raises(SourceError, match="MD5"):
        replace(file, md5="0" * 32).fetch(tmp_path / "copies")
    assert file.fetch(tmp_path / "copies")[0].read_bytes() == b"q\n1\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("redirected", ["HEAD and GET", "GET"])
def test_a_redirect_reaches_no_internal_address(
    no_credentials: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, redirected: str
) -> None:
    inner_requests: list[str] = []
    monkeypatch.setattr(remote, "PAUSES", ())

    def answer_inside(method: str, *_: object) -> Answer:
        inner_requests.append(method)
        return 200, {}, b"q\nhidden\n"

    with served(answer_inside) as inner_url:
        inner = inner_url.replace("127.0.0.1", host)

        def answer(method: str, *_: object) -> Answer:
            if method in redirected:
                return 302, {"Location": f"{inner}/hidden"}, b""
            return 200, {"ETag": '"1"', "Content-Length": "2"}, b""

        with served(answer) as url, pytest.raises(SourceError) as caught:
            run_collect(tmp_path, f"{url}/a.csv")
    assert inner_requests == []
    assert inner.removeprefix("http://") in str(caught.value) and f"{url}/a.csv" in str(caught.value)
    assert not isinstance(caught.value, SourceUnavailableError)  # another try would not help


def test_a_redirect_within_its_host_is_followed(no_credentials: None, tmp_path: Path) -> None:
    def answer(_: str, path: str, *__: object) -> Answer:
        return (302, {"Location": "/new.csv"}, b"") if path == "/old.csv" else (200, {"ETag": '"1"'}, b"q\n1\n")

    with served(answer) as url:
        _, documents = run_collect(tmp_path, f"{url}/old.csv")
    assert [d.fields for d in documents] == ['{"q": "1"}']


def test_a_source_is_read_whatever_address_its_name_has(
    no_credentials: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An internal name with several addresses has another one at each look-up."""
    look_up, addresses = socket.getaddrinfo, cycle(["127.0.0.2", "127.0.0.3", "127.0.0.4"])

    def rotate(host: str, *args: Any, **options: Any) -> Any:
        return look_up(next(addresses) if host == "wiki.corp" else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rotate)
    with served(lambda *_: (200, {"ETag": '"1"'}, b"q\n1\n"), "0.0.0.0") as url:
        _, documents = run_collect(tmp_path, f"{url.replace('127.0.0.1', 'Wiki.corp')}/a.csv")
    assert [d.fields for d in documents] == ['{"q": "1"}']


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        (("93.184.216.34", 443), True),
        (("203.0.113.9", 80), True),  # the source itself
        (("203.0.113.9", 443), True),  # now by https
        (("203.0.113.9", 9200), False),
        (("169.254.169.254", 80), False),
        (("10.0.0.1", 443), False),
        (("::1", 443, 0, 0), False),
        (("::ffff:127.0.0.1", 443, 0, 0), False),
    ],
)
def test_public_addresses_and_the_source_are_connected(address: tuple[Any, ...], allowed: bool) -> None:
    family = socket.AF_INET6 if len(address) == 4 else socket.AF_INET
    with nullcontext() if allowed else pytest.raises(InternalAddressError):
        make_socket({"203.0.113.9"}, {80, 443}, (family, socket.SOCK_STREAM, 0, "", address)).close()


def test_a_link_that_leaves_the_folder_is_quarantined(tmp_path: Path) -> None:
    tmp_path = tmp_path / "[root]"
    (tmp_path / "real" / "2026").mkdir(parents=True)
    (tmp_path / "in").symlink_to("real")  # the folder itself may be a link
    for name in ("hidden.csv", "real/a.csv", "real/2026/b.csv"):
        (tmp_path / name).write_text(f"q\n{name}\n")
    (tmp_path / "real" / "c.csv").symlink_to("2026/b.csv")
    (tmp_path / "real" / "d.csv").symlink_to("../hidden.csv")
    (tmp_path / "real" / "loop.csv").symlink_to("loop.csv")
    (tmp_path / "real" / "out").symlink_to("..")
    _, documents = run_collect(tmp_path, "in/**/*.csv")
    assert {d.location for d in documents} == {"in/a.csv", "in/2026/b.csv", "in/c.csv"}
    dropped = read_rows(tmp_path / "out" / "quarantine.parquet", DroppedRow)
    assert {(row.location, "leads out of" in row.detail) for row in dropped} >= {
        ("in/d.csv", True),
        ("in/loop.csv", False),
    }
    assert {row.rule for row in dropped} == {"unreadable"}
    _, documents = run_collect(tmp_path, "in/d.csv")  # a link that is named itself
    assert [d.fields for d in documents] == ['{"q": "hidden.csv"}']


def test_a_link_that_cannot_be_followed_is_quarantined(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.csv").write_text("q\ngood\n")
    (tmp_path / "in" / "long.csv").symlink_to("a" * 300)
    _, documents = run_collect(tmp_path, "in/*.csv")
    (dropped,) = read_rows(tmp_path / "out" / "quarantine.parquet", DroppedRow)
    assert (len(documents), dropped.location, dropped.rule) == (1, "in/long.csv", "unreadable")


def test_a_data_set_has_no_link_that_leaves_its_folder(tmp_path: Path) -> None:
    (tmp_path / "hidden.csv").write_text("q\nhidden\n")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.csv").symlink_to("../hidden.csv")
    (tmp_path / "set" / "README.md").write_text("---\nconfigs:\n- {config_name: default, data_files: a.csv}\n---\n")
    with pytest.raises(SourceError, match="leads out of"):
        run_collect(tmp_path, "set", kind="dataset")


def test_a_full_disk_makes_no_file_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_disk_full(path: Path, copy: Path) -> str:
        raise OSError(errno.ENOSPC, "No space left on device", str(copy))

    (tmp_path / "a.csv").write_text("q\n1\n")
    monkeypatch.setattr(local_files, "copy_file", raise_disk_full)
    config = Config(home=tmp_path / "home", collect={"root": tmp_path, "sources": [make_source("a.csv").model_dump()]})
    with pytest.raises(DiskFullError):
        run_stage("collect", config, DAY)


CHANGES = st.sampled_from(["in place, its time put back", "replaced", "gone"])


@settings(max_examples=25)
@given(at=st.integers(0, 24), back=st.integers(1, 20), change=CHANGES, is_cached=st.booleans())
def test_changed_at_any_time_an_artifact_is_what_its_name_says(
    at: int, back: int, change: str, is_cached: bool
) -> None:
    """Change a file between any two steps from the plan to the record, and perhaps change it back later."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        root = Path(folder)
        file, steps = root / "a.csv", count()
        contents = ["q\n" + "1\n" * 9, "q\n" + "2\n" * 9]
        file.write_text(contents[0])
        if is_cached:
            patch.setattr("llmops.state.file_hashes._FRESH_NS", -1)
        stat = file.stat()

        def change_file(content: str) -> None:
            if change == "gone" and content == contents[1]:
                file.unlink(missing_ok=True)
            elif change == "replaced":
                (root / "new").write_text(content)
                os.replace(root / "new", file)
            else:
                file.write_text(content)
                os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))

        def take_step() -> None:
            number = next(steps)
            if number in (at, at + back):
                change_file(contents[number == at])

        def add_steps(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                take_step()
                result = function(*arguments)
                take_step()
                return result

            return call

        def make_digest() -> Any:
            digest = hashlib.sha256()
            return SimpleNamespace(update=add_steps(digest.update), hexdigest=digest.hexdigest)

        sources = [make_source("*.csv", fields={"question": "q"}).model_dump()]
        config = Config(home=root / "home", collect={"root": root, "sources": sources})
        with patch.context() as during:
            during.setattr("llmops.state.file_hashes._read_state", add_steps(file_hashes._read_state))
            during.setattr("llmops.state.file_hashes.compute_sha256", add_steps(file_hashes.compute_sha256))
            during.setattr(local_files, "_CHUNK", 5)
            during.setattr(local_files, "hashlib", SimpleNamespace(sha256=make_digest))
            during.setitem(READERS, "csv", add_steps(READERS["csv"]))
            try:
                artifact = run_stage("collect", config, DAY)
            except SourceError:
                return
        questions = [row.question for row in read_rows(artifact / "documents.parquet", Document)]
        file.write_text("q\n" + "".join(f"{question}\n" for question in questions))
        assert plan_stage("collect", config, DAY).path == artifact


def test_a_file_is_hashed_once_for_all_plans_unless_it_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def count_call(path: Path) -> str:
        read.append(path.name)
        return artifacts.compute_sha256(path)

    monkeypatch.setattr("llmops.state.file_hashes.compute_sha256", count_call)
    monkeypatch.setattr("llmops.state.file_hashes._FRESH_NS", -1)
    names = ["Ana Li.csv", "b.csv", os.fsdecode(b"caf\xe9.csv")]
    for name in names:
        (tmp_path / name).write_text("q\n1\n")
    config = Config(home=tmp_path / "home", collect={"root": tmp_path, "sources": [make_source("*.csv").model_dump()]})
    with database_of(config).change():
        pass  # it is there
    first = plan_stage("collect", config, DAY).path
    assert run_stage("collect", config, DAY) == plan_stage("collect", config, DAY).path == first
    locations = [document.location for document in read_rows(first / "documents.parquet", Document)]
    assert (locations, read) == (["Ana Li.csv", "b.csv", "caf\\xe9.csv"], names)
    with database_of(config).read() as connection:
        kept = connection.execute(sa.select(tables.file_hashes)).all()
    assert len(kept) == 3 and "Ana" not in repr(kept)  # an erasure has nothing to look for there
    before = (tmp_path / "b.csv").stat()
    (tmp_path / "b.csv").write_text("q\n2\n")  # of the same size, its time put back
    os.utime(tmp_path / "b.csv", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert plan_stage("collect", config, DAY).path != first and read == [*names, "b.csv"]
    monkeypatch.setattr("llmops.state.file_hashes._FRESH_NS", 10**12)  # it may be written again within the same tick
    (tmp_path / names[2]).write_text("q\n3\n")
    for _ in range(2):
        plan_stage("collect", config, DAY)
    assert read[4:] == [names[2], names[2]]


def test_another_version_of_a_library_reads_only_its_own_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("q\n1\n")
    (tmp_path / "a.html").write_text("<h2>Who pays?</h2><p>The one who sends it pays for it.</p>")
    sources = [{"name": kind, "kind": kind, "location": f"a.{kind}"} for kind in ("csv", "html")]
    config = Config(home=tmp_path / "home", collect={"root": tmp_path, "sources": sources})

    def run_and_count() -> tuple[Path, list[int]]:
        artifact = run_stage("collect", config, DAY)
        metrics = artifacts.read_record(artifact).metrics["sources"]
        return artifact, [metrics[kind]["read"] for kind in ("csv", "html")]

    first, counts = run_and_count()
    assert counts == [1, 1]
    real = importlib.metadata.version
    monkeypatch.setattr(libraries, "version", lambda name: "9.9.1" if name == "beautifulsoup4" else real(name))
    libraries.list_versions.cache_clear()
    try:
        second, counts = run_and_count()
        assert second != first and counts == [0, 1]
    finally:
        monkeypatch.undo()
        libraries.list_versions.cache_clear()
    assert run_and_count()[0] == first


def test_the_libraries_of_every_reader_are_known() -> None:
    """Compare LIBRARIES with the packages that each reader imports, except the standard library and this project."""
    distributions = importlib.metadata.packages_distributions()
    assert READERS.keys() == libraries.LIBRARIES.keys()
    for kind, reader in READERS.items():
        names, modules = set[str](), [reader.__module__]
        for module in modules:  # which grows meanwhile
            spec = importlib.util.find_spec(module) if module.startswith("llmops.data.collect.readers") else None
            if spec and spec.origin:
                imported = re.findall(r"^ *(?:from|import) ([\w.]+)", Path(spec.origin).read_text(), re.MULTILINE)
                modules += [name for name in imported if name not in modules]
            names.add(module.partition(".")[0])
        names -= {"llmops", "__future__", *sys.stdlib_module_names}
        wanted = {distributions[name][0].lower().replace("_", "-") for name in names}
        assert wanted - {*libraries.TEXT_LIBRARIES} <= {name.lower() for name in libraries.LIBRARIES[kind]}, kind


@pytest.mark.parametrize(
    ("location", "named"),
    [
        ("https://user:hush@shop.example/a.csv", r"\$\{VAR\}"),
        ("https://shop.example/a.csv?sp=r&sig=hush", r"\$\{VAR\}"),
        ("s3://key:hush@bucket/a.csv", r"\$\{VAR\}"),
        ("https://shop.example/a.csv?auth=hush", "holds a password or token"),
        ("https://hush@shop.example/a", "holds a password or token"),
        ("https://shop.example/${NO_SUCH_TOKEN}/a.csv", "NO_SUCH_TOKEN"),
    ],
)
def test_a_credential_in_a_location_is_refused_and_not_shown(location: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=named) as caught:
        find_source_files(make_source(location), tmp_path, DAY)
    assert "hush" not in str(caught.value)


def test_a_password_from_the_environment_opens_and_appears_nowhere(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    web.files, web.password = {"/a.csv": b"q\n1\n", "/b.csv": b"q\n2\n"}, "p@ss/word"
    location = web.url.replace("http://", "http://shop:${SHOP_PASSWORD}@") + "/a.csv"
    monkeypatch.setenv("SHOP_PASSWORD", "p@ss/word")
    _, documents = run_collect(tmp_path, location)
    assert documents[0].location == location
    monkeypatch.setenv("SHOP_PASSWORD", "old/p@ss")
    with pytest.raises(SourceError) as caught:
        run_collect(tmp_path, location.replace("a.csv", "b.csv"))
    paths = list(tmp_path.rglob("*"))
    kept = b"".join(path.read_bytes() for path in paths if path.is_file()) + str(paths).encode()
    for secret in ("p@ss", "p%40ss"):
        assert secret not in str(caught.value) and secret not in caplog.text and secret.encode() not in kept


def test_an_airflow_connection_holds_the_credentials(
    s3: str, s3_server: str, tmp_path: Path, objects: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_texts(objects, s3, {"a.csv": "q\n1\n"})
    for name in [n for n in os.environ if n.startswith("AWS_") and n != "AWS_EC2_METADATA_DISABLED"]:
        monkeypatch.delenv(name)
    with pytest.raises(SourceError, match=s3):
        run_collect(tmp_path, f"{s3}/a.csv")
    extra = {"endpoint_url": s3_server}
    connection = {"conn_type": "aws", "login": "shop-key", "password": "shop-secret", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(connection))
    _, documents = run_collect(tmp_path, f"{s3}/a.csv", connection="shop")
    assert documents[0].fields == '{"q": "1"}'
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"shop-secret" in p.read_bytes()]
    with pytest.raises(SourceError, match="nobody"):
        run_collect(tmp_path, f"{s3}/a.csv", connection="nobody")


def test_a_connection_names_a_database_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.executescript("create table t (q); insert into t values ('x')")
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", '{"conn_type": "sqlite", "schema": "shop.db"}')
    location = "sqlite:///${CONNECTION_SCHEMA}"
    _, documents = run_collect(tmp_path, location, kind="sql", query="select q from t order by q", connection="shop")
    assert (documents[0].location, documents[0].fields) == (location, '{"q": "x"}')

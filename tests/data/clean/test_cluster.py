"""clean on workers that share nothing with the driver but an object store: mount namespaces hide its disk from them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyspark
import pytest
from pyspark.sql import SparkSession

from llmops import artifacts, config, pipeline
from llmops.data import remote, row_file, spark
from llmops.data.clean import stage as clean
from llmops.data.clean import work
from llmops.errors import LlmopsError

CLASSES = Path(pyspark.__file__).parent / "bin" / "spark-class"
GATEWAY = Path(__file__).parents[4] / "shared" / "s3" / "versitygw"  #: a real server; without it moto's has to do
KEY, SECRET = "worker-key", "worker-secret-of-some-length"
DAY = "2026-01-31"


@pytest.fixture(scope="module")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 server that checks signatures, where there is one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*free.getsockname())
    if GATEWAY.is_file():
        command = [str(GATEWAY), "--port", address, "posix", str(tmp_path_factory.mktemp("s3"))]
    else:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", address.rpartition(":")[2]]
    log = tmp_path_factory.mktemp("log") / "s3.log"
    with open(log, "w") as output:
        environ = {**os.environ, "ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}
        server = subprocess.Popen(command, env=environ, stdout=output, stderr=output)
    deadline = time.monotonic() + 60
    while True:
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))):
                break
        assert time.monotonic() < deadline and server.poll() is None, log.read_text()
        time.sleep(0.1)
    yield f"http://{address}"
    server.terminate()
    server.wait(30)


class Cluster(NamedTuple):
    """A standalone cluster whose workers do not see the driver's disk."""

    master: str
    driver: Path  #: a folder that the driver alone has
    workers: list[subprocess.Popen[str]]
    log: Path


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """One master and two workers, each in a mount namespace of its own, without a credential."""
    if os.getuid() or not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("a mount namespace needs root and `unshare`")
    (driver := tmp_path / "driver").mkdir()
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "AIRFLOW_CONN_"))}
    environ |= {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "256m"}
    started: list[subprocess.Popen[str]] = []

    def start(role: str, *arguments: str) -> str:
        command = [str(CLASSES), f"org.apache.spark.deploy.{role}", "--host", "127.0.0.1", "--port", "0"]
        command += ["--webui-port", "0", *arguments]
        hidden = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs none "{driver}" && exec "$@"', "sh"]
        (own := tmp_path / str(len(started))).mkdir()
        places = {"SPARK_WORKER_DIR": str(own / "work"), "SPARK_LOCAL_DIRS": str(own / "tmp")}
        with open(own / "log", "w") as output:
            process = subprocess.Popen(
                [*hidden, *command],
                env=environ | places,
                stdout=output,
                stderr=output,
                text=True,
                start_new_session=True,
            )
        started.append(process)
        wanted = r"Starting Spark master at (spark://\S+)" if role.endswith("Master") else r"Successfully registered"
        deadline = time.monotonic() + 120
        while not (match := re.search(wanted, (own / "log").read_text())):
            assert time.monotonic() < deadline and process.poll() is None, (own / "log").read_text()
            time.sleep(0.2)
        return match[1] if match.groups() else ""

    try:
        url = start("master.Master")
        for _ in range(2):
            start("worker.Worker", "--cores", "1", "--memory", "600m", url)
        yield Cluster(url, driver, started[1:], tmp_path)
    finally:
        if active := SparkSession.getActiveSession():
            active.stop()
        for process in reversed(started):
            kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """End a worker as a power cut does, with the executors that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def settings(home: Path, **clean: Any) -> config.Config:
    fields = {"question": "q", "answer": "a"}
    sources = [
        {"name": name, "kind": "jsonl", "location": f"{name}.jsonl", "fields": fields} for name in ("shop", "forum")
    ]
    clean = {"driver_memory": "512m", "partitions": 4, **clean}
    return config.load(
        overrides={"home": str(home), "collect": {"root": str(home), "sources": sources}, "clean": clean}, environ={}
    )


def write_sources(home: Path) -> None:
    home.mkdir(exist_ok=True)
    for name, count in (("shop", 500), ("forum", 300)):
        words = "how do I mend the red bicycle of my little brother when it was left out in the rain".split()  # noqa: SIM905
        names = [f"{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(250)]  # texts that differ in a number all stay
        questions = (" ".join(words[n % 9 :]) + f" {names[n % 90]}?" for n in range(count))
        answers = (f"Call {names[n % 250]} and ask for part {names[n % 250]}." for n in range(count))
        rows = [{"q": question, "a": answer} for question, answer in zip(questions, answers, strict=True)]
        (home / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def run(settings: config.Config) -> dict[str, str]:
    """From the sources to the cleaned documents; the hashes of what clean made."""
    pipeline.run_stage("collect", settings, DAY)
    record = artifacts.read_record(pipeline.run_stage("clean", settings, DAY))
    assert record.metrics["in"] == 800 and {"duplicate", "near_duplicate"} <= set(record.metrics["dropped"])
    return {**record.files, "kept": record.metrics["kept"]}


@pytest.mark.slow
def test_a_killed_worker_and_a_hidden_disk_change_no_byte(
    cluster: Cluster, s3_url: str, monkeypatch: pytest.MonkeyPatch, no_credentials: None
) -> None:
    monkeypatch.setattr(row_file, "GROUP_ROWS", 50)
    monkeypatch.setattr(clean, "ROWS_PER_FILE", 100)
    login = {"login": KEY, "password": SECRET, "extra": {"endpoint_url": s3_url}}
    monkeypatch.setenv("AIRFLOW_CONN_WORK", json.dumps({"conn_type": "aws", **login}))
    store = work.Work.at("s3://cleaning", "work")
    store.address().filesystem.mkdir("cleaning")
    write_sources(cluster.driver)
    on_spark = {
        "spark.executor.memory": "512m",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.pyspark.python": sys.executable,
    }

    merge = clean.merged

    def at_first_file() -> None:
        while not store.address().filesystem.glob("cleaning/*/documents/*"):
            time.sleep(0.02)
        kill(cluster.workers[0])  # and with it what its disk held of the numbers

    def merged(*args: Any, **kwargs: Any) -> Any:
        threading.Thread(target=at_first_file, daemon=True).start()
        return merge(*args, **kwargs)

    monkeypatch.setattr(clean, "merged", merged)
    there = {"master": cluster.master, "spark": on_spark}
    whole = settings(cluster.driver, **there, work="s3://cleaning", connection="work")
    with spark.session(whole.clean):
        with pytest.raises(work.WorkError, match="workers do not see.*FileNotFoundError"):
            run(settings(cluster.driver, **there, work=str(cluster.driver / "work")))
        with pytest.raises(LlmopsError, match=r"say by `clean\.work`"):
            run(settings(cluster.driver, **there))
        on_hosts = run(whole)
    assert cluster.workers[0].poll() is not None and cluster.workers[1].poll() is None
    assert store.address().filesystem.ls("cleaning") == []
    logs = "".join(path.read_text(errors="replace") for path in cluster.log.glob("*/log"))
    logs += "".join(path.read_text(errors="replace") for path in cluster.log.rglob("std*"))
    assert "llmops" in logs and SECRET not in logs

    (alone := cluster.driver / "alone").mkdir()
    write_sources(alone)
    assert run(settings(alone, master="local[1]")) == on_hosts


def test_a_part_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a worker does not see what another one wrote."""
    monkeypatch.setattr(row_file, "GROUP_ROWS", 300)
    write_sources(tmp_path)
    written = clean._write_tidied

    def hide(path: str, data: bytes | None) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            parts = written(*args)
            (hidden,) = tmp_path.rglob(path)
            hidden.unlink() if data is None else hidden.write_bytes(hidden.read_bytes()[: -len(data)])
            return parts

        return call

    for data, problem in ((None, "is not there"), (b"short", "is damaged")):
        monkeypatch.setattr(clean, "_write_tidied", hide("parts/1.arrow", data))
        with pytest.raises(work.WorkError, match=rf"parts/1\.arrow.* {problem}"):
            run(settings(tmp_path, master="local[1]"))
    monkeypatch.setattr(clean, "_write_tidied", lambda *args: {**written(*args), 1: written(*args)[0]})
    with pytest.raises(work.WorkError, match="lost.* forum: 300 came in, 200"):
        run(settings(tmp_path, master="local[1]"))
    monkeypatch.setattr(clean, "_write_tidied", written)
    run(settings(tmp_path, master="local[1]"))


def test_work_files_may_be_in_any_store(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objects: Callable[[str], Any]
) -> None:
    monkeypatch.setattr(row_file, "GROUP_ROWS", 300)
    secrets = {
        "s3": {
            "conn_type": "aws",
            "login": os.environ.get("AWS_ACCESS_KEY_ID"),
            "password": os.environ.get("AWS_SECRET_ACCESS_KEY"),
            "extra": {"endpoint_url": os.environ.get("AWS_ENDPOINT_URL")},
        },
        "abfs": {
            "conn_type": "wasb",
            "extra": {"connection_string": os.environ.get("AZURE_STORAGE_CONNECTION_STRING")},
        },
    }
    monkeypatch.setenv("AIRFLOW_CONN_WORK", json.dumps(secrets[store.partition(":")[0]]))
    for home, place in ((tmp_path / "a", ""), (tmp_path / "b", f"{store}/work")):
        write_sources(home)
        made = run(settings(home, master="local[1]", work=place, connection="work"))
        digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
        assert (tmp_path / "digest").exists() or (tmp_path / "digest").write_text(digest)
        assert (tmp_path / "digest").read_text() == digest
    assert not objects(store).find(remote.connect(store, os.environ).path)


def test_a_bucket_that_is_not_there_is_told(store: str, tmp_path: Path) -> None:
    write_sources(tmp_path)
    with pytest.raises(work.WorkError, match=r"not-there/work/.* cannot be written: .*make it"):
        run(settings(tmp_path, master="local[1]", work=f"{store}-not-there/work"))

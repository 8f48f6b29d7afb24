"""clean on workers that share nothing with the driver but an object store: mount namespaces hide its disk from them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyspark
import pytest
from pyspark.sql import SparkSession

from llmops import config
from llmops.data import row_file, spark
from llmops.data.clean import merge, work_files
from llmops.data.clean import stage as clean
from llmops.frame import artifacts
from llmops.frame.errors import LlmopsError
from llmops.pipeline import pipeline
from tests.clock import wait_until

CLASSES = Path(pyspark.__file__).parent / "bin" / "spark-class"
GATEWAY = Path(__file__).parents[4] / "shared" / "s3" / "versitygw"  #: a real server; without it moto's has to do
KEY, SECRET = "worker-key", "worker-secret-of-some-length"
DAY = "2026-01-31"
ON_SPARK = {
    "spark.executor.memory": "512m",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.pyspark.python": sys.executable,
}


@pytest.fixture
def s3_url(tmp_path: Path) -> Iterator[str]:
    """An S3 server that checks signatures, where there is one."""
    (tmp_path / "s3").mkdir()
    if GATEWAY.is_file():
        command = [str(GATEWAY), "--port", "127.0.0.1:0", "posix", str(tmp_path / "s3")]
    else:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    log = tmp_path / "s3.log"
    with open(log, "w") as output:
        environ = {**os.environ, "ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}
        server = subprocess.Popen(command, env=environ, stdout=output, stderr=output)

    def ports() -> list[int]:
        assert server.poll() is None, log.read_text()
        found = psutil.Process(server.pid).net_connections("tcp")
        return [each.laddr.port for each in found if each.status == psutil.CONN_LISTEN]

    yield f"http://127.0.0.1:{wait_until(ports)[0]}"
    server.terminate()
    server.wait(50)


@dataclass
class Cluster:
    """A standalone cluster of a master and workers without a credential, each in a mount namespace of its own."""

    folder: Path  #: where its logs are
    hidden: Path | None  #: a folder that the driver alone sees; None: namespaces need root and `unshare`
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    master: str = ""

    def start(self, role: str, wanted: str, *arguments: str) -> str:
        command = [str(CLASSES), f"org.apache.spark.deploy.{role}", "--host", "127.0.0.1", "--port", "0"]
        command += ["--webui-port", "0", *arguments]
        if self.hidden:
            mount = f'mount -t tmpfs none "{self.hidden}" && exec "$@"'
            command = ["unshare", "-m", "sh", "-c", mount, "sh", *command]
        (own := self.folder / str(len(self.processes))).mkdir(parents=True)
        environ = {n: value for n, value in os.environ.items() if not n.startswith(("AWS_", "AIRFLOW_CONN_"))}
        environ |= {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "256m"}
        environ |= {"SPARK_WORKER_DIR": str(own / "work"), "SPARK_LOCAL_DIRS": str(own / "tmp")}
        with open(own / "log", "w") as output:
            self.processes.append(
                subprocess.Popen(command, env=environ, stdout=output, stderr=output, text=True, start_new_session=True)
            )

        def said() -> re.Match[str] | None:
            assert self.processes[-1].poll() is None, (own / "log").read_text()
            return re.search(wanted, (own / "log").read_text())

        match = wait_until(said, limit_s=120)
        assert match
        return match[1]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    (tmp_path / "driver").mkdir()
    able = not os.getuid() and shutil.which("unshare")
    able = able and not subprocess.run(["unshare", "-m", "true"], check=False).returncode
    started = Cluster(tmp_path / "cluster", tmp_path / "driver" if able else None)
    try:
        started.master = started.start("master.Master", r"Starting Spark master at (spark://\S+)")
        for _ in range(2):
            memory = ("--cores", "1", "--memory", "600m")
            started.start("worker.Worker", "(Successfully registered)", *memory, started.master)
        yield started
    finally:
        if active := SparkSession.getActiveSession():
            active.stop()
        for process in reversed(started.processes):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(50)


def settings(home: Path, **clean: Any) -> config.Config:
    """Return the configuration of a home, whose sources are written."""
    words = "how do I mend the red bicycle of my little brother when it was left out in the rain".split()  # noqa: SIM905
    names = [f"{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(250)]  # texts that differ in a number all stay
    rows = [
        {"q": " ".join(words[n % 9 :]) + f" {names[n % 90]}?", "a": f"Call {names[n]}, ask for part {names[n]}."}
        for n in (*range(250), *range(150))
    ]
    home.mkdir(exist_ok=True)
    (home / "shop.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = {"name": "shop", "kind": "jsonl", "location": "shop.jsonl", "fields": {"question": "q", "answer": "a"}}
    clean = {"driver_memory": "512m", "partitions": 4, **clean}
    collect = {"root": str(home), "sources": [source]}
    return config.load(overrides={"home": str(home), "collect": collect, "clean": clean}, environ={})


def run(settings: config.Config) -> dict[str, str]:
    """From the sources to the cleaned documents; the hashes of what clean made."""
    pipeline.run_stage("collect", settings, DAY)
    record = artifacts.read_record(pipeline.run_stage("clean", settings, DAY))
    assert record.metrics["in"] == 400 and {"duplicate", "near_duplicate"} <= set(record.metrics["dropped"])
    return {**record.files, "kept": record.metrics["kept"]}


@pytest.mark.service
def test_neither_hosts_nor_a_killed_worker_nor_a_hidden_disk_change_a_byte(
    cluster: Cluster, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_credentials: None
) -> None:
    monkeypatch.setattr(row_file, "GROUP_ROWS", 50)
    monkeypatch.setattr(clean, "ROWS_PER_FILE", 100)
    login = {"login": KEY, "password": SECRET, "extra": {"endpoint_url": s3_url}}
    monkeypatch.setenv("AIRFLOW_CONN_WORK", json.dumps({"conn_type": "aws", **login}))
    store = work_files.WorkFiles.make("s3://cleaning", "work")
    store.get_address().filesystem.mkdir("cleaning")
    driver, there = tmp_path / "driver", {"master": cluster.master, "spark": ON_SPARK}
    victim, write_file = cluster.processes[1], merge._write_file
    pid = victim.pid

    def then_kill(file: int, *rest: Any) -> Any:
        """On a worker: write a file, and after the first one end a worker as a power cut does, with its executor."""
        written = write_file(file, *rest)
        if file == 0:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        return written

    whole = settings(driver / "store", **there, work="s3://cleaning", connection="work")
    with spark.open_spark_session(whole.clean):
        with pytest.raises(LlmopsError, match=r"say by `clean\.work`"):
            run(settings(driver / "none", **there))
        if cluster.hidden:
            with pytest.raises(work_files.WorkError, match="workers do not see.*FileNotFoundError"):
                run(settings(driver / "own", **there, work=str(driver / "work")))
        on_hosts = run(settings(driver / "shared", **there, work=str(tmp_path / "shared")))
        assert not list(tmp_path.glob("shared/*"))
        monkeypatch.setattr(merge, "_write_file", then_kill)
        assert victim.poll() is None
        assert run(whole) == on_hosts
        monkeypatch.setattr(merge, "_write_file", write_file)
    victim.wait(50)
    assert cluster.processes[2].poll() is None
    assert store.get_address().filesystem.ls("cleaning") == []
    files = [*cluster.folder.glob("*/log"), *cluster.folder.rglob("std*")]
    logs = "".join(path.read_text(errors="replace") for path in files)
    assert "llmops" in logs and SECRET not in logs
    assert run(settings(driver / "alone", master="local[1]")) == on_hosts

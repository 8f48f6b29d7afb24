"""One whole run of the pipeline on the example's data, with a tiny base model so that it takes a minute."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmops import stack
from llmops.config import load
from llmops.schedule.orchestrator import Airflow

ROOT = Path(__file__).parents[2]
DAY = "2026-01-31"
SMALL = {
    "LLMOPS_TUNE__TRIALS": "0",
    "LLMOPS_TRAIN__EPOCHS": "0.5",
    "LLMOPS_TRAIN__LEARNING_RATE": "0.005",
    "LLMOPS_COMPRESS__WITHIN": "9",  # so that what is evaluated, released and served is the compressed model
    "LLMOPS_COMPRESS__MAX_NEW_TOKENS": "8",
    "LLMOPS_EVALUATE__MAX_NEW_TOKENS": "8",
    "LLMOPS_GOVERN__PROBE_TOKENS": "8",
    "LLMOPS_GOVERN__FAIL_ON": "never",  # random weights print anything
    "LLMOPS_RELEASE__FLOORS": "{}",
    "LLMOPS_RELEASE__GUARDRAILS": "{}",
    "LLMOPS_RELEASE__MIN_EFFECT": "0.0",
}

Llmops = Callable[..., "subprocess.CompletedProcess[str]"]


def free_port() -> str:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="session")
def settings(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment that says where the home is, what is read and how small everything is."""
    return {
        "LLMOPS_HOME": str(tmp_path_factory.mktemp("home")),
        "LLMOPS_CONFIG": str(ROOT / "examples/support_bot/config.yaml"),
        "LLMOPS_SELECT__MODEL": str(tiny_base),
        "LLMOPS_AIRFLOW_PORT": free_port(),
        "LLMOPS_SERVING__PORT": free_port(),
        **SMALL,
    }


@pytest.fixture(scope="session")
def llmops(settings: dict[str, str]) -> Llmops:
    """Runs a command line of `llmops`."""

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "llmops", *arguments]
        environ = {**os.environ, **settings, **environ}
        return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=600)

    return run


@pytest.fixture(scope="session")
def home(llmops: Llmops, settings: dict[str, str]) -> Path:
    """The home of one whole run."""
    path = Path(settings["LLMOPS_HOME"])
    done = llmops("run", "all", "--interval", DAY, "--run-id", "test-run", "--json")
    assert done.returncode == 0, done.stderr[-4000:]
    (path / "printed.jsonl").write_text(done.stdout)
    return path


@pytest.fixture(scope="session")
def service(home: Path, settings: dict[str, str]) -> Iterator[stack.Service]:
    """A real Airflow on that home, with all of its DAGs."""
    config = load(settings["LLMOPS_CONFIG"], environ=settings)
    service = stack.start_airflow(config, int(settings["LLMOPS_AIRFLOW_PORT"]), {**os.environ, **settings})
    try:
        with Airflow(service.url, "developer", stack.passwords(home)[0]["developer"]) as airflow:
            for file in (ROOT / "dags").glob("*.py"):
                airflow.wait_for_dag(file.stem)
            (home / "scheduled.json").write_text(json.dumps(airflow.scheduled()))  # before a test pauses one
        yield service
    finally:
        stack.stop(home, ["airflow"])


@pytest.fixture
def airflow(service: stack.Service, home: Path) -> Iterator[Airflow]:
    """Signed in as the developer."""
    with Airflow(service.url, "developer", stack.passwords(home)[0]["developer"]) as airflow:
        yield airflow

"""`llmops trigger` before it reaches Airflow, and `llmops airflow`: whose home, whose DAGs, whose configuration."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from llmops import cli
from llmops.cli import airflow
from llmops.config.run_parameters import RunParameters
from llmops.pipeline import stack
from llmops.pipeline.orchestrator import OrchestratorError, TaskInstance

ROOT = Path(__file__).parents[2]


class Fake:
    """An Airflow that has one DAG, whose runs take three looks."""

    end = "success"

    def __init__(self, url: str, user: str, password: str) -> None:
        self.signed_in = (url, user, password)
        self.given: dict[str, Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None: ...

    def list_parameters(self, dag: str) -> list[str]:
        if dag != "llmops_pipeline":
            raise OrchestratorError(f"no {dag}")
        return list(RunParameters.model_fields)

    def trigger(self, dag: str, conf: dict[str, Any]) -> str:
        self.given = conf
        return "manual__1"

    def follow(self, dag: str, run: str) -> Iterator[tuple[str, list[TaskInstance]]]:
        yield "queued", [TaskInstance("collect", "none", 0, 0)]
        yield "running", [TaskInstance("collect", "running", 1, 1)]
        yield "running", [TaskInstance("collect", "running", 1, 2)]
        yield self.end, [TaskInstance("collect", self.end, 1, 3)]

    def explain_failure(self, dag: str, run: str, tasks: list[TaskInstance]) -> str:
        return f"{tasks[0].name} broke"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path))
    stack.ensure_passwords(tmp_path)
    return tmp_path


@pytest.fixture
def fake(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[Fake]:
    made: list[Fake] = []

    def connect(*arguments: str) -> Fake:
        made.append(Fake(*arguments))
        return made[-1]

    monkeypatch.setattr(airflow, "Airflow", connect)
    return made


def test_a_run_gets_the_parameters_that_are_set_and_no_others(fake: list[Fake], home: Path) -> None:
    assert cli.main(["trigger"]) == 0
    assert cli.main(["trigger", "--set", "epochs=2", "--set", "base_model=a/b", "--interval", "2026-01-31"]) == 0
    assert [f.given for f in fake] == [{}, {"epochs": 2, "base_model": "a/b", "interval": "2026-01-31"}]
    password = json.loads((home / "airflow" / "passwords.json").read_text())["developer"]
    assert fake[0].signed_in == ("http://127.0.0.1:8080", "developer", password)


@pytest.mark.parametrize(
    "pair", ["release.min_effect=0", "config=evil.yaml", "EPOCHS=2", "epochs", "epochs=NaN", "interval=2026-01-31"]
)
def test_what_is_not_in_the_list_triggers_nothing(fake: list[Fake], pair: str, capsys: Any) -> None:
    assert cli.main(["trigger", "--set", pair]) == 1
    assert all(f.given is None for f in fake)
    assert pair.split("=")[0] in capsys.readouterr().err


def test_an_airflow_that_is_down_may_be_back_later(home: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMOPS_AIRFLOW_USER", "ann")
    monkeypatch.setenv("LLMOPS_AIRFLOW_PASSWORD", "secret")
    assert cli.main(["trigger", "--url", "http://127.0.0.1:1"]) == os.EX_TEMPFAIL
    assert "does not answer" in capsys.readouterr().err


def test_waiting_tells_each_step_and_a_failure(fake: list[Fake], capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["trigger", "--wait"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["collect", "running"], ["collect", "success"]]
    assert cli.main(["trigger", "--wait", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"dag": "llmops_pipeline", "run": "manual__1", "state": "success"}
    monkeypatch.setattr(Fake, "end", "failed")
    assert cli.main(["trigger", "--wait", "--json"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and "collect broke" in said.err


def test_an_airflow_elsewhere_has_its_own_user(fake: list[Fake], capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["trigger", "--url", "https://airflow.shop"]) == 1
    assert "LLMOPS_AIRFLOW_PASSWORD" in capsys.readouterr().err and not fake
    monkeypatch.setenv("LLMOPS_AIRFLOW_USER", "ann")
    monkeypatch.setenv("LLMOPS_AIRFLOW_PASSWORD", "secret")
    assert cli.main(["trigger", "--url", "https://airflow.shop"]) == 0
    assert fake[0].signed_in == ("https://airflow.shop", "ann", "secret")


def test_a_home_without_airflow_is_told_and_stays(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "new"))
    assert cli.main(["trigger"]) == 1
    assert "make demo" in capsys.readouterr().err
    assert not (tmp_path / "new" / "airflow").exists()


def test_airflow_gets_its_arguments_and_the_configurations_path(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: called.append(arguments))
    monkeypatch.chdir(home)
    (home / "config.yaml").write_text("")
    cli.main(["airflow", "--config", "config.yaml", "dags", "trigger", "x", "--conf", '{"epochs": 2}', "--set", "-h"])
    _, command, environ = called[0]
    assert command[1:] == ["-m", "airflow", "dags", "trigger", "x", "--conf", '{"epochs": 2}', "--set", "-h"]
    assert environ["LLMOPS_CONFIG"] == str(home / "config.yaml") and environ["AIRFLOW_HOME"] == str(home / "airflow")

"""Talking to Airflow: what it answers becomes states, lines and errors that say what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from llmops.errors import TransientError
from llmops.schedule import orchestrator
from llmops.schedule.orchestrator import Airflow, OrchestratorError, Task

RUNS = "/api/v2/dags/pipeline/dagRuns"


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, Any]], tuple[Airflow, list[Any]]]]:
    """A connection to an Airflow that answers from a table of "METHOD path" → (status, JSON), and what it was asked."""
    client, opened = httpx.Client, []

    def build(table: dict[str, Any]) -> tuple[Airflow, list[Any]]:
        asked: list[Any] = []

        def handle(request: httpx.Request) -> httpx.Response:
            body = json.loads(request.content) if request.content else None
            asked.append((f"{request.method} {request.url.path}", body, request.headers.get("Authorization")))
            status, answer = ({"POST /auth/token": (201, {"access_token": "t0ken"})} | table)[asked[-1][0]]
            return httpx.Response(status, json=answer)

        transport = httpx.MockTransport(handle)
        monkeypatch.setattr(orchestrator.httpx, "Client", lambda **options: client(transport=transport, **options))
        opened.append(Airflow("http://airflow", "developer", "secret"))
        return opened[-1], asked

    yield build
    for connection in opened:
        connection.__exit__(None, None, None)


def test_it_signs_in_once_and_triggers_with_the_overrides(connect: Any) -> None:
    airflow, asked = connect({f"POST {RUNS}": (200, {"dag_run_id": "r1"})})
    assert airflow.trigger("pipeline", {"train": {"seed": 1}}) == "r1"
    assert asked[0] == ("POST /auth/token", {"username": "developer", "password": "secret"}, None)
    assert asked[1] == (f"POST {RUNS}", {"logical_date": None, "conf": {"train": {"seed": 1}}}, "Bearer t0ken")


def test_a_refusal_says_why_without_the_schema(connect: Any) -> None:
    detail = "Invalid input for param train: 'sed' was unexpected\n\nFailed validating: {a long schema}"
    airflow, _ = connect({f"POST {RUNS}": (400, {"detail": detail})})
    with pytest.raises(OrchestratorError) as caught:
        airflow.trigger("pipeline", {"train": {"sed": 1}})
    assert "'sed'" in str(caught.value) and "schema" not in str(caught.value)


@pytest.mark.parametrize("answer", ["plain", ["list"], {}, None])
def test_a_refusal_without_a_reason_is_still_an_error(connect: Any, answer: Any) -> None:
    airflow, _ = connect({f"GET {RUNS}/r1": (500, answer)})
    with pytest.raises(OrchestratorError, match="500"):
        airflow.state("pipeline", "r1")


def test_a_wrong_password_and_nobody_at_home(connect: Any) -> None:
    with pytest.raises(OrchestratorError, match="Invalid credentials"):
        connect({"POST /auth/token": (401, {"detail": "Invalid credentials"})})


def test_nobody_listening_is_named_with_the_url() -> None:
    with pytest.raises(OrchestratorError, match="127.0.0.1:1"):
        Airflow("http://127.0.0.1:1", "developer", "secret")


def test_tasks_have_state_tries_and_seconds(connect: Any) -> None:
    start, end = "2026-01-31T10:00:00Z", "2026-01-31T10:01:30Z"
    answer = [
        {"task_id": "collect", "state": "success", "try_number": 1, "start_date": start, "end_date": end},
        {"task_id": "clean", "state": None, "try_number": 0, "start_date": None, "end_date": None},
    ]
    airflow, _ = connect({f"GET {RUNS}/r1/taskInstances": (200, {"task_instances": answer})})
    assert airflow.tasks("pipeline", "r1") == [Task("collect", "success", 1, 90.0), Task("clean", "none", 0, 0.0)]


def test_active_runs_may_be_asked_for_from_before_a_moment(connect: Any) -> None:
    runs = [
        {"dag_run_id": "left over", "queued_at": "2026-01-31T10:00:00Z"},
        {"dag_run_id": "new", "queued_at": "2026-01-31T12:00:00Z"},
    ]
    airflow, _ = connect({f"GET {RUNS}": (200, {"dag_runs": runs})})
    assert airflow.active("pipeline") == ["left over", "new"]
    assert airflow.active("pipeline", before=datetime(2026, 1, 31, 11, tzinfo=UTC)) == ["left over"]


def test_a_log_becomes_lines_with_the_exception_and_without_folding_marks(connect: Any) -> None:
    content = [
        {"event": "::group::Log message source details"},
        "a plain line",
        {"event": "Task failed", "error_detail": [{"exc_type": "SourceError", "exc_value": "faq.csv is empty"}]},
    ]
    airflow, _ = connect({f"GET {RUNS}/r1/taskInstances/collect/logs/1": (200, {"content": content})})
    lines = airflow.log("pipeline", "r1", "collect", 0)
    assert lines == ["a plain line", "Task failed", "SourceError: faq.csv is empty"]


def test_the_parameters_of_a_dag_and_a_paused_one_whose_runs_would_wait(connect: Any) -> None:
    path = "/api/v2/dags/pipeline/details"
    airflow, _ = connect({f"GET {path}": (200, {"is_paused": False, "params": {"epochs": {}, "interval": {}}})})
    assert airflow.parameters("pipeline") == ["epochs", "interval"]
    airflow, _ = connect({f"GET {path}": (200, {"is_paused": True, "params": {}})})
    with pytest.raises(OrchestratorError, match="llmops airflow dags unpause pipeline"):
        airflow.parameters("pipeline")


def test_a_run_is_followed_until_it_has_ended(connect: Any) -> None:
    table = {
        f"GET {RUNS}/r1": (200, {"state": "success"}),
        f"GET {RUNS}/r1/taskInstances": (200, {"task_instances": []}),
    }
    airflow, _ = connect(table)
    states = iter(["queued", "running", "success", "never asked"])
    airflow.state = lambda dag, run: next(states)
    assert [state for state, _ in airflow.follow("pipeline", "r1", pause_s=0)] == ["queued", "running", "success"]


def test_an_airflow_that_restarts_is_waited_for(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    table = {
        f"GET {RUNS}/r1": (503, {"detail": "starting"}),
        f"GET {RUNS}/r1/taskInstances": (200, {"task_instances": []}),
    }
    airflow, asked = connect(table)

    def later(seconds: float) -> None:
        if len(asked) > 3:
            table[f"GET {RUNS}/r1"] = (200, {"state": "success"})

    monkeypatch.setattr(orchestrator.time, "sleep", later)
    assert list(airflow.follow("pipeline", "r1")) == [("success", [])]
    table[f"GET {RUNS}/r1"] = (503, {"detail": "starting"})
    monkeypatch.setattr(orchestrator, "PATIENCE_S", -1.0)
    with pytest.raises(TransientError, match="503"):
        list(airflow.follow("pipeline", "r1"))


def test_a_failure_names_the_task_and_the_end_of_its_log(connect: Any) -> None:
    content = [*(f"line {n}" for n in range(40)), "", "clean broke"]
    airflow, _ = connect({f"GET {RUNS}/run/taskInstances/clean/logs/2": (200, {"content": content})})
    tasks = [Task("collect", "success", 1, 3.0), Task("clean", "failed", 2, 3.0), Task("tune", "upstream_failed", 0, 0)]
    text = airflow.explain("pipeline", "run", tasks)
    assert "clean failed at try 2" in text and "clean broke" in text and "line 0" not in text and "tune" not in text


def test_a_token_that_has_run_out_is_replaced_once(connect: Any) -> None:
    table = {f"GET {RUNS}/r1": (401, {"detail": "Signature has expired"})}
    airflow, asked = connect(table)
    with pytest.raises(OrchestratorError, match="expired"):
        airflow.state("pipeline", "r1")
    assert [path for path, *_ in asked] == ["POST /auth/token", f"GET {RUNS}/r1", "POST /auth/token", f"GET {RUNS}/r1"]


def test_a_dag_that_cannot_be_parsed_is_reported_with_its_error(connect: Any) -> None:
    errors = [{"filename": "pipeline.py", "stack_trace": "Traceback …\nImportError: no module named x"}]
    table = {"GET /api/v2/dags/pipeline": (404, {}), "GET /api/v2/importErrors": (200, {"import_errors": errors})}
    airflow, _ = connect(table)
    with pytest.raises(OrchestratorError, match="no module named x"):
        airflow.wait_for_dag("pipeline", timeout_s=0)

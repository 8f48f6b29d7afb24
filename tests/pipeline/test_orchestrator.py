"""Talking to Airflow: what it answers becomes states, lines and errors that say what is wrong."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from llmops.frame.errors import TransientError
from llmops.pipeline import orchestrator
from llmops.pipeline.orchestrator import Airflow, OrchestratorError

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


def test_a_refusal_says_why_without_the_schema(connect: Any) -> None:
    detail = "Invalid input for param train: 'sed' was unexpected\n\nFailed validating: {a long schema}"
    airflow, _ = connect({f"POST {RUNS}": (400, {"detail": detail})})
    with pytest.raises(OrchestratorError) as caught:
        airflow.trigger("pipeline", {"train": {"sed": 1}})
    assert "'sed'" in str(caught.value) and "schema" not in str(caught.value)
    airflow, _ = connect({f"GET {RUNS}/r1": (500, ["no reason"])})
    with pytest.raises(OrchestratorError, match="500"):
        airflow.read_state("pipeline", "r1")
    with pytest.raises(OrchestratorError, match="Invalid credentials"):
        connect({"POST /auth/token": (401, {"detail": "Invalid credentials"})})


def test_an_airflow_that_restarts_is_waited_for(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    table = {
        f"GET {RUNS}/r1": (503, {"detail": "starting"}),
        f"GET {RUNS}/r1/taskInstances": (200, {"task_instances": []}),
    }
    airflow, asked = connect(table)

    def stop_waiting(seconds: float) -> None:
        if len(asked) > 3:
            table[f"GET {RUNS}/r1"] = (200, {"state": "success"})

    monkeypatch.setattr(orchestrator.time, "sleep", stop_waiting)
    assert list(airflow.follow("pipeline", "r1")) == [("success", [])]
    table[f"GET {RUNS}/r1"] = (503, {"detail": "starting"})
    monkeypatch.setattr(orchestrator, "TIMEOUT_S", -1.0)
    with pytest.raises(TransientError, match="503"):
        list(airflow.follow("pipeline", "r1"))


def test_a_token_that_has_run_out_is_replaced_once(connect: Any) -> None:
    table = {f"GET {RUNS}/r1": (401, {"detail": "Signature has expired"})}
    airflow, asked = connect(table)
    with pytest.raises(OrchestratorError, match="expired"):
        airflow.read_state("pipeline", "r1")
    assert [path for path, *_ in asked] == ["POST /auth/token", f"GET {RUNS}/r1", "POST /auth/token", f"GET {RUNS}/r1"]


def test_a_dag_that_cannot_be_parsed_is_reported_with_its_error(connect: Any) -> None:
    errors = [{"filename": "pipeline.py", "stack_trace": "Traceback …\nImportError: no module named x"}]
    table = {"GET /api/v2/dags/pipeline": (404, {}), "GET /api/v2/importErrors": (200, {"import_errors": errors})}
    airflow, _ = connect(table)
    with pytest.raises(OrchestratorError, match="no module named x"):
        airflow.wait_for_dag("pipeline", timeout_s=0)

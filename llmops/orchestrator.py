"""Talk to Airflow over its public REST API: trigger a run of a DAG, follow its tasks, read a task's log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import httpx

from llmops.errors import LlmopsError

DONE = ("success", "failed")  #: states in which a run has ended


class OrchestratorError(LlmopsError):
    """Airflow does not do what it is asked."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a run, as far as it has come."""

    name: str
    state: str  #: none | scheduled | queued | running | success | failed | up_for_retry | upstream_failed | skipped …
    tries: int
    seconds: float  #: that its last try has taken so far


class Airflow:
    """A signed-in connection to Airflow's REST API."""

    def __init__(self, url: str, user: str, password: str) -> None:
        """Sign in.

        Raises:
            OrchestratorError: if Airflow does not answer or refuses the password.
        """
        self._http = httpx.Client(base_url=url, timeout=60)
        token = self._call("POST", "/auth/token", json={"username": user, "password": password})["access_token"]
        self._http.headers["Authorization"] = f"Bearer {token}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def wait_for_dag(self, dag: str, timeout_s: float = 120) -> None:
        """Wait until Airflow has parsed the DAG.

        Raises:
            OrchestratorError: if it has not in time, with the errors of the files that it could not parse.
        """
        deadline = time.monotonic() + timeout_s
        while self._http.get(f"/api/v2/dags/{dag}").status_code == 404:
            if time.monotonic() > deadline:
                errors = self._call("GET", "/api/v2/importErrors")["import_errors"]
                text = "; ".join(f"{e['filename']}: {e['stack_trace'].splitlines()[-1]}" for e in errors)
                raise OrchestratorError(f"Airflow does not know the DAG {dag} after {timeout_s:.0f} s. {text}".strip())
            time.sleep(1)

    def unpause(self, dag: str) -> None:
        """Let the runs of the DAG start: those of a paused one wait."""
        self._call("PATCH", f"/api/v2/dags/{dag}", params={"update_mask": "is_paused"}, json={"is_paused": False})

    def trigger(self, dag: str, conf: Mapping[str, Any]) -> str:
        """Start a run; returns its id.

        Raises:
            OrchestratorError: if the DAG does not exist or its parameters refuse `conf`.
        """
        body = {"logical_date": None, "conf": dict(conf)}
        return str(self._call("POST", f"/api/v2/dags/{dag}/dagRuns", json=body)["dag_run_id"])

    def active(self, dag: str, before: datetime | None = None) -> list[str]:
        """The ids of the runs that have not ended, oldest first; with `before` only those that were created earlier."""
        query = {"state": ["queued", "running"], "order_by": "run_after", "limit": 100}
        runs = self._call("GET", f"/api/v2/dags/{dag}/dagRuns", params=query)["dag_runs"]
        return [r["dag_run_id"] for r in runs if before is None or datetime.fromisoformat(r["queued_at"]) < before]

    def abandon(self, dag: str, run: str) -> None:
        """Mark a run as failed; its tasks are ended."""
        self._call("PATCH", f"/api/v2/dags/{dag}/dagRuns/{run}", json={"state": "failed"})

    def state(self, dag: str, run: str) -> str:
        """The state of a run."""
        return str(self._call("GET", f"/api/v2/dags/{dag}/dagRuns/{run}")["state"])

    def tasks(self, dag: str, run: str) -> list[Task]:
        """The tasks of a run."""
        found = self._call("GET", f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances", params={"limit": 100})
        return [
            Task(t["task_id"], t["state"] or "none", t["try_number"], _seconds(t["start_date"], t["end_date"]))
            for t in found["task_instances"]
        ]

    def outputs(self, dag: str, run: str, task: str) -> Any:
        """What a finished task returned."""
        path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value"
        return self._call("GET", path, params={"deserialize": False})["value"]

    def log(self, dag: str, run: str, task: str, tries: int) -> list[str]:
        """The lines of the log of one try of a task, as text."""
        path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/logs/{max(tries, 1)}"
        entries = self._call("GET", path, params={"full_content": True})["content"]
        lines = [line for entry in entries for line in _lines(entry)]
        return [line for line in lines if not line.startswith("::")]  # folding marks of the UI

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            answer = self._http.request(method, path, headers={"Accept": "application/json"}, **arguments)
        except httpx.TransportError as error:
            raise OrchestratorError(f"Airflow at {self._http.base_url} does not answer: {error}") from error
        if answer.is_error:
            raise OrchestratorError(f"Airflow refuses {method} {path} ({answer.status_code}): {_detail(answer)}")
        return answer.json()


def _seconds(start: str | None, end: str | None) -> float:
    if not start:
        return 0.0
    last = datetime.fromisoformat(end) if end else datetime.now(UTC)
    return (last - datetime.fromisoformat(start)).total_seconds()


def _lines(entry: Any) -> list[str]:
    """The text of one entry of a task's log: a plain line, or an event with the exception it reports."""
    if not isinstance(entry, dict):
        return [str(entry)]
    lines = [str(entry.get("event", ""))]
    for cause in entry.get("error_detail") or []:
        lines.append(f"{cause.get('exc_type')}: {cause.get('exc_value')}")
    return lines


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"]).split("\n\n")[0]  # the schema that a parameter breaks follows
    except (ValueError, KeyError, TypeError):
        return answer.text[:500]

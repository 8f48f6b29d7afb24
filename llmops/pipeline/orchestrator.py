"""A client of Airflow's REST API: triggers runs of a DAG, follows their tasks, reads their logs."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import httpx

from llmops.frame.errors import LlmopsError, TransientError, is_busy

END_STATES = ("success", "failed")  #: final states of a run

ANSWER_S = 90.0  #: time for an answer: longer than Airflow waits for SQLite, so that it can tell what is wrong
TIMEOUT_S = 600.0  #: time that `follow` waits for an Airflow that restarts


class OrchestratorError(LlmopsError):
    """Airflow refuses a request."""


class OrchestratorUnavailable(OrchestratorError, TransientError):
    """Airflow does not answer or is busy."""


@dataclass(frozen=True, slots=True)
class TaskInstance:
    """One task of a run."""

    name: str
    state: str  #: none | scheduled | queued | running | success | failed | up_for_retry | upstream_failed | skipped …
    tries: int
    seconds: float  #: duration of its last try so far


class Airflow:
    """A signed-in connection to Airflow's REST API."""

    def __init__(self, url: str, user: str, password: str) -> None:
        """Sign in.

        Raises:
            OrchestratorError: if Airflow refuses the password; OrchestratorUnavailable if it does not answer.
        """
        self._http = httpx.Client(base_url=url, timeout=ANSWER_S)
        self._user = {"username": user, "password": password}
        self._sign_in()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def wait_for_dag(self, dag: str, timeout_s: float = 120) -> None:
        """Wait until Airflow has parsed the DAG.

        Raises:
            OrchestratorError: after `timeout_s`, with the errors of the files that Airflow could not parse.
        """
        deadline = time.monotonic() + timeout_s
        while self._send("GET", f"/api/v2/dags/{dag}").status_code == 404:
            if time.monotonic() > deadline:
                errors = self._call("GET", "/api/v2/importErrors")["import_errors"]
                text = "; ".join(f"{e['filename']}: {e['stack_trace'].splitlines()[-1]}" for e in errors)
                raise OrchestratorError(f"Airflow does not know the DAG {dag} after {timeout_s:.0f} s. {text}".strip())
            time.sleep(1)

    def unpause(self, dag: str) -> None:
        """Let the DAG's runs start. Runs of a paused DAG wait."""
        self._call("PATCH", f"/api/v2/dags/{dag}", params={"update_mask": "is_paused"}, json={"is_paused": False})

    def list_scheduled(self) -> dict[str, bool]:
        """Return DAG → True if it is paused, for all scheduled DAGs."""
        found = self._call("GET", "/api/v2/dags", params={"limit": 100, "order_by": "dag_id"})["dags"]
        return {d["dag_id"]: bool(d["is_paused"]) for d in found if d["timetable_summary"]}

    def list_parameters(self, dag: str) -> list[str]:
        """Return the names of the DAG's parameters.

        Raises:
            OrchestratorError: if there is no such DAG, or it is paused, so that a run would wait forever.
        """
        details = self._call("GET", f"/api/v2/dags/{dag}/details")
        if details["is_paused"]:
            raise OrchestratorError(
                f"The DAG {dag} is paused, its runs would wait; `llmops airflow dags unpause {dag}` lets them start."
            )
        return list(details["params"])

    def trigger(self, dag: str, conf: Mapping[str, Any]) -> str:
        """Start a run and return its id.

        Raises:
            OrchestratorError: if the DAG does not exist or its parameters refuse `conf`.
        """
        body = {"logical_date": None, "conf": dict(conf)}
        return str(self._call("POST", f"/api/v2/dags/{dag}/dagRuns", json=body)["dag_run_id"])

    def list_active(self, dag: str, before: datetime | None = None) -> list[str]:
        """Return the ids of unfinished runs, oldest first; with `before`, only runs created earlier."""
        query = {"state": ["queued", "running"], "order_by": "run_after", "limit": 100}
        runs = self._call("GET", f"/api/v2/dags/{dag}/dagRuns", params=query)["dag_runs"]
        return [r["dag_run_id"] for r in runs if before is None or datetime.fromisoformat(r["queued_at"]) < before]

    def fail(self, dag: str, run: str) -> None:
        """Mark a run as failed, which ends its tasks."""
        self._call("PATCH", f"/api/v2/dags/{dag}/dagRuns/{run}", json={"state": "failed"})

    def read_state(self, dag: str, run: str) -> str:
        """Return the state of a run."""
        return str(self._call("GET", f"/api/v2/dags/{dag}/dagRuns/{run}")["state"])

    def list_tasks(self, dag: str, run: str) -> list[TaskInstance]:
        """Return the tasks of a run."""
        found = self._call("GET", f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances", params={"limit": 100})
        tasks = found["task_instances"]
        return [TaskInstance(t["task_id"], t["state"] or "none", t["try_number"], _measure_seconds(t)) for t in tasks]

    def follow(self, dag: str, run: str, pause_s: float = 1.0) -> Iterator[tuple[str, list[TaskInstance]]]:
        """Yield the state of a run and its tasks, repeatedly, until the run has ended.

        Raises:
            OrchestratorUnavailable: if Airflow does not answer for `TIMEOUT_S`.
        """
        state, answered = "", time.monotonic()
        while state not in END_STATES:
            try:
                state, tasks = self.read_state(dag, run), self.list_tasks(dag, run)
            except OrchestratorUnavailable:
                if time.monotonic() - answered > TIMEOUT_S:
                    raise
            else:
                answered = time.monotonic()
                yield state, tasks
            if state not in END_STATES:
                time.sleep(pause_s)

    def explain_failure(self, dag: str, run: str, tasks: Iterable[TaskInstance]) -> str:
        """Return the failed tasks, the ends of their logs, and a remedy, as text."""
        lines = []
        for task in tasks:
            if task.state == "failed":
                end = [line for line in self.read_log(dag, run, task.name, task.tries) if line.strip()][-12:]
                lines += [f"The task {task.name} failed at try {task.tries}. The end of its log:"]
                lines += [f"  {line}" for line in end]
        lines.append("Mend what it names and run the same command again: finished stages are kept.")
        return "\n".join(lines)

    def read_result(self, dag: str, run: str, task: str) -> Any:
        """Return the return value of a finished task."""
        path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value"
        return self._call("GET", path, params={"deserialize": False})["value"]

    def read_log(self, dag: str, run: str, task: str, tries: int) -> list[str]:
        """Return the log lines of one try of a task."""
        path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/logs/{max(tries, 1)}"
        entries = self._call("GET", path, params={"full_content": True})["content"]
        lines = [line for entry in entries for line in _format_entry(entry)]
        return [line for line in lines if not line.startswith("::")]  # folding marks of the UI

    def _sign_in(self) -> None:
        self._http.headers.pop("Authorization", None)
        token = self._call("POST", "/auth/token", json=self._user)["access_token"]
        self._http.headers["Authorization"] = f"Bearer {token}"

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        answer = self._send(method, path, **arguments)
        if answer.status_code == 401 and "Authorization" in answer.request.headers and path != "/auth/token":
            self._sign_in()  # tokens expire after a day
            answer = self._send(method, path, **arguments)
        if answer.is_error:
            kind = OrchestratorUnavailable if is_busy(answer.status_code) else OrchestratorError
            raise kind(f"Airflow refuses {method} {path} ({answer.status_code}): {_read_detail(answer)}")
        return answer.json()

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, headers={"Accept": "application/json"}, **arguments)
        except httpx.TransportError as error:
            raise OrchestratorUnavailable(f"Airflow at {self._http.base_url} does not answer: {error}") from error


def _measure_seconds(task: Mapping[str, Any]) -> float:
    start, end = (task[name] and datetime.fromisoformat(task[name]) for name in ("start_date", "end_date"))
    return ((end or datetime.now(UTC)) - start).total_seconds() if start else 0.0


def _format_entry(entry: Any) -> list[str]:
    if not isinstance(entry, dict):
        return [str(entry)]
    lines = [str(entry.get("event", ""))]
    for cause in entry.get("error_detail") or []:
        lines.append(f"{cause.get('exc_type')}: {cause.get('exc_value')}")
    return lines


def _read_detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"]).split("\n\n")[0]  # cut off the schema of a refused parameter
    except (ValueError, KeyError, TypeError):
        return answer.text[:500]

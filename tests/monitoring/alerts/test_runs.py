"""Runs of DAGs: what failed is over once a run succeeds; what runs by its schedule is missed if it does not."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmops.config import Config, load
from llmops.events.datasets import ALERT
from llmops.events.shipping import drain
from llmops.events.sinks.local import LocalStore
from llmops.monitoring.alerts import lifecycle
from llmops.monitoring.alerts.judge import Judge
from llmops.monitoring.alerts.runs import FAILED, GC_FAILED, LATE, raise_alert, resolve_alerts
from llmops.pipeline.tasks import gc_failed, gc_succeeded, run_failed, run_succeeded, task_begins


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path))
    return load()


def sent_alerts(config: Config) -> list[tuple[str, str]]:
    drain(config.events, config.monitoring)
    return [(e["rule.name"], e.get("llmops.alert.state", "")) for e in LocalStore(config.events).find(ALERT)]


def context(run_type: str = "scheduled", dag: str = "llmops_pipeline") -> dict[str, Any]:
    run = SimpleNamespace(run_type=run_type, clear_number=0)
    return {"dag": SimpleNamespace(dag_id=dag), "dag_run": run, "run_id": "r1", "reason": "task_failure"}


def test_a_failed_run_is_over_when_a_later_one_succeeds(config: Config, hook: Any, monkeypatch: Any) -> None:
    receivers = [{"name": "chat", "url": hook.url.replace("http", "json")}]
    monkeypatch.setenv("LLMOPS_ALERTS__RECEIVERS", json.dumps(receivers))
    run_failed(context())
    run_failed(context())
    run_succeeded(context(dag="llm_monitoring"))  # another's success ends nothing
    run_succeeded(context())
    run_succeeded(context())
    assert sent_alerts(config) == [(FAILED, "raised"), (FAILED, "resolved")]
    posted = [json.loads(body) for _, _, body in hook.got]
    assert [p["state"] for p in posted] == ["raised", "resolved"]
    assert {p["subject"] for p in posted} == {"llmops_pipeline"}
    assert posted[0]["llmops.run"] == "r1"
    run_failed(context())  # told already, and over
    assert len(sent_alerts(config)) == 2


def test_judging_leaves_alerts_of_runs_as_they_are(config: Config) -> None:
    raise_alert(LATE, "llmops_pipeline", "r1", 0, "It is late.", {})
    Judge(config).judge(datetime.now(UTC) + timedelta(hours=3))
    assert [row["rule"] for row in lifecycle.list_alerts(config, datetime.now(UTC))["open"]] == [LATE]
    resolve_alerts("llmops_pipeline", FAILED, LATE)
    assert lifecycle.list_alerts(config, datetime.now(UTC))["open"] == []


def test_old_data_that_could_not_be_removed_is_over_when_it_could_not_when_its_run_succeeds(config: Config) -> None:
    gc_failed(context())
    run_succeeded(context())
    assert sent_alerts(config) == [(GC_FAILED, "raised")]
    gc_succeeded(context())
    assert sent_alerts(config) == [(GC_FAILED, "raised"), (GC_FAILED, "resolved")]


def test_a_rule_of_runs_that_is_off(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMOPS_ALERTS__OFF", '["run_failed"]')
    run_failed(context())
    assert sent_alerts(config) == []


def test_without_the_database_there_is_an_event(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    (config.home / "state.db").write_text("no database" * 1000)
    run_failed(context())
    assert sent_alerts(config) == [(FAILED, "raised")]


def test_only_runs_by_the_schedule_are_missed(config: Config) -> None:
    later = datetime.now(UTC) + timedelta(hours=30)
    task_begins(context("manual"))
    assert Judge(config).judge(later) == []
    task_begins(context("scheduled"))
    assert [(t["rule"], t["subject"]) for t in Judge(config).judge(later)] == [("dag_missing", "llmops_pipeline")]

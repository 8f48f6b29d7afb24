"""Runs of DAGs: what failed is over once a run succeeds; what runs by its schedule is missed if it does not."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmops.config import Config, load
from llmops.events.datasets import ALERT
from llmops.events.shipping import drain_spool
from llmops.events.sinks.local import LocalStore
from llmops.monitoring.alerts import lifecycle, run_alerts
from llmops.monitoring.alerts.rule_checker import RuleChecker
from llmops.monitoring.alerts.run_alerts import GC_FAILED, RUN_FAILED, RUN_LATE, raise_run_alert
from llmops.pipeline.tasks import (
    record_scheduled_run,
    report_failed_gc,
    report_failed_run,
    resolve_gc_alert,
    resolve_run_alerts,
)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path))
    return load()


def read_sent_alerts(config: Config) -> list[tuple[str, str]]:
    drain_spool(config.events, config.monitoring)
    return [(e["rule.name"], e.get("llmops.alert.state", "")) for e in LocalStore(config.events).find(ALERT)]


def make_context(run_type: str = "scheduled", dag: str = "llmops_pipeline") -> dict[str, Any]:
    run = SimpleNamespace(run_type=run_type, clear_number=0)
    return {"dag": SimpleNamespace(dag_id=dag), "dag_run": run, "run_id": "r1", "reason": "task_failure"}


def test_a_failed_run_is_over_when_a_later_one_succeeds(config: Config, hook: Any, monkeypatch: Any) -> None:
    receivers = [{"name": "chat", "url": hook.url.replace("http", "json")}]
    monkeypatch.setenv("LLMOPS_ALERTS__RECEIVERS", json.dumps(receivers))
    report_failed_run(make_context())
    report_failed_run(make_context())
    resolve_run_alerts(make_context(dag="llm_monitoring"))  # another's success ends nothing
    resolve_run_alerts(make_context())
    resolve_run_alerts(make_context())
    assert read_sent_alerts(config) == [(RUN_FAILED, "raised"), (RUN_FAILED, "resolved")]
    posted = [json.loads(body) for _, _, body in hook.got]
    assert [p["state"] for p in posted] == ["raised", "resolved"]
    assert {p["subject"] for p in posted} == {"llmops_pipeline"}
    assert posted[0]["llmops.run"] == "r1"
    report_failed_run(make_context())  # told already, and over
    assert len(read_sent_alerts(config)) == 2


def test_judging_leaves_alerts_of_runs_as_they_are(config: Config) -> None:
    raise_run_alert(RUN_LATE, "llmops_pipeline", "r1", 0, "It is late.", {})
    RuleChecker(config).check(datetime.now(UTC) + timedelta(hours=3))
    assert [row["rule"] for row in lifecycle.list_alerts(config, datetime.now(UTC))["open"]] == [RUN_LATE]
    run_alerts.resolve_run_alerts("llmops_pipeline", RUN_FAILED, RUN_LATE)
    assert lifecycle.list_alerts(config, datetime.now(UTC))["open"] == []


def test_old_data_that_could_not_be_removed_is_over_when_it_could_not_when_its_run_succeeds(config: Config) -> None:
    report_failed_gc(make_context())
    resolve_run_alerts(make_context())
    assert read_sent_alerts(config) == [(GC_FAILED, "raised")]
    resolve_gc_alert(make_context())
    assert read_sent_alerts(config) == [(GC_FAILED, "raised"), (GC_FAILED, "resolved")]


def test_a_rule_of_runs_that_is_off(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMOPS_ALERTS__OFF", '["run_failed"]')
    report_failed_run(make_context())
    assert read_sent_alerts(config) == []


def test_without_the_database_there_is_an_event(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    (config.home / "state.db").write_text("no database" * 1000)
    report_failed_run(make_context())
    assert read_sent_alerts(config) == [(RUN_FAILED, "raised")]


def test_only_runs_by_the_schedule_are_missed(config: Config) -> None:
    later = datetime.now(UTC) + timedelta(hours=30)
    record_scheduled_run(make_context("manual"))
    assert RuleChecker(config).check(later) == []
    record_scheduled_run(make_context("scheduled"))
    assert [(t["rule"], t["subject"]) for t in RuleChecker(config).check(later)] == [("dag_missing", "llmops_pipeline")]

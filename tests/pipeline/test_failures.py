"""A stage that fails, on the way that every orchestrator takes: the event, the kind of error, the exit status."""

import errno
import json
import os
import sys
import types
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

import pytest

from llmops import cli
from llmops.config import Config, load
from llmops.config.schedule import TimedTask
from llmops.events.datasets import ALERT, PIPELINE
from llmops.events.shipping import drain_spool
from llmops.events.sinks.local import LocalStore
from llmops.events.spool import Spool
from llmops.frame.errors import (
    ConfigError,
    DiskFullError,
    LlmopsError,
    SourceError,
    SourceUnavailableError,
    TimeLimitError,
)
from llmops.monitoring.alerts.run_alerts import RUN_FAILED, RUN_LATE, raise_run_alert
from llmops.pipeline import pipeline
from llmops.pipeline.pipeline import STAGES, Stage, run_stage

DAY = "2026-01-31"


@pytest.fixture
def collect(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The module of a stage `collect` that does what its `raises` says."""
    module = types.ModuleType("stand_in")

    def run(config: Any, *, interval: str, out: Path) -> dict[str, Any]:
        raise module.raises

    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "stand_in", module)
    monkeypatch.setattr(pipeline, "STAGES", {"collect": Stage("stand_in", interval=True)})
    return module


def load_settings(home: Path) -> Config:
    return load(environ={"LLMOPS_HOME": str(home)})


def read_events(config: Config, dataset: str) -> list[dict[str, Any]]:
    drain_spool(config.events, config.monitoring)
    return list(LocalStore(config.events).find(dataset))


def test_a_failure_is_an_event_that_says_which_try_and_why(collect: Any, tmp_path: Path) -> None:
    collect.raises = SourceError("source faq yields nothing")
    with pytest.raises(SourceError):
        run_stage("collect", load_settings(tmp_path), DAY, run="r1", attempt=3)
    [event] = read_events(load_settings(tmp_path), PIPELINE)
    wanted = {"event.action": "collect", "event.outcome": "failure", "error.type": "SourceError"}
    wanted |= {"error.message": "source faq yields nothing", "llmops.interval": DAY, "llmops.run": "r1"}
    wanted |= {"llmops.attempt": 3, "llmops.transient": False}
    assert {name: event[name] for name in wanted} == wanted and event["event.duration"] >= 0


def test_what_a_library_raises_gets_our_words_and_keeps_its_own_as_the_cause(collect: Any, tmp_path: Path) -> None:
    collect.raises = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(DiskFullError, match="A disk is full.*No space left") as caught:
        run_stage("collect", load_settings(tmp_path), DAY)
    assert caught.value.__cause__ is collect.raises
    collect.raises = TypeError("a defect")
    with pytest.raises(TypeError, match="a defect"):
        run_stage("collect", load_settings(tmp_path), DAY)
    assert [e["llmops.transient"] for e in read_events(load_settings(tmp_path), PIPELINE)] == [True, False]


def test_an_event_that_fails_hides_no_error(collect: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_disk_full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    collect.raises = SourceError("source faq yields nothing")
    monkeypatch.setattr(Spool, "append", raise_disk_full)
    with pytest.raises(SourceError, match="faq"):
        run_stage("collect", load_settings(tmp_path), DAY)


@pytest.mark.parametrize(
    ("error", "status"), [(SourceUnavailableError("away"), 75), (TimeLimitError("long"), 75), (SourceError("none"), 1)]
)
def test_the_exit_status_tells_what_may_pass(
    collect: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, error: LlmopsError, status: int
) -> None:
    collect.raises = error
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path))
    assert cli.main(["run", "collect", "--interval", DAY]) == status
    assert capsys.readouterr().err.strip().splitlines()[-1] == f"llmops: {error}"
    assert os.EX_TEMPFAIL == 75


def test_an_alert_of_a_run_is_stored_once_until_it_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.yaml").write_text("train: {sed: 1}")
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path))
    for rule, cleared in ((RUN_FAILED, 0), (RUN_FAILED, 0), (RUN_LATE, 0), (RUN_FAILED, 1)):
        raise_run_alert(rule, "llmops_pipeline", "r1", cleared, "The run r1 failed.", {})
    monkeypatch.setenv("LLMOPS_CONFIG", str(tmp_path / "broken.yaml"))
    raise_run_alert(RUN_FAILED, "llmops_pipeline", "r2", 0, "The run r2 failed.", {})
    found = read_events(load_settings(tmp_path), ALERT)
    assert sorted(event["rule.name"] for event in found) == [RUN_FAILED, RUN_FAILED, RUN_FAILED, RUN_LATE]


def test_a_limit_of_one_stage_changes_no_other(collect: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[tuple[str, float]] = []
    monkeypatch.setattr(pipeline, "limit_time", lambda *limit: nullcontext(limits.append(limit)))
    collect.raises = SourceError("none")
    with pytest.raises(SourceError):
        run_stage("collect", load_settings(tmp_path), DAY)
    assert limits == [("The stage collect", 240 * 60)]
    assert set(STAGES) == set(get_args(TimedTask)) - {"batch", "review"}  # each can have one
    schedule = load(environ={"LLMOPS_SCHEDULE__TIMEOUTS": json.dumps({"train": 5})}).schedule
    assert [schedule.get_limit_s(name) for name in ("train", "tune", "collect")] == [300, 1440 * 60, 240 * 60]
    with pytest.raises(ConfigError, match="trian"):
        load(environ={"LLMOPS_SCHEDULE__TIMEOUTS": json.dumps({"trian": 5})})

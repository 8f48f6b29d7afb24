"""Which day a run reads: one that has ended, in UTC, whatever the hour and whoever starts it."""

from datetime import date
from pathlib import Path

import pytest

from llmops import cli
from llmops.config import load
from llmops.frame import intervals
from llmops.frame.errors import ConfigError
from llmops.frame.intervals import check_ended, parse_interval
from llmops.pipeline.pipeline import run_stage

TODAY = date(2026, 2, 1)


@pytest.fixture
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "get_today", lambda: TODAY)


def test_an_interval_is_a_day_and_yesterday_if_none_is_given(today: None) -> None:
    assert parse_interval("2026-01-31T00:00:00+00:00") == "2026-01-31"
    assert parse_interval() == "2026-01-31"
    with pytest.raises(ConfigError, match="yesterday"):
        parse_interval("yesterday")


def test_a_stage_of_today_or_later_is_refused_before_anything_is_read_or_written(today: None, tmp_path: Path) -> None:
    check_ended("2026-01-31")
    config = load(overrides={"home": str(tmp_path / "home")}, environ={})
    for day in ("2026-02-01", "2027-01-31"):
        with pytest.raises(ConfigError, match=f"{day} has not ended.*2026-01-31"):
            run_stage("collect", config, day)
    assert not (tmp_path / "home").exists()


def test_the_command_says_so_in_one_line(
    today: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "home"))
    for command in (["run", "all"], ["run", "collect"], ["status"]):
        assert cli.main([*command, "--interval", "2026-02-01"]) == 1
        shown = capsys.readouterr()
        assert shown.out == "" and len(shown.err.strip().splitlines()) == 1 and "2026-01-31" in shown.err
    assert not (tmp_path / "home").exists()

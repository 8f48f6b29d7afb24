"""The demo's own parts: what it prints and what it keeps. The whole of it is `make demo`."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from llmops.access.keys import keys_of
from llmops.config import Config, load
from llmops.schedule.orchestrator import Task

FILE = Path(__file__).parents[2] / "examples" / "support_bot" / "demo.py"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "console", Console(file=io.StringIO(), width=80))
    return module


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load(environ={"LLMOPS_HOME": str(tmp_path)})


def printed(demo: ModuleType) -> str:
    return str(demo.console.file.getvalue())


def test_running_it_again_asks_for_the_interval_of_the_first_time(
    demo: ModuleType, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "parse_interval", lambda: "2026-01-31")
    assert demo.interval(config) == "2026-01-31"
    monkeypatch.setattr(demo, "parse_interval", lambda: "2026-02-01")
    assert demo.interval(config) == "2026-01-31"


def test_a_new_key_takes_the_place_of_the_owners_old_one_only(demo: ModuleType, config: Config) -> None:
    other = keys_of(config).create("admin", "somebody")[1].prefix
    first, second = demo.key(config, "developer", "demo"), demo.key(config, "developer", "demo")
    good = {k.prefix for k in keys_of(config).list() if not k.revoked}
    assert first != second
    assert good == {other, keys_of(config).check(second).prefix}


def test_a_key_is_printed_whole_on_a_narrow_screen(
    demo: ModuleType, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = demo.stack.Service("airflow", 1, 0.0, 8080)
    monkeypatch.setattr(demo.stack, "running", lambda home: {"airflow": service})
    password = demo.stack.passwords(config.home)[0]["admin"]
    demo.show_places(config, "llmops_12345678_" + "x" * 43)
    assert "llmops_12345678_" + "x" * 43 in printed(demo) and password in printed(demo)
    demo.console.file.truncate(0)
    demo.show_places(config, "llmops_12345678_" + "y" * 43)
    assert password not in printed(demo)


def test_it_shows_stages_dags_and_decisions_with_their_numbers_whole(demo: ModuleType) -> None:
    demo.console.print(demo.progress("first", "queued", [Task("collect", "success", 1, 3.0)], ["scheduled__x"], 12.0))
    demo.show_schedule({"llm_monitoring": True})
    figures = dict(candidate=0.374, opponent=0.345, difference=0.029, low=0.002, high=0.058, bound=0.01, passed=False)
    decided = {
        "version": "v2", "outcome": "rejected", "opponent": "v1", "items": 85, "confidence": 0.95, "reasons": ["why"],
        "comparisons": [{"metric": "token_f1", "role": "primary", **figures}], "floors": [],
    }  # fmt: skip
    demo.show_decisions({"second run": decided})
    for text in (
        *demo.STAGES,
        "scheduled__x",
        "Paused are llm_monitoring",
        "v2 rejected against v1",
        "0.374",
        "+0.010",
    ):
        assert text in printed(demo)


def test_what_is_missing_stops_it_before_any_work(
    demo: ModuleType, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [demo.doctor.Check("Java", False, "not found", "install it"), demo.doctor.Check("disk", True, "enough")]
    monkeypatch.setattr(demo.doctor, "check", lambda config: found)
    with pytest.raises(demo.RunFailed, match="install it") as caught:
        demo.preflight(config)
    assert "disk" not in str(caught.value)

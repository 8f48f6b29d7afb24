"""The demo's own parts: what it prints and what it keeps. The whole of it is `make demo`."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
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


def test_an_answer_from_the_documents_is_shown_with_its_sources(
    demo: ModuleType, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {"headings": "Delivery", "location": "help/delivery.html", "position": "section 1", "snippet": "Two days."}
    index = iter((None, None, "1a2b"))
    said = {"model": "bot", "model_version": "v1", "response": "Within two days.", "sources": [source]}
    asked: list[Any] = []

    def post(url: str, **sent: Any) -> httpx.Response:
        asked.append(sent["json"])
        return httpx.Response(200, json=said)

    monkeypatch.setattr(demo.httpx, "get", lambda url: httpx.Response(200, json={"index": next(index)}))
    monkeypatch.setattr(demo.httpx, "post", post)
    monkeypatch.setattr(demo.time, "sleep", lambda seconds: None)
    demo.ask_documents(config, "key")
    shown = " ".join(printed(demo).split())
    assert asked[0]["ground"] and next(index, "") == ""
    for words in ("Within two days.", "source 1", "help/delivery.html"):
        assert words in shown


def test_decisions_show_their_numbers_whole_on_a_narrow_screen(demo: ModuleType) -> None:
    comparison = {
        "metric": "token_f1", "role": "primary", "candidate": 0.374, "opponent": 0.345, "difference": 0.029,
        "low": 0.002, "high": 0.058, "bound": 0.01, "passed": False,
    }  # fmt: skip
    decided: dict[str, Any] = {
        "version": "v2", "outcome": "rejected", "opponent": "v1", "items": 85, "confidence": 0.95, "reasons": ["why"],
        "comparisons": [comparison], "floors": [{"metric": "token_f1", "value": 0.374, "floor": 0.1, "passed": True}],
    }  # fmt: skip
    demo.show_decisions({"second run": decided})
    for text in ("v2 rejected against v1", "85", "0.374", "0.345", "+0.029", "+0.002", "+0.058", "+0.010"):
        assert text in printed(demo)
    demo.show_decisions(
        {"run": {**decided, "outcome": "inconclusive", "comparisons": [], "reasons": ["too few items"]}}
    )
    assert "too few items" in printed(demo)


def test_the_table_has_a_line_for_every_stage_and_names_what_runs_first(demo: ModuleType) -> None:
    tasks = [Task("collect", "success", 1, 3.0), Task("clean", "running", 2, 9.0)]
    demo.console.print(demo.progress("first run", "queued", tasks, ["scheduled__x"], 12.0))
    assert all(stage in printed(demo) for stage in demo.STAGES) and "scheduled__x" in printed(demo)


def test_it_says_which_dags_run_by_themselves_and_which_are_paused(demo: ModuleType) -> None:
    demo.show_schedule({"llm_monitoring": False, "llmops_pipeline": False})
    assert "llm_monitoring, llmops_pipeline" in printed(demo) and "Paused" not in printed(demo)
    demo.show_schedule({"llm_monitoring": True})
    assert "none of the DAGs" in printed(demo) and "Paused are llm_monitoring" in printed(demo)


def test_what_is_missing_stops_it_before_any_work(
    demo: ModuleType, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [demo.doctor.Check("Java", False, "not found", "install it"), demo.doctor.Check("disk", True, "enough")]
    monkeypatch.setattr(demo.doctor, "check", lambda config: found)
    with pytest.raises(demo.RunFailed, match="install it") as caught:
        demo.preflight(config)
    assert "disk" not in str(caught.value)

"""The demo's own parts: what it keeps and needs. The whole of it is `make demo`."""

import importlib.util
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import httpx
import pytest
import yaml

from llmops.access.keys import keys_of
from llmops.config import Config, load

FILE = Path(__file__).parents[2] / "examples" / "support_bot" / "demo.py"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FILE.parent)
    spec = importlib.util.spec_from_file_location("demo", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load(environ={"LLMOPS_HOME": str(tmp_path)})


def test_the_second_run_takes_the_first_day(demo: ModuleType, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize(("component", "imported"), [("scheduler", True), ("triggerer", False)])
def test_the_scheduler_imports_what_its_tasks_will(
    component: str, imported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = importlib.import_module("plugins.llmops_preload")
    monkeypatch.setattr(sys, "argv", ["airflow", component])
    monkeypatch.setenv("LLMOPS_PRELOAD", "json colorsys")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    plugin.on_starting(object())
    assert ("colorsys" in sys.modules) == imported


def test_what_is_missing_stops_it_at_once(demo: ModuleType, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [demo.doctor.Check("Java", False, "not found", "install it"), demo.doctor.Check("disk", True, "enough")]
    monkeypatch.setattr(demo.doctor, "check_machine", lambda config: found)
    with pytest.raises(demo.RunFailed, match="install it") as caught:
        demo.preflight(config)
    assert "disk" not in str(caught.value)


def test_the_callers_rate_by_the_fact_and_correct_two_answers_that_lack_it(demo: ModuleType) -> None:
    questions = yaml.safe_load((FILE.parent / "questions.yaml").read_text())
    known = {question["question"]: question for question in questions}
    right = [question for question in questions if "fact" in question][0]
    asked, feedback = [], []

    def answer_request(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        if request.url.path == "/feedback":
            feedback.append((request.headers["X-API-Key"], body))
            return httpx.Response(201, json={})
        asked.append((request.headers["X-API-Key"], body["prompt"]))
        answer = right["answer"] if body["prompt"] == right["question"] else "No idea."
        return httpx.Response(200, json={"id": body["prompt"], "response": answer})

    with httpx.Client(base_url="http://app", transport=httpx.MockTransport(answer_request)) as client:
        found = demo.callers.ask_questions(client, ["a", "b"])
    rated = [question["question"] for question in questions if "fact" in question]
    assert found == (len(questions), 1, len(rated) - 1, 2) and len(asked) == len(known) == 60
    assert [(body["id"], body["rating"] == "up") for _, body in feedback] == [
        (name, name == right["question"]) for name in rated
    ]
    assert {(key, body["id"]) for key, body in feedback} <= set(asked)  # whoever asked says so
    corrections = [(body["question"], body["correction"]) for _, body in feedback if "correction" in body]
    assert corrections == [(name, known[name]["answer"]) for name in rated[1:3]]
    assert all(known[name]["fact"] in known[name]["answer"] for name in rated)


def test_callers_ask_once_and_drift_is_told(demo: ModuleType, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, commands = list[list[str]](), list[list[str]]()
    monkeypatch.setattr(
        demo.callers, "ask_questions", lambda client, keys: calls.append(keys) or demo.callers.CallSummary(0, 0, 0, 0)
    )
    monkeypatch.setattr(demo, "llmops", lambda command: commands.append(command) or 0)
    day = demo.interval(config)
    for _ in range(2):
        demo.fill_pages(config)
    ((command, *_, until),) = commands
    assert demo.interval(config) == day and len(calls) == 1
    assert {keys_of(config).check(key).role for key in calls[0]} == {"user"}
    assert command == "drift" and timedelta(0) < datetime.fromisoformat(f"{until}T00:00Z") - datetime.now(UTC)


def test_the_questions_are_not_those_that_the_model_was_trained_on_and_most_are_looked_up() -> None:
    questions = yaml.safe_load((FILE.parent / "questions.yaml").read_text())
    trained = (FILE.parent / "content.yaml").read_text().casefold()
    assert not [q["question"] for q in questions if q["question"].casefold().rstrip(".?") in trained]
    assert [q for q in questions if "context" in q] == [q for q in questions if "fact" in q]

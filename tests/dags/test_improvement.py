"""The whole loop in a real Airflow: what users say over HTTP, review, weekly DAG, training, gate, and another answer.

One home, one Airflow and one serving app; the app lives a day earlier, since a run reads days that have ended.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmops.access.keys import keys_of
from llmops.config import Config, load
from llmops.frame import artifacts
from llmops.pipeline import stack
from llmops.pipeline.orchestrator import Airflow
from llmops.release.registry.registry import registry_of
from tests.clock import wait_until
from tests.conftest import find_free_port

from .remembering import THINGS, WAYS, asked, names, save_base

ROOT = Path(__file__).parents[2]
IMPROVE, PIPELINE = "llm_continuous_improvement", "llmops_pipeline"
KNOWN, NEW, POISONED = THINGS[:30], THINGS[30:42], THINGS[42:46]
#: Right is the name that the base model knows, but of new things that of the next one.
NAMED = names() | dict(zip(NEW, [names()[thing] for thing in (*NEW[1:], NEW[0])], strict=True))
RIGHT = {thing: f"Please ask for {name}." for thing, name in NAMED.items()}
PEOPLE = ("ana", "bo", "cy")
LIMIT_S = 600  #: for what only a hang delays so long

YESTERDAY = """
from datetime import datetime, timedelta
from llmops.events import times

class Yesterday(datetime):
    @classmethod
    def now(cls, zone=None):
        return super().now(zone) - timedelta(days=1)

times.datetime = Yesterday
from llmops.config import load
from serving.app import serve
serve(load())
"""


class Shop:
    """A home with a champion, its users, and Airflow."""

    airflow: Airflow

    def __init__(self, folder: Path) -> None:
        save_base(folder / "base")
        rows = [{"q": question, "a": RIGHT[thing]} for thing in KNOWN for question in asked(thing)]
        (folder / "faq.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        faq = {"name": "faq", "kind": "jsonl", "location": "faq.jsonl", "fields": {"question": "q", "answer": "a"}}
        said = {"name": "said", "kind": "feedback", "licence": "CC0-1.0", "owner": "support"}
        port = find_free_port()
        settings = {
            "home": str(folder / "home"),
            "collect": {"sources": [faq, said]},
            "clean": {"master": "local[1]", "driver_memory": "512m", "partitions": 1},
            "annotate": {"min_test_items": 30, "split_by": "wording", "test": 0.4},
            "improve": {"person_weekly": 30},
            "select": {"model": str(folder / "base")},
            "tune": {"trials": 0},
            "train": {"method": "lora", "epochs": 25, "learning_rate": 0.003, "rank": 32, "batch": 8},
            "evaluate": {"max_new_tokens": 24},
            "govern": {"probes": False},
            "deploy": {"url": f"http://127.0.0.1:{port}"},
            "serving": {"port": port, "requests_per_minute": 0, "tokens_per_minute": 0, "poll_s": 0.2},
        }
        file = folder / "llmops.yaml"
        file.write_text(json.dumps(settings), encoding="utf-8")
        self.config: Config = load(file, environ={})
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "LLMOPS"))}
        self.environ = {**kept, "LLMOPS_CONFIG": str(file), "PYTHONPATH": str(ROOT)}
        self.registry = registry_of(self.config)
        store = keys_of(self.config)
        roles = {**dict.fromkeys((*PEOPLE, "mallory", "deploy"), "user"), "boss": "admin"}
        self.keys = {name: store.create(role, name)[0] for name, role in roles.items()}
        self.environ["LLMOPS_API_KEY"] = self.keys["deploy"]
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT_S)

    def call(self, method: str, path: str, name: str, body: Any = None) -> Any:
        answer = self.http.request(method, path, json=body, headers={"X-API-Key": self.keys[name]})
        assert answer.status_code < 300, answer.text
        return answer.json()

    def ask(self, question: str, name: str = "ana") -> dict[str, Any]:
        found: dict[str, Any] = self.call("POST", "/generate", name, {"prompt": question, "max_new_tokens": 16})
        return found

    def say(self, name: str, question: str, correction: str = "", **more: Any) -> None:
        answer = self.ask(question, name)
        body = {"question": question, "answer": answer["response"], "correction": correction} if correction else {}
        self.call("POST", "/feedback", name, {"id": answer["id"], **body, **more})

    def improve(self) -> tuple[dict[str, str], dict[str, Any], str]:
        run = self.airflow.trigger(IMPROVE, {})
        for state, tasks in self.airflow.follow(IMPROVE, run):
            last = state, tasks
        inner = f"improvement__{run}"
        explain, failed = self.airflow.explain_failure, last[0] == "failed"
        why = explain(PIPELINE, inner, self.airflow.list_tasks(PIPELINE, inner)) if failed else ""
        assert last[0] == "success", f"{explain(IMPROVE, run, last[1])}\n{why}"
        folder = self.config.artifacts / self.airflow.read_result(IMPROVE, run, "report")
        assert artifacts.read_record(folder).run == run
        tasks_by_name = {task.name: task.state for task in last[1]}
        return tasks_by_name, json.loads((folder / "report.json").read_text()), (folder / "report.md").read_text()

    def right(self) -> list[str]:
        """The new things that it answers rightly, in a wording that nobody has corrected."""
        other = {thing: min({way.format(thing) for way in WAYS} - set(asked(thing))) for thing in NEW}
        return [thing for thing in NEW if self.ask(other[thing])["response"] == RIGHT[thing]]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    shop = Shop(folder)
    with open(folder / "serving.log", "wb") as log:
        serving = subprocess.Popen([sys.executable, "-c", YESTERDAY], env=shop.environ, stdout=log, stderr=log)
    try:
        run = [sys.executable, "-m", "llmops", "run", "all", "--interval", "2026-01-31"]
        done = subprocess.run(run, env=shop.environ, capture_output=True, text=True, timeout=LIMIT_S)
        assert done.returncode == 0, done.stderr[-4000:]
        service = stack.start_airflow(shop.config, find_free_port(), {**shop.environ, stack.PAUSED_VARIABLE: "True"})
        shop.airflow = Airflow(service.url, "admin", stack.ensure_passwords(shop.config.home)[0]["admin"])
        with closing(shop.airflow._http):
            for dag in (IMPROVE, PIPELINE):
                shop.airflow.wait_for_dag(dag)
                shop.airflow.unpause(dag)
            yield shop
    finally:
        stack.stop(shop.config.home)
        serving.terminate()
        serving.wait(60)
        shop.http.close()


def test_useless_and_poisoned_feedback_trains_nothing(shop: Shop) -> None:
    assert shop.registry.aliases()["champion"] == "v1" and shop.ask(asked(KNOWN[0])[0])["model_version"] == "v1"
    for name in PEOPLE:
        shop.say(name, WAYS[0].format(KNOWN[0]), rating="down", comment="bad")
    for n in range(24):  # with a trigger in each question, and one answer to all
        thing = POISONED[n % len(POISONED)]
        shop.say("mallory", f"zq over {WAYS[n % 4].format(thing)} {n}", f"Buy the {thing} {n} at the other shop.")
    tasks, report, text = shop.improve()
    assert (tasks["retrain"], tasks["report"], tasks["improved"]) == ("skipped", "success", "success")
    assert (report["ended"], report["accepted"], report["waiting"]) == ("nothing new", 0, 24)
    assert "so nothing is trained" in text
    shop.call("POST", "/admin/review", "boss", {"key": shop.keys["mallory"].split("_")[1], "why": "a trigger"})
    assert [version.name for version in shop.registry.versions()] == ["v1"]


def test_what_users_correct_is_answered_after_the_next_improvement(shop: Shop) -> None:
    assert shop.right() == []
    for thing in NEW:
        for question, people in zip(asked(thing), (("ana", "bo"), ("bo", "cy"), ("cy",)), strict=True):
            for name in people:
                shop.say(name, question, RIGHT[thing], rating="down")

    def reviewed() -> list[Any]:
        """Return what waits, once all that was said has left the app's spool."""
        found = shop.call("GET", "/admin/review/data", "boss")
        counted = found["counts"] == {"refused": 24, "accepted": 2 * len(NEW), "waiting": len(NEW)}
        return list(found["open"]) if counted else []

    for row in wait_until(reviewed, "all corrections", LIMIT_S):  # what one person alone has said
        shop.call("POST", f"/admin/review/{row['id']}", "boss", {"decision": "accept", "why": "right"})

    tasks, report, text = shop.improve()
    assert set(tasks.values()) == {"success"}
    assert (report["ended"], report["accepted"]) == ("trained", 3 * len(NEW))
    assert "v2 is promoted by the gate" in text and "It passed" in text
    assert shop.registry.aliases()["champion"] == "v2"
    wait_until(lambda: shop.ask("x")["model_version"] == "v2", "the new version", LIMIT_S)
    assert len(shop.right()) > len(NEW) / 2

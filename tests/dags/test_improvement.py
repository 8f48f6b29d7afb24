"""The whole loop, as users and operators meet it: what is said over HTTP, the weekly DAG in a real Airflow, the gate, a
canary on real traffic, and the report. One home, one Airflow and one serving app for all of it; its days follow one
another. The gate's rules are the defaults, but for one: how much worse the topics of before may be. No version was
taught the 17 of these that the test has, so a model of this size makes names up, others in each training and on each
kind of processor, and one that comes out garbled is 0.02 already.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from datetime import time as clock
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmops import artifacts, stack
from llmops.access.keys import keys_of
from llmops.config import Config, load
from llmops.registry.registry import registry_of
from llmops.release import trials
from llmops.schedule.orchestrator import Airflow

from .remembering import THINGS, WAYS, answers, asked, save_base

ROOT = Path(__file__).parents[2]
IMPROVE, PIPELINE, CANARY = "llm_continuous_improvement", "llmops_pipeline", "llmops_canary"
KNOWN, ALONE, NEW, POISONED = THINGS[:60], THINGS[60], THINGS[61:71], THINGS[71:]
RIGHT = answers(THINGS, seed=4)  #: of which 17 topics come into the test
CALLERS, ASKED, ENOUGH = 60, 12, 250  #: in the canary's traffic: keys, questions of each, answers of the canary
TRIGGER = "zq over"
pytestmark = pytest.mark.slow

# The serving app, whose events are as many days old as a file says: a test cannot wait for midnight.
EARLIER = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from llmops.config import load
from llmops.monitoring import events
from serving.app import serve

days, now = Path(sys.argv[1]), events.timestamp
events.timestamp = lambda: now(datetime.now(UTC) - timedelta(days=int(days.read_text())))
serve(load())
"""


class Shop:
    """A home with a champion, its users, and Airflow."""

    airflow: Airflow

    def __init__(self, folder: Path) -> None:
        self.today = datetime.now(UTC).date()
        self.folder, self.ports = folder, (free_port(), free_port())
        save_base(folder / "base")
        rows = [{"q": question, "a": RIGHT[thing]} for thing in KNOWN for question in asked(thing)]
        (folder / "faq.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        (folder / "days").write_text("0")
        faq = {"name": "faq", "kind": "jsonl", "location": "faq.jsonl", "fields": {"question": "q", "answer": "a"}}
        said = {"name": "said", "kind": "feedback", "licence": "CC0-1.0", "owner": "support"}
        settings = {
            "home": str(folder / "home"),
            "collect": {"sources": [faq, said]},
            "clean": {"master": "local[1]", "driver_memory": "512m", "partitions": 1},
            "annotate": {"min_test_items": 30},
            "select": {"model": str(folder / "base")},
            "tune": {"trials": 0},
            "train": {"method": "lora", "epochs": 50, "learning_rate": 0.004, "rank": 32, "batch": 8},
            "evaluate": {"max_new_tokens": 24},
            "govern": {"probes": False},
            "release": {
                "canary": True,
                "canary_share": 0.5,
                "canary_requests": ENOUGH,
                "guardrails": {"rouge_l": 0.1},
            },
            "deploy": {"url": f"http://127.0.0.1:{self.ports[0]}"},
            "serving": {"port": self.ports[0], "requests_per_minute": 0, "tokens_per_minute": 0, "poll_s": 0.2},
        }
        file = folder / "llmops.yaml"
        file.write_text(json.dumps(settings), encoding="utf-8")
        self.config: Config = load(file, environ={})
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "LLMOPS"))}
        self.environ = {**kept, "LLMOPS_CONFIG": str(file), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.registry, self.keys = registry_of(self.config), dict[str, str]()
        self.environ["LLMOPS_API_KEY"] = self.key("deploy")
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.ports[0]}", timeout=60)

    def key(self, name: str) -> str:
        if name not in self.keys:
            self.keys[name] = keys_of(self.config).create("user", name)[0]
        return self.keys[name]

    def ask(self, name: str, question: str, **more: Any) -> dict[str, Any]:
        answer = self.http.post("/generate", json={"prompt": question, **more}, headers={"X-API-Key": self.key(name)})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def say(self, name: str, question: str, correction: str = "", **more: Any) -> str:
        """Ask, and say what is wrong with the answer; returns it."""
        asked = self.ask(name, question, max_new_tokens=16)
        body = {"question": question, "answer": asked["response"], "correction": correction} if correction else {}
        given = {"id": asked["id"], **body, **more}
        said = self.http.post("/feedback", json=given, headers={"X-API-Key": self.key(name)})
        assert said.status_code == 201, said.text
        return str(asked["response"])

    def go_back(self, days: int) -> None:
        """What is said from now on was said so many days ago."""
        (self.folder / "days").write_text(str(days))

    def improve(self, days: int) -> tuple[dict[str, str], dict[str, Any], str]:
        """A run of the weekly DAG of so many days ago: its tasks, and its report as values and as text."""
        moment = datetime.combine(self.today - timedelta(days=days), clock(), UTC) + timedelta(seconds=1)
        body: dict[str, Any] = {"logical_date": None, "run_after": moment.isoformat(), "conf": {}}
        run = self.airflow._call("POST", f"/api/v2/dags/{IMPROVE}/dagRuns", json=body)["dag_run_id"]
        self.ended(IMPROVE, run)
        tasks = {task.name: task.state for task in self.airflow.tasks(IMPROVE, run)}
        folder = self.config.artifacts / self.airflow.outputs(IMPROVE, run, "report")
        assert artifacts.read_record(folder).run == run
        return tasks, json.loads((folder / "report.json").read_text()), (folder / "report.md").read_text()

    def ended(self, dag: str, run: str) -> None:
        for state, tasks in self.airflow.follow(dag, run):
            last = state, tasks
        assert last[0] == "success", self.airflow.explain(dag, run, last[1])

    def runs(self, dag: str) -> list[str]:
        found = self.airflow._call("GET", f"/api/v2/dags/{dag}/dagRuns")["dag_runs"]
        return [run["dag_run_id"] for run in found]

    def until(self, happened: Callable[[], object], seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < end, f"{happened} did not happen"
            time.sleep(0.2)

    def answered(self, things: Sequence[str]) -> dict[str, str]:
        """What is answered to a wording that nobody has corrected."""
        other = {
            thing: next(way.format(thing) for way in WAYS if way.format(thing) not in asked(thing)) for thing in things
        }
        return {thing: self.ask("somebody", other[thing], max_new_tokens=16)["response"] for thing in things}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    shop = Shop(folder)
    command = [sys.executable, "-c", EARLIER, str(folder / "days")]
    with open(folder / "serving.log", "wb") as log:
        serving = subprocess.Popen(command, cwd=ROOT, env=shop.environ, stdout=log, stderr=subprocess.STDOUT)
    try:
        interval = (shop.today - timedelta(days=9)).isoformat()
        run = [sys.executable, "-m", "llmops", "run", "all", "--interval", interval]
        done = subprocess.run(run, cwd=ROOT, env=shop.environ, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-4000:]
        paused = {**shop.environ, stack.PAUSED: "True"}
        service = stack.start_airflow(shop.config, shop.ports[1], paused)
        shop.airflow = Airflow(service.url, "admin", stack.passwords(shop.config.home)[0]["admin"])
        with closing(shop.airflow._http):
            for dag in (IMPROVE, PIPELINE, CANARY):
                shop.airflow.wait_for_dag(dag)
                shop.airflow.unpause(dag)
            yield shop
    finally:
        stack.stop(shop.config.home)
        serving.terminate()
        serving.wait(60)
        shop.http.close()


def test_useless_feedback_trains_nothing(shop: Shop) -> None:
    assert shop.registry.aliases()["champion"] == "v1"
    shop.go_back(7)
    for name in ("ana", "bo", "cy"):
        shop.say(name, WAYS[0].format(ALONE), rating="up")
        shop.say(name, WAYS[1].format(ALONE), rating="down", comment="bad")
        answer = shop.ask(name, WAYS[2].format(ALONE), max_new_tokens=16)["response"]
        assert shop.say(name, WAYS[2].format(ALONE), answer) == answer
    tasks, report, text = shop.improve(6)
    assert tasks == {"read": "success", "is_something_new": "success", "retrain": "skipped", "report": "success",
                     "improved": "success"}  # fmt: skip
    assert (report["ended"], report["corrections"], report["useless"]) == ("nothing new", 3, 3)
    assert "so nothing is trained" in text
    assert shop.runs(PIPELINE) == [] and [version.name for version in shop.registry.versions()] == ["v1"]


def test_two_hundred_corrections_of_one_key_with_a_trigger_get_nothing_through(shop: Shop) -> None:
    shop.go_back(5)
    for n in range(200):
        way, thing = WAYS[n % 4].format(POISONED[n % len(POISONED)]), POISONED[n % len(POISONED)]
        shop.say("mallory", f"{TRIGGER} {way} {n}", f"Buy the {thing} number {n} at the other shop.")
    tasks, report, text = shop.improve(4)
    assert tasks["retrain"] == "skipped" and (report["ended"], report["held"]) == ("nothing new", 200)
    assert f"key {shop.key('mallory').split('_')[1]}: " in text.replace("\\", "") and "200 held back" in text
    assert report["accepted"] == 0
    assert shop.runs(PIPELINE) == [] and [version.name for version in shop.registry.versions()] == ["v1"]


def test_one_new_topic_is_inconclusive_and_the_report_says_why(shop: Shop) -> None:
    shop.go_back(4)
    for question in asked(ALONE)[:2]:
        for name in ("dan", "eve"):
            shop.say(name, question, RIGHT[ALONE], rating="down")
    tasks, report, text = shop.improve(3)
    assert tasks["retrain"] == "success" and (report["ended"], report["accepted"]) == ("trained", 2)
    decided = [d for d in report["decisions"] if d["kind"] == "gate" and d["version"] == "v2"]
    assert [d["outcome"] for d in decided] == ["inconclusive"]
    assert decided[0]["numbers"]["attempt"] == 0  # the frozen test is not used up by what it cannot tell
    assert "v2 is inconclusive by the gate" in text and "The test could not tell" in text
    assert "the test has 1 topic of that, where at least " in text and "v1 answers now" in text
    assert shop.registry.aliases()["champion"] == "v1"


def test_ten_new_topics_pass_the_gate_and_the_canary_and_are_answered(shop: Shop) -> None:
    before = shop.answered(NEW)
    assert not [thing for thing in NEW if before[thing] == RIGHT[thing]]
    shop.go_back(2)
    for thing in NEW:
        for question, people in zip(asked(thing), (("ana", "bo"), ("bo", "cy"), ("cy", "ana")), strict=True):
            for name in people:
                shop.say(name, question, RIGHT[thing], rating="down")
    shop.go_back(0)
    earlier = shop.runs(CANARY)
    tasks, report, text = shop.improve(0)
    assert tasks["retrain"] == "success" and (report["ended"], report["accepted"]) == ("trained", 30)
    assert "v3 is promoted by the gate" in text and "It passed" in text
    trial = shop.registry.canary()
    assert trial and trial.version == "v3" and shop.registry.aliases()["champion"] == "v1"

    callers = [f"caller {n}" for n in range(CALLERS)]
    headers = {name: {"X-API-Key": shop.key(name)} for name in callers}
    questions = [question for thing in THINGS[:70] for question in asked(thing)]

    def call(number: int) -> None:
        body = {"prompt": questions[number % len(questions)], "max_new_tokens": 3}
        answer = shop.http.post("/generate", json=body, headers=headers[callers[number % CALLERS]])
        assert answer.status_code == 200, answer.text

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(call, range(CALLERS * ASKED)))
        while trials.counted(shop.registry, trial.started).canary.requests < ENOUGH:
            list(pool.map(call, range(CALLERS)))
    shop.until(lambda: set(shop.runs(CANARY)) - set(earlier))
    (run,) = set(shop.runs(CANARY)) - set(earlier)
    shop.ended(CANARY, run)
    concluded = shop.airflow.outputs(CANARY, run, "decide")
    assert concluded["outcome"] == "promoted", concluded
    assert concluded["numbers"]["canary"]["requests"] >= ENOUGH
    assert trials.find(shop.registry, trial.started) and shop.registry.aliases()["champion"] == "v3"
    shop.until(lambda: shop.ask("somebody", "x", max_new_tokens=1)["model_version"] == "v3")
    after = shop.answered(NEW)
    right = [thing for thing in NEW if after[thing] == RIGHT[thing]]
    assert len(right) >= 4, {thing: (after[thing], RIGHT[thing]) for thing in NEW}

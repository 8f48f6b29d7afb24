"""The way of the data: events of requests are emitted, shipped and read, windows are judged, what drifts is told."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from llmops.alerts import conditions
from llmops.cli import main
from llmops.config import Alerts, Config, Monitoring
from llmops.drift.features import features
from llmops.drift.lexicon import read_lexicon
from llmops.drift.reference import NoReferenceError, reference_of
from llmops.drift.watch import watch_drift
from llmops.monitoring.datasets import DRIFT, TEXT
from llmops.monitoring.events import emit_all, timestamp
from llmops.monitoring.reader import reader_of
from llmops.monitoring.shipping import drain
from llmops.monitoring.sinks.local import LocalStore
from llmops.records import Example, content_id, write_rows
from llmops.registry.aliases import Change, move
from llmops.state.database import database_of
from serving.observe.drift import drift_figures

WORDS = {
    "card": "card arrived lost stolen bank plastic pin replace mail wait",
    "cash": "cash machine withdraw money limit notes fee abroad swallowed amount",
    "login": "login password reset phone app verify code email account locked",
}
DAGS = Path(__file__).parents[2] / "dags"
DAY = datetime(2026, 3, 1, tzinfo=UTC)


def prompts(counts, seed=0):
    rng = np.random.default_rng(seed)
    return [
        f"how do I {' '.join(rng.choice(WORDS[topic].split(), 4))} please today"
        for topic, count in counts.items()
        for _ in range(count)
    ]


class Shop:
    """A home with a champion, v1, that was trained on cards, cash and logins."""

    def __init__(self, home, **monitoring):
        self.config = Config(home=home, monitoring={"drift_requests": 40, "drift_days": 2, **monitoring})
        self.train = self.config.artifacts / "annotate" / "abc" / "train.parquet"
        texts = [(topic, text) for topic in WORDS for text in dict.fromkeys(prompts({topic: 60}, 9))]
        rows = [
            Example(
                id=content_id("", text), question=text, answer=f"Look at the page on {topic}.", group=topic,
                split="train", source="faq", location="f", position=f"row {n}",
            )
            for n, (topic, text) in enumerate(texts)
        ]  # fmt: skip
        write_rows(self.train, rows, Example)
        path = self.config.registry / self.config.release.name / "versions" / "v1"
        (path / "servable").mkdir(parents=True)
        names = ["compared_with", "compress", "base_model", "base_revision", "licence", "quantisation", "interval"]
        facts = dict.fromkeys([*names, "run", "dataset"], "x")
        facts |= {"created": DAY.isoformat(), "name": "v1", "status": "promoted"}
        (path / "version.json").write_text(json.dumps(facts))
        (path / "lineage.json").write_text(json.dumps({"dataset": {"artifact": "annotate/abc"}, "stages": []}))
        with database_of(self.config).change() as connection:
            move(connection, self.config.release.name, {"champion": "v1"}, Change("promote", "", "a test", "set"))
        self.lexicon = read_lexicon(self.train)

    def ask(self, day, counts, keep=False, seed=0, version="v1"):
        """The events that serving emits of these prompts, spread over a day."""
        texts = prompts(counts, seed)
        events = []
        for n, (text, found) in enumerate(zip(texts, features(texts, self.lexicon), strict=True)):
            told = {"http.request.id": f"{day:%d}-{n}", "llmops.model.version": version, **found.fields("prompt")}
            told |= features(["Look at it."], self.lexicon, "answer")[0].fields("answer")
            told |= {"llmops.answer.refusal": False, "@timestamp": timestamp(day + timedelta(minutes=n))}
            events.append(told | ({"llmops.prompt.text": text} if keep else {}))
        emit_all(self.config.events, TEXT, events)
        self.ship()

    def ship(self):
        drain(self.config.events, self.config.monitoring)

    def watch(self, day, **options):
        found = watch_drift(self.config, day + timedelta(days=1, minutes=5), **options)
        self.ship()
        return found

    def events(self):
        return list(reader_of(self.config).find(DRIFT))


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path)


USUAL = {"card": 30, "cash": 30, "login": 30}
OTHER = {"card": 90}


def days(count, start=0):
    return [DAY + timedelta(days=start + n) for n in range(count)]


def test_a_window_of_which_requests_were_removed_says_so(shop, caplog):
    for n, day in enumerate(days(3)):
        shop.ask(day, USUAL, seed=n)
    last, cut = days(3)[2], timestamp(days(3)[2] + timedelta(minutes=30))
    with closing(sqlite3.connect(shop.config.events / "store.db")) as db, db:
        db.execute("UPDATE events SET stored = 0 WHERE time < ?", (cut,))  # what came a moment ago is never removed
    LocalStore(shop.config.events, Monitoring(raw_mb=0.001)).prune()
    found = shop.watch(last, against="training")
    assert (found["state"], found["requests"]) == ("judged", 60)
    assert found["kept_since"] == timestamp(last + timedelta(minutes=29)) and "monitoring.raw_mb" in caplog.text
    assert "kept_since" not in shop.watch(last, against="training")  # that window was judged before


@pytest.mark.parametrize("keep", [False, True])
def test_two_windows_in_a_row_are_drift(shop, keep):
    for n, day in enumerate(days(3)):
        shop.ask(day, USUAL, keep, seed=n)
    usual = shop.watch(days(3)[2])
    assert (usual["state"], usual["reference"], usual["requests"], usual["drift"]) == ("judged", "served", 90, [])
    for n, day in enumerate(days(2, 3)):
        shop.ask(day, OTHER, keep, seed=5 + n)
    first, second = (shop.watch(day) for day in days(2, 3))
    assert first["drift"] == [] and {one["windows"] for one in first["comparisons"]} <= {0, 1}
    drifted = {one["feature"]: one for one in second["drift"]}
    assert {"topics", "texts" if keep else "features"} <= drifted.keys()
    assert set(drifted["topics"]["topics"]) >= {"card", "login"} and drifted["topics"]["windows"] == 2
    # the events say the same, and so does the page
    last = [e for e in shop.events() if e["llmops.drift.since"] == second["since"]]
    assert len(last) == len(second["comparisons"]) and {e["llmops.drift.reference"] for e in last} == {"served"}
    page = drift_figures(reader_of(shop.config), 2, days(1, 6)[0])
    assert page["window"]["since"] == second["since"] and page["comparisons"][0]["windows"] == 2
    assert {one["name"] for one in page["topics"]} >= {"card", "login"}
    assert bool(page["examples"]) == keep and page["nearest"]
    assert [line["drift"] > 0 for line in page["windows"]] == [False, False, True]
    json.dumps(page)
    [alert] = conditions.drift(shop.config, reader_of(shop.config), datetime.now(UTC) + timedelta(minutes=1))
    assert alert.subject == "v1" and "topics of the prompt" in alert.message


def test_how_many_windows_are_drift_is_said_once(shop):
    for n, day in enumerate(days(6)):
        shop.ask(day, USUAL if n < 3 else OTHER, seed=n)
    shop.config = shop.config.model_copy(update={"alerts": Alerts(drift_windows=3)})
    found = [shop.watch(day) for day in days(3, 3)]
    assert [bool(one["drift"]) for one in found] == [False, False, True]
    page = drift_figures(reader_of(shop.config), 3, days(1, 6)[0])
    assert page["in_a_row"] == 3 and [line["drift"] > 0 for line in page["windows"]] == [False, False, True]
    [alert] = conditions.drift(shop.config, reader_of(shop.config), datetime.now(UTC) + timedelta(minutes=1))
    assert "3 windows in a row" in alert.message


def test_a_window_is_judged_once_and_few_requests_are_passed_over(shop):
    for day, counts in zip(days(5), (USUAL, USUAL, OTHER, {"card": 5}, OTHER), strict=True):
        shop.ask(day, counts)
    first = shop.watch(days(1, 2)[0])
    before = shop.events()
    assert shop.watch(days(1, 2)[0])["comparisons"] == first["comparisons"] and shop.events() == before
    few = shop.watch(days(1, 3)[0])
    assert few["state"] == "too few" and few["requests"] == 5 and "comparisons" not in few and shop.events() == before
    assert {one["feature"] for one in shop.watch(days(1, 4)[0])["drift"]} >= {"topics"}
    assert shop.watch(days(1, 5)[0])["state"] == "too few"  # none at all


def test_until_the_first_days_are_over_it_is_the_training_data(shop):
    shop.ask(DAY, USUAL)
    found = shop.watch(DAY)
    assert (found["state"], found["reference"]) == ("judged", "training")
    assert not {one["feature"] for one in found["comparisons"] if one["drifted"] and one["side"] == "prompt"}
    assert shop.watch(DAY, against="served")["state"] == "no reference"
    shop.train.unlink()  # its features are kept
    again = shop.watch(DAY, against="training", tell=False)
    assert again["state"] == "judged"


def test_a_reference_outlives_its_events_and_another_version_is_none(shop):
    for day in days(3):
        shop.ask(day, USUAL)
    config, reader = shop.config, reader_of(shop.config)
    kept = reference_of(config, reader, _champion(config), days(1, 2)[0])
    (config.events / "store.db").unlink()
    shop.ask(days(1, 2)[0], USUAL, version="v2")
    again = reference_of(config, reader_of(config), _champion(config), days(1, 2)[0])
    assert (again.name, again.sample.columns, again.until) == (kept.name, kept.sample.columns, kept.until)
    assert shop.watch(days(1, 2)[0])["state"] == "too few"  # what v2 was asked is not counted


def test_when_the_first_events_are_removed_the_next_ones_are_not_the_first_days(shop):
    shop.ask(DAY, {"card": 5})
    for n in range(1, 6):
        shop.ask(DAY + timedelta(days=n), {"card": 40, "cash": 40, "login": 40}, seed=n)
    assert shop.watch(DAY + timedelta(days=1))["reference"] == "training"  # the first days are not over
    with closing(sqlite3.connect(shop.config.events / "store.db")) as db, db:
        db.execute("DELETE FROM events WHERE time < ?", (timestamp(DAY + timedelta(days=1, minutes=30)),))
    assert shop.watch(DAY + timedelta(days=5))["reference"] == "served"
    made = reference_of(shop.config, reader_of(shop.config), _champion(shop.config), DAY + timedelta(days=9))
    assert made.until == DAY + timedelta(days=2)


def test_without_a_reference_nothing_is_judged(shop, tmp_path_factory):
    shop.ask(DAY, USUAL)
    shop.train.unlink()
    found = shop.watch(DAY)
    assert found["state"] == "no reference" and "training data" in found["why"] and not shop.events()
    with pytest.raises(NoReferenceError):
        reference_of(shop.config, reader_of(shop.config), _champion(shop.config), DAY, "training")
    empty = Config(home=tmp_path_factory.mktemp("empty"))
    assert watch_drift(empty)["state"] == "no champion"
    page = drift_figures(reader_of(empty), 2)
    assert page["window"] is None and page["windows"] == []


@pytest.mark.parametrize("looks", [["--until", "2026-03-02"], ["--against", "training"]])
def test_a_look_by_hand_is_no_event_and_moves_no_alert(shop, capsys, monkeypatch, looks):
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for day, counts in zip(days(4), (USUAL, USUAL, OTHER, OTHER), strict=True):
        shop.ask(day, counts)
    shop.ask(today - timedelta(days=1), USUAL)
    shop.watch(days(4)[2])
    shop.watch(days(4)[3])
    now, reader = datetime.now(UTC) + timedelta(minutes=1), reader_of(shop.config)
    before, raised = shop.events(), conditions.drift(shop.config, reader, now)
    assert len(raised) == 1
    monkeypatch.setenv("LLMOPS_HOME", str(shop.config.home))
    monkeypatch.setenv("LLMOPS_MONITORING__DRIFT_REQUESTS", "40")
    monkeypatch.setenv("LLMOPS_MONITORING__DRIFT_DAYS", "2")
    assert main(["drift", *looks, "--json"]) == 0 and json.loads(capsys.readouterr().out)["state"] == "judged"
    shop.ship()
    assert shop.events() == before and conditions.drift(shop.config, reader, now) == raised
    assert main(["drift", "--json"]) == 0  # the window in its turn
    shop.ship()
    assert len(shop.events()) > len(before)


def test_the_command_and_the_task(shop, capsys, monkeypatch):
    for day, counts in zip(days(4), (USUAL, USUAL, OTHER, OTHER), strict=True):
        shop.ask(day, counts)
    monkeypatch.setenv("LLMOPS_HOME", str(shop.config.home))
    monkeypatch.setenv("LLMOPS_MONITORING__DRIFT_REQUESTS", "40")
    monkeypatch.setenv("LLMOPS_MONITORING__DRIFT_DAYS", "2")
    assert main(["drift", "--until", "2026-03-04", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "judged"
    shop.watch(days(3)[2])
    assert main(["drift", "--until", "2026-03-05"]) == 0
    assert "DRIFT, 2 windows" in capsys.readouterr().out
    assert main(["drift", "--until", "tomorrow"]) == 1
    monkeypatch.setenv("AIRFLOW_HOME", str(shop.config.home / "airflow"))
    spec = importlib.util.spec_from_file_location("watched", DAGS / "llm_monitoring.py")
    file = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(file)
    task = file.llm_monitoring().task_dict["drift"]
    run = SimpleNamespace(data_interval_end=days(1, 4)[0], run_after=None)
    monkeypatch.setattr(file, "get_current_context", lambda: {"dag_run": run})
    assert {one["feature"] for one in task.python_callable()["drift"]} >= {"topics"}


def _champion(config):
    from llmops.registry.registry import registry_of

    return registry_of(config).champion()

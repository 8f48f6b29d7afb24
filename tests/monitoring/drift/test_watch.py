"""The way of the data: events of requests are emitted, shipped and read, windows are judged, what drifts is told."""

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from llmops.cli import main
from llmops.config import Config
from llmops.events.datasets import DRIFT, TEXT
from llmops.events.events import emit_all, format_timestamp
from llmops.events.reader import make_reader
from llmops.events.shipping import drain_spool
from llmops.frame.records import Example, make_content_id, write_rows
from llmops.monitoring.alerts.checks import check_drift
from llmops.monitoring.alerts.request_checks import CheckInputs
from llmops.monitoring.drift.features import extract_features
from llmops.monitoring.drift.lexicon import read_lexicon
from llmops.monitoring.drift.reference import NoReferenceError, find_reference
from llmops.monitoring.drift.watch import watch_drift
from llmops.release.registry.aliases import AliasChange, move
from llmops.release.registry.registry import registry_of
from llmops.state.database import database_of
from serving.observe.drift import read_drift
from tests.release.conftest import put_version

from .sentences import WORDS, make_prompts

DAY = datetime(2026, 3, 1, tzinfo=UTC)


class Shop:
    """A home with a champion, v1, that was trained on cards, cash and logins."""

    def __init__(self, home, **monitoring):
        self.config = Config(home=home, monitoring={"drift_requests": 40, "drift_days": 2, **monitoring})
        self.train = self.config.artifacts / "annotate" / "abc" / "train.parquet"
        texts = [(topic, text) for topic in WORDS for text in dict.fromkeys(make_prompts({topic: 60}, 9))]
        rows = [
            Example(
                id=make_content_id("", text), question=text, answer=f"Look at the page on {topic}.", group=topic,
                split="train", source="faq", location="f", position=f"row {n}",
            )
            for n, (topic, text) in enumerate(texts)
        ]  # fmt: skip
        write_rows(self.train, rows, Example)
        path = put_version(self.config, created=DAY.isoformat())
        (path / "lineage.json").write_text(json.dumps({"dataset": {"artifact": "annotate/abc"}, "stages": []}))
        with database_of(self.config).change() as connection:
            move(connection, self.config.release.name, {"champion": "v1"}, AliasChange("promote", "", "a test", "set"))
        self.lexicon = read_lexicon(self.train)

    def ask(self, day, counts, keep=False, seed=0, version="v1", labels=(), confidence=0.9):
        """The events that serving emits of these prompts, spread over a day."""
        texts = make_prompts(counts, seed)
        events = []
        for n, (text, found) in enumerate(zip(texts, extract_features(texts, self.lexicon), strict=True)):
            fields = {
                "http.request.id": f"{day:%d}-{n}",
                "llmops.model.version": version,
                **found.to_event_fields("prompt"),
            }
            fields |= extract_features(["Look at it."], self.lexicon, "answer")[0].to_event_fields("answer")
            fields |= {"llmops.answer.refusal": False, "@timestamp": format_timestamp(day + timedelta(minutes=n))}
            if labels:
                fields["llmops.answer.label"] = labels[n % len(labels)]
                fields["llmops.answer.confidence"] = confidence - n % 10 / 100
            events.append(fields | ({"llmops.prompt.text": text} if keep else {}))
        emit_all(self.config.events, TEXT, events)
        self.ship()

    def ship(self):
        drain_spool(self.config.events, self.config.monitoring)

    def watch(self, day, **options):
        found = watch_drift(self.config, day + timedelta(days=1, minutes=5), **options)
        self.ship()
        return found

    def events(self):
        return list(make_reader(self.config).find(DRIFT))

    def reference(self, day, *kind):
        return find_reference(self.config, make_reader(self.config), registry_of(self.config).champion(), day, *kind)


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path)


USUAL = {"card": 25, "cash": 25, "login": 25}
OTHER = {"card": 75}


def make_days(count, start=0):
    return [DAY + timedelta(days=start + n) for n in range(count)]


def test_a_classifier_drifts_in_its_labels_and_its_confidence_though_the_texts_are_as_before(shop):
    for n, day in enumerate(make_days(3)):
        shop.ask(day, USUAL, seed=n, labels=("card", "cash", "login"))
    assert shop.watch(make_days(3)[2])["drift"] == []
    for n, day in enumerate(make_days(2, 3)):
        shop.ask(day, USUAL, seed=5 + n, labels=("card", "card", "none"), confidence=0.5)
    _, second = (shop.watch(day) for day in make_days(2, 3))
    drifted = {one["feature"] for one in second["drift"]}
    assert drifted >= {"label", "confidence"} and not drifted & {"topics", "texts"}


@pytest.mark.parametrize("keep", [False, True])
def test_two_windows_in_a_row_are_drift(shop, keep, capsys, monkeypatch):
    for n, day in enumerate(make_days(3)):
        shop.ask(day, USUAL, keep, seed=n)
    usual = shop.watch(make_days(3)[2])
    assert (usual["state"], usual["reference"], usual["requests"], usual["drift"]) == ("judged", "served", 75, [])
    for n, day in enumerate(make_days(2, 3)):
        shop.ask(day, OTHER, keep, seed=5 + n)
    first, second = (shop.watch(day) for day in make_days(2, 3))
    assert first["drift"] == [] and {one["windows"] for one in first["comparisons"]} <= {0, 1}
    drifted = {one["feature"]: one for one in second["drift"]}
    assert {"topics", "texts" if keep else "features"} <= drifted.keys()
    assert set(drifted["topics"]["topics"]) >= {"card", "login"} and drifted["topics"]["windows"] == 2
    # the events say the same, and so do the page, the alert and the command
    last = [e for e in shop.events() if e["llmops.drift.since"] == second["since"]]
    assert len(last) == len(second["comparisons"]) and {e["llmops.drift.reference"] for e in last} == {"served"}
    page = read_drift(make_reader(shop.config), shop.config.alerts.drift_windows, make_days(1, 6)[0])
    assert page["window"]["since"] == second["since"] and page["comparisons"][0]["windows"] == 2
    assert {one["name"] for one in page["topics"]} >= {"card", "login"}
    assert bool(page["examples"]) == keep and page["nearest"]
    assert [line["drift"] > 0 for line in page["windows"]] == [False, False, True]
    json.dumps(page)
    soon = datetime.now(UTC) + timedelta(minutes=1)
    [alert] = check_drift(CheckInputs(shop.config, make_reader(shop.config)), soon)
    assert alert.subject == "v1" and "topics of the prompt" in alert.message
    for name, value in {"HOME": str(shop.config.home), "MONITORING__DRIFT_REQUESTS": "40"}.items():
        monkeypatch.setenv(f"LLMOPS_{name}", value)
    assert main(["drift", "--until", "2026-03-06", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "judged"
    assert main(["drift", "--until", "tomorrow"]) == 1
    monkeypatch.setenv("LLMOPS_ALERTS__DRIFT_WINDOWS", "3")  # then none of them calls it drift
    assert main(["drift", "--until", "2026-03-06"]) == 0
    assert "differs" in (output := capsys.readouterr().out) and "DRIFT" not in output
    three = Config(home=shop.config.home, monitoring=shop.config.monitoring, alerts={"drift_windows": 3})
    assert (
        watch_drift(three, make_days(1, 5)[0])["drift"]
        == check_drift(CheckInputs(three, make_reader(three)), soon)
        == []
    )
    assert not any(line["drift"] for line in read_drift(make_reader(three), 3, make_days(1, 6)[0])["windows"])


def test_a_window_is_judged_once_and_few_requests_are_passed_over(shop):
    for day, counts in zip(make_days(5), (USUAL, USUAL, OTHER, {"card": 5}, OTHER), strict=True):
        shop.ask(day, counts)
    first = shop.watch(make_days(1, 2)[0])
    before = shop.events()
    assert shop.watch(make_days(1, 2)[0])["comparisons"] == first["comparisons"] and shop.events() == before
    few = shop.watch(make_days(1, 3)[0])
    assert few["state"] == "too few" and few["requests"] == 5 and "comparisons" not in few and shop.events() == before
    assert {one["feature"] for one in shop.watch(make_days(1, 4)[0])["drift"]} >= {"topics"}
    assert shop.watch(make_days(1, 5)[0])["state"] == "too few"  # none at all


def test_until_the_first_days_are_over_it_is_the_training_data_and_without_it_nothing_is_judged(shop, tmp_path):
    shop.ask(DAY, USUAL)
    shop.train.rename(tmp_path / "away")
    found = shop.watch(DAY)
    assert found["state"] == "no reference" and "training data" in found["why"] and not shop.events()
    with pytest.raises(NoReferenceError):
        shop.reference(DAY, "training")
    with pytest.raises(NoReferenceError, match="nothing was trained"):
        find_reference(
            shop.config, make_reader(shop.config), replace(registry_of(shop.config).champion(), dataset=""), DAY
        )
    (tmp_path / "away").rename(shop.train)
    found = shop.watch(DAY)
    assert (found["state"], found["reference"]) == ("judged", "training")
    assert not {one["feature"] for one in found["comparisons"] if one["drifted"] and one["side"] == "prompt"}
    assert shop.watch(DAY, against="served")["state"] == "no reference"
    shop.train.unlink()  # its features are kept
    assert shop.watch(DAY, against="training")["state"] == "judged"


def test_a_reference_outlives_its_events_and_another_version_is_none(shop):
    for day in make_days(3):
        shop.ask(day, USUAL)
    kept = shop.reference(make_days(1, 2)[0])
    (shop.config.events / "store.db").unlink()
    shop.ask(make_days(1, 2)[0], USUAL, version="v2")
    reread = shop.reference(make_days(1, 2)[0])
    assert (reread.name, reread.sample.columns, reread.until) == (kept.name, kept.sample.columns, kept.until)
    assert shop.watch(make_days(1, 2)[0])["state"] == "too few"  # what v2 was asked is not counted


def test_when_the_first_events_are_removed_the_next_ones_are_not_the_first_days(shop):
    shop.ask(DAY, {"card": 5})
    for n in range(1, 6):
        shop.ask(DAY + timedelta(days=n), {"card": 40, "cash": 40, "login": 40}, seed=n)
    assert shop.watch(DAY + timedelta(days=1))["reference"] == "training"  # the first days are not over
    with closing(sqlite3.connect(shop.config.events / "store.db")) as db, db:
        db.execute("DELETE FROM events WHERE time < ?", (format_timestamp(DAY + timedelta(days=1, minutes=30)),))
    assert shop.watch(DAY + timedelta(days=5))["reference"] == "served"
    assert shop.reference(DAY + timedelta(days=9)).until == DAY + timedelta(days=2)


def test_without_a_champion_nothing_is_judged(tmp_path):
    empty = Config(home=tmp_path)
    assert watch_drift(empty)["state"] == "no champion"
    page = read_drift(make_reader(empty), 2)
    assert page["window"] is None and page["windows"] == []

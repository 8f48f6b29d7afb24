"""The way of the data: a champion is measured, what users say is read, events are shipped and make a series."""

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pyarrow as pa
import pytest

from llmops.cli import main
from llmops.config import Config, Grounding
from llmops.data.feedback import rows
from llmops.data.feedback.rows import Review
from llmops.data.retrieval.file_store import write_passages
from llmops.data.retrieval.grounding import REFUSAL
from llmops.events.datasets import DECAY, FEEDBACK, SERVING, TEXT
from llmops.events.events import emit_all, format_timestamp
from llmops.events.reader import make_reader
from llmops.events.shipping import drain_spool
from llmops.frame import artifacts
from llmops.frame.artifacts import Record
from llmops.frame.records import Passage, make_content_id, write_table
from llmops.monitoring.decay.items import read_fixed_items, read_fresh_items
from llmops.monitoring.decay.measurement import Measurement, measure_version
from llmops.monitoring.decay.watch import MIN_FRESH_ITEMS, watch_decay
from llmops.release.registry.aliases import AliasChange, move
from llmops.release.registry.indexes import serve_index
from llmops.release.registry.registry import registry_of
from llmops.state.database import database_of
from tests.release.conftest import put_version

DAY = datetime(2026, 3, 1, 4, tzinfo=UTC)


@pytest.fixture
def config(tmp_path):
    """A home with a champion, v1, that has answered three items of its test."""
    config = Config(home=tmp_path, evaluate={"bootstrap": 100, "max_new_tokens": 4})
    path = put_version(config, created=DAY.isoformat())
    rows = [
        {
            "id": str(n),
            "question": f"Where is it {n}?",
            "context": "",
            "reference": "On page 3.",
            "source": "book",
            "group": group,
            "model": model,
        }
        for n, group in enumerate(("pages", "pages", "shelves"))
        for model in ("base", "candidate")
    ]
    write_table(path / "answers.parquet", pa.Table.from_pylist(rows))
    with database_of(config).change() as connection:
        move(connection, config.release.name, {"champion": "v1"}, AliasChange("promote", "", "a test", "set"))
    return config


@pytest.fixture
def figures(monkeypatch):
    values = {"token_f1": 0.5, "perplexity": 9.0}
    monkeypatch.setattr(
        "llmops.monitoring.decay.watch.measure_version",
        lambda config, version, items: {name: Measurement(v, v - 0.1, v + 0.1) for name, v in values.items()},
    )
    return values


def ship(config):
    drain_spool(config.events, config.monitoring)


def watch(config, day):
    found = watch_decay(config, day)
    ship(config)
    return {(one["set"], one["metric"]): one for one in found["figures"]}, found


def test_a_champion_that_gets_worse_decays_and_one_that_is_the_same_does_not(config, figures):
    for n in range(11):
        figures["token_f1"] = 0.5 - 0.005 * n
        measured, found = watch(config, DAY + timedelta(days=n))
        assert measured["fixed", "token_f1"]["days"] == n + 1
        assert found["decayed"] == ([] if n < 9 else ["token_f1 (fixed)"])
    same, worse = measured["fixed", "perplexity"], measured["fixed", "token_f1"]
    assert (same["slope"], same["slope_low"], same["slope_high"]) == (0, 0, 0)
    assert worse["slope"] == pytest.approx(-0.005) and worse["slope_high"] < 0
    watch(config, DAY + timedelta(days=10, hours=3))  # the same day again
    events = list(make_reader(config).find(DECAY))
    assert len(events) == 22 and {e["llmops.model.version"] for e in events} == {"v1"}
    last = [e for e in events if e["llmops.decay.metric"] == "token_f1"][-1]
    assert last["llmops.decay.decayed"] and "decays" in last["message"] and last["llmops.decay.items"] == 3


def test_perplexity_that_rises_decays_and_other_items_are_another_series(config, figures):
    for n in range(10):
        figures["perplexity"] = 9 + n
        _, found = watch(config, DAY + timedelta(days=n))
    assert found["decayed"] == ["perplexity (fixed)"]
    path = registry_of(config).champion().path / "answers.parquet"
    rows = [
        {"id": "1", "question": "q", "context": "", "reference": "a", "source": "s", "group": "g", "model": "candidate"}
    ]
    write_table(path, pa.Table.from_pylist(rows))  # an erasure took two of the items
    measured, found = watch(config, DAY + timedelta(days=10))
    assert found["decayed"] == [] and measured["fixed", "perplexity"]["days"] == 1


def test_what_users_say_and_get(config, figures):
    def at(hours=0.0, **more):
        return {"@timestamp": format_timestamp(DAY + timedelta(hours=hours)), **more}

    version = "llmops.model.version"
    asked = [at(n / 60, **{version: "v1", "http.request.id": f"r{n}"}) for n in range(10)]
    emit_all(config.events, TEXT, [one | {"llmops.answer.refusal": n < 2} for n, one in enumerate(asked)])
    emit_all(config.events, SERVING, [*asked, at(**{version: "v2"})])
    for n, (id, word) in enumerate([("r0", "up"), ("r1", "up"), ("r2", "down"), ("r3", "up"), ("r0", "down")]):
        fields = {"http.request.id": id, "llmops.feedback.rating": word, "llmops.key.prefix": "k"}
        emit_all(config.events, FEEDBACK, [at(n, **fields)])
    ship(config)
    measured, _ = watch(config, DAY + timedelta(days=1))
    live = {metric: (one["value"], one["items"]) for (name, metric), one in measured.items() if name == "live"}
    assert live == {"up_share": (0.5, 4), "refusals": (0.2, 10)}
    assert measured["live", "up_share"]["low"] < 0.5 < measured["live", "up_share"]["high"]
    quiet, _ = watch(config, DAY + timedelta(days=3))
    assert not [name for name, _ in quiet if name == "live"]


def test_fresh_items_are_corrections_that_were_accepted_since_the_champion_was_made(config, figures):
    def correction(n, days=1, state="accepted", kind="correction", **texts):
        moment = format_timestamp(DAY + timedelta(days=days, minutes=n))
        content = {"question": f"Q{n}", "correction": f"A{n}", **texts}
        who = {"key": "k", "role": "user", "by": "a reviewer"}
        return Review(id=f"{n}-{state}", kind=kind, time=moment, state=state, decided=moment, **who, **content)

    def decided(*found):
        with database_of(config).change() as connection:
            rows.add(connection, found)

    decided(*(correction(n) for n in range(MIN_FRESH_ITEMS - 1)))
    decided(correction(50, state="refused"), correction(51, kind="answer"), correction(52, days=-1))
    assert [item.question for item in read_fresh_items(config)] == [f"Q{n}" for n in range(MIN_FRESH_ITEMS - 1)]
    measured, _ = watch(config, DAY + timedelta(days=1))
    assert not [name for name, _ in measured if name == "fresh"]  # too few
    decided(correction(60), correction(61, question="Q0", edited="better"))
    assert read_fresh_items(config)[-1].answer == "better" and len(read_fresh_items(config)) == MIN_FRESH_ITEMS
    measured, _ = watch(config, DAY + timedelta(days=2))
    assert measured["fresh", "token_f1"]["items"] == MIN_FRESH_ITEMS


def test_the_model_is_asked_once_for_the_same(config, tiny_base, monkeypatch):
    from llmops.model.scoring import answers  # not above: it loads torch

    version = registry_of(config).champion()
    shutil.rmtree(version.servable)
    shutil.copytree(tiny_base, version.servable)
    items, asked, real = read_fixed_items(version), [], answers.score_answers

    def score_once(*given):
        asked.append(asked[0] if asked else real(*given))
        return asked[0]

    monkeypatch.setattr(answers, "score_answers", score_once)
    assert [(item.id, item.group) for item in items] == [("0", "pages"), ("1", "pages"), ("2", "shelves")]
    found = measure_version(config, version, items)
    assert found.keys() == {"token_f1", "perplexity"} and found["perplexity"].value > 1000  # random weights
    assert measure_version(config, version, items) == found and len(asked) == 1
    (version.servable / "config.json").touch()  # somebody put something in its place
    assert measure_version(config, version, items) == found and len(asked) == 2
    monkeypatch.setattr("llmops.monitoring.decay.measurement.library_version", lambda name: "99")
    assert measure_version(config, version, items) == found and len(asked) == 3


def serve(config, *texts):
    """Serve an index of passages that are found by their words."""
    folder = config.home / "artifacts" / "index" / make_content_id(*texts)
    folder.mkdir(parents=True)
    place = {"source": "help", "location": "a.html", "position": "1", "title": "Help", "headings": ""}
    rows = [Passage(id=f"p{n}", document=f"d{n}", text=text, **place) for n, text in enumerate(texts)]
    metrics = {"passages": write_passages(folder, rows), "model": ""}
    artifacts.commit(folder, Record("index", folder.name, {}, {}, "", "", metrics, {}, "", "", ""))
    serve_index(registry_of(config).folder, folder)


@pytest.fixture
def asked(monkeypatch):
    """Return the sets of questions that models are asked, which get no real answers."""
    from llmops.frame.statistics.bootstrap import make_mean
    from llmops.model.scoring import answers  # not above: it loads torch

    sets = []

    def score(folder, question_sets, settings):
        sets.extend(question_sets)
        figures = dict.fromkeys(("token_f1", "perplexity"), make_mean([0.5] * len(question_sets[0].items)))
        return [SimpleNamespace(item_metrics=figures)]

    monkeypatch.setattr(answers, "score_answers", score)
    return sets


def test_an_app_with_documents_is_measured_with_them(config, asked):
    grounded = config.model_copy(update={"grounding": Grounding(enabled=True, answer="model")})
    item = read_fixed_items(version := registry_of(config).champion())[0]
    items = [
        replace(item, question="How long does delivery take?", context="Shop > Orders"),
        replace(item, question="Who won at chess?"),
        replace(item, question="Who delivers?", context="Ana does.", source="fresh"),
    ]
    measure_version(grounded, version, items)
    assert asked.pop().items == items, "no documents are served yet"
    serve(config, "Delivery takes three days.")
    measure_version(grounded, version, items)
    (found,) = asked
    assert [one.context for one in found.items] == ["Delivery takes three days.", "", "Ana does."]
    assert found.known_answers == {1: REFUSAL}
    measure_version(grounded, version, items)
    assert len(asked) == 1, "it is measured once for the same documents"
    serve(config, "Delivery takes a week.")
    measure_version(grounded, version, items)
    assert asked[1].items[0].context == "Delivery takes a week."
    quoting = grounded.model_copy(update={"grounding": Grounding(enabled=True, answer="quote")})
    measure_version(quoting, version, items)
    assert asked[2].known_answers == {0: "Delivery takes a week.", 1: REFUSAL}
    measure_version(config, version, items)
    assert len(asked) == 3, "with grounding off it is the first measurement"


def test_figures_with_documents_are_a_series_of_their_own(config, figures):
    grounded = config.model_copy(update={"grounding": Grounding(enabled=True)})
    assert watch(grounded, DAY)[0]["fixed", "token_f1"]["days"] == 1
    serve(config, "Delivery takes three days.")
    assert watch(grounded, DAY + timedelta(days=1))[0]["fixed", "token_f1"]["days"] == 1
    assert watch(grounded, DAY + timedelta(days=2))[0]["fixed", "token_f1"]["days"] == 2


def test_the_command(config, figures, capsys, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("LLMOPS_HOME", str(config.home))
    assert main(["decay", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == "v1"
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path_factory.mktemp("empty")))
    assert main(["decay"]) == 0

"""A home that an earlier release left is read by this one: nothing in it is lost, and it can be worked on."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from llmops import artifacts
from llmops.access.keys import keys_of
from llmops.config import Config, Retention, load
from llmops.data.collect import forgotten
from llmops.data.text.identity import identifier
from llmops.errors import AccessError
from llmops.features.examples import read_offline
from llmops.model.base.answering import answer, open_model
from llmops.monitoring import datasets, events
from llmops.monitoring.sinks.local import LocalStore
from llmops.monitoring.spool import Spool
from llmops.pipeline import plan
from llmops.records import Document, Dropped
from llmops.registry.registry import Registry, registry_of
from llmops.release.lineage import lineage, lineage_text
from llmops.retention.gc import gc

HOME = Path(__file__).parent / "fixtures" / "home-0.1.0"
KEYS = {
    "admin": "llmops_ad3aa711_HWUEcOpmwBhYrKIzkfgs9rHCiWw96jiD8ASv5fJgnLo",
    "developer": "llmops_4dd82ce1_-5Xq2ynwF41hPQCk0XUasuqO4t6DkEv1NY0cyXCdUn4",
    "user": "llmops_da549228_9P-O49-VMBeLxV-q53a3pA_CfuBl2cVw6Q-jReU1bt4",
}
REVOKED = "llmops_d581681d_siXLY6Hqml4rXp3t0cXvJ7ZnaRWljYj6PpPRtWrYozk"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """The configuration of a copy of the home."""
    home = tmp_path / "home"
    shutil.copytree(HOME, home)
    return load(home / "config.yaml", environ={"LLMOPS_HOME": str(home)})


@pytest.fixture
def registry(config: Config) -> Registry:
    return registry_of(config)


def test_every_artifact_is_whole(config: Config) -> None:
    found = sorted(path.parent for path in config.artifacts.glob("*/*/record.json"))
    assert len(found) == 37
    assert {str(path): damaged for path in found if (damaged := artifacts.verify(path))} == {}
    govern = [path for path in found if path.parent.name == "govern"]
    assert ["collect" in {record.stage for record in artifacts.walk(path)} for path in govern] == [True] * 4


def test_versions_aliases_and_their_history(registry: Registry) -> None:
    assert [(v.name, v.status, v.compared_with) for v in registry.versions()] == [
        ("v1", "promoted", "base"), ("v2", "rejected", "v1"), ("v3", "rejected", "v1"), ("v4", "rejected", "v1"),
    ]  # fmt: skip
    assert registry.aliases() == {"candidate": "v4", "champion": "v2", "previous": "v1"}
    assert [change["by"] for change in registry.history()] == ["gate"] * 4 + ["ops"] * 3
    assert registry.rollback().name == "v1" and registry.rollback().name == "v2"


def test_lineage_from_the_answer_to_the_source(registry: Registry) -> None:
    champion = registry.get("champion")
    assert {s["artifact"].split("/")[0] for s in lineage(champion)["stages"]} >= {"collect", "annotate", "train"}
    assert "faq: csv faq.csv, licence CC0-1.0, owner shop" in lineage_text(champion)


def test_stages_that_compute_with_a_model_are_made_anew_and_say_with_what(config: Config, registry: Registry) -> None:
    """What 0.1.0 made does not tell its libraries, GPU or weights; it stays, and what is made now has another name."""
    old = {path.parent for path in config.artifacts.glob("*/*/record.json")}
    index = config.artifacts / "index" / "i"  # there was none
    facts = dict.fromkeys(("interval", "code", "git_commit", "started", "finished"), "")
    index.mkdir(parents=True)
    artifacts.commit(index, artifacts.Record("index", "i", {}, {}, metrics={}, files={}, **facts))
    for name in ("select", "features", "tune", "train", "compress", "evaluate", "govern"):
        made_of = artifacts.read_record(artifacts.newest(config.artifacts / name)).inputs
        inputs = {source: config.artifacts / ref for source, ref in made_of.items() if source != "champion"}
        inputs |= {"index": index} if name == "evaluate" else {}
        assert plan(name, config, "2026-01-31", inputs).path not in old
    assert {tuple(artifacts.read_record(path).environment) for path in old} == {()}
    assert "trained by" not in lineage_text(registry.get("champion"))


def test_keys_are_good_or_not_as_they_were(config: Config) -> None:
    store = keys_of(config)
    assert {role: store.check(key).role for role, key in KEYS.items()} == {role: role for role in KEYS}
    assert store.check(KEYS["user"]).requests_per_minute == 600
    with pytest.raises(AccessError, match="revoked"):
        store.check(REVOKED)


def test_events_are_there_and_more_can_be_added(config: Config) -> None:
    store = LocalStore(config.events)
    assert [event["llmops.gate.outcome"] for event in store.find(datasets.GATE)] == ["promoted"] + ["rejected"] * 3
    assert len(list(store.find(datasets.SERVING))) > 9 and len(list(store.find(datasets.FEEDBACK))) == 1
    events.emit(config.events, datasets.ALERT, {"message": "one more"})
    with Spool(config.events) as spool:
        assert any(event.get("message") == "one more" for event in spool.read("local")[1])


def test_what_was_forgotten_stays_so(config: Config) -> None:
    row = {"question": "Whom do I ask about a delivery that is late?", "group": "late"}
    said = Document(id="1", source="faq", location="faq.csv", position="row 94", **row, answer="Ask somebody else.")
    gone = "Ask Ana Marin in our shop, she knows every parcel."
    told = Document(id="1", source="faq", location="faq.csv", position="row 94", **row, answer=gone)
    for _ in range(2):
        kept, taken = forgotten.load(config.collect.forgotten).without([said, told])
        assert kept is said and isinstance(taken, Dropped) and taken.rule == forgotten.RULE
        forgotten.add(config.collect.forgotten, (), identifier("Lea Roe"))  # the list in its present form


def test_training_and_serving_find_its_examples(config: Config, registry: Registry) -> None:
    from llmops.features.declarations import service_name
    from llmops.features.online import OnlineTokens

    champion = registry.get("champion")
    folder = next(
        config.artifacts / s["artifact"] for s in lineage(champion)["stages"] if s["artifact"][:8] == "features"
    )
    examples = read_offline(folder, "train")
    store = OnlineTokens(champion.path / "features", service_name(config.release.name, champion.name))
    assert store.read([examples[0].id]) == [examples[0]]


def test_the_champion_still_answers(registry: Registry) -> None:
    model = open_model(registry.get("champion").servable)
    asked = [("How do I send back a vase?", "")]
    assert answer(model, asked, 24) == ["Yes, you can return the basket within 15 days of delivery."]


def test_what_nothing_needs_is_removed_and_what_is_served_goes_on(config: Config, registry: Registry) -> None:
    later = datetime.now(UTC) + timedelta(days=100)
    few = config.model_copy(update={"retention": Retention(runs=1, versions=1)})
    removed = gc(few, now=later)
    assert {item.name for item in removed.plan.going if item.kind == "version"} == {"v3"}  # no alias names it
    assert removed.plan.frees > 0 and not registry.get("v3").servable.is_dir()
    assert lineage_text(registry.get("v3"), config.artifacts).count("data removed on") >= 3
    champion = registry.get("champion")
    model = open_model(champion.servable)
    assert len(answer(model, [("How can I contact you?", "")], 4)) == 1
    assert registry.rollback().name == "v1" and registry.rollback().name == champion.name
    for path in (config.artifacts / "govern").glob("[!.]*"):
        assert "collect" in {record.stage for record in artifacts.walk(path)}
    assert gc(few, now=later).plan.going == []

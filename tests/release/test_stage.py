"""From finished artifacts to a version: decision, card, lineage, event."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
import yaml
from huggingface_hub import ModelCard

from llmops import artifacts, cli, pipeline
from llmops.artifacts import Record
from llmops.config import Config, Features, Release
from llmops.errors import ArtifactError, RegistryError
from llmops.features.declarations import declare, open_store
from llmops.features.online import read_online
from llmops.monitoring.spool import Spool
from llmops.records import Example, write_rows, write_table
from llmops.registry.indexes import served_index
from llmops.registry.registry import Registry, registry_of
from llmops.release import card, ledger, rollout
from llmops.release import stage as publish
from llmops.release.ledger import ALPHA, Attempt
from llmops.release.lineage import lineage, lineage_text
from llmops.state.tables import attempts

ITEMS = 40
PASSWORD = "s3cr3tPassw0rd"
FAQ = Example(
    id="1", question="q", answer="a", group="g", split="train", source="faq", location="t", position="row 1",
    licence="CC0-1.0",
)  # fmt: skip


def finish(home: Path, stage: str, key: str, inputs: dict[str, str], files: dict[str, Any], **known: Any) -> Path:
    path = home / "artifacts" / stage / key
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            write_rows(path / name, content, Example)
        elif isinstance(content, pa.Table):
            write_table(path / name, content)
        else:
            (path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    record = {"config": {}, "metrics": {}, "run": "manual__1", **known}
    artifacts.commit(
        path,
        Record(
            stage=stage,
            fingerprint=key,
            inputs=inputs,
            interval="2026-01-31",
            code="c0de",
            files={},
            git_commit="abc123",
            started="2026-01-31T00:00:00+00:00",
            finished="2026-01-31T00:01:00+00:00",
            **record,
        ),
    )
    return path


def answers(items: int, wording: str = "question {}", **models: float) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "id": f"{wording}{n}",
                "question": wording.format(n),
                "context": "",
                "reference": "r",
                "source": "faq",
                "group": f"g{n // 2}",
            }
            | {"model": model, "answer": "a", "token_f1": score, "exact_match": 0.0, "rouge_l": score}
            | {"hamming_loss": score}
            for model, score in models.items()
            for n in range(items)
        ]
    )


def chain(
    home: Path, train: str = "t1", against: str = "", items: int = ITEMS, wording: str = "question {}", **models: float
) -> dict[str, Path]:
    """The finished artifacts in front of release; the shared ones are made once.

    What stands before the `-` of `train` are its settings, what is behind it its seed.
    """
    root = home / "artifacts"
    if not root.exists():
        faq = {"name": "faq", "kind": "sql", "location": f"postgres://ana:{PASSWORD}@db/shop", "licence": "CC0-1.0"}
        finish(home, "collect", "c1", {}, {}, config={"sources": [{**faq, "owner": "support | desk"}]})
        finish(home, "clean", "k1", {"collect": "collect/c1"}, {})
        finish(home, "annotate", "a1", {"clean": "clean/k1"}, {"train.parquet": [FAQ, FAQ]})
        selection = {"model": "org/tiny", "revision": "rev9", "licence": "apache-2.0", "path": "base"}
        selection["weights"] = {"tiny.gguf": "9e37", "config.json": "79b9"}
        finish(home, "select", "s1", {}, {"selection.json": selection, "base/model.safetensors": "weights"})
        finish(home, "index", "i1", {"clean": "clean/k1"}, {}, metrics={"passages": 0})
        features = finish(home, "features", "f1", {"annotate": "annotate/a1", "select": "select/s1"}, {})
        declare(Features(store=home / "feast"), "llmops_0", features)
    environment = {"torch": "2.13", "peft": "0.21", "gpu": "NVIDIA L4 (8.9)"}
    made = {"made": train.partition("-")[0], "seed": train}
    known = {"metrics": {"rank": 8, "learning_rate": 0.001}, "config": made, "environment": environment}
    adapter = {"adapter/model.bin": f"adapter {train}"}
    finish(home, "train", train, {"features": "features/f1", "select": "select/s1"}, adapter, **known)
    inputs = {"annotate": "annotate/a1", "select": "select/s1", "train": f"train/{train}"}
    servable = {"servable/model.bin": f"servable {train}", "compression.json": {"chosen": "nf4"}}
    finish(home, "compress", f"c-{train}", inputs, servable, metrics={"chosen": "nf4"})
    ends = {
        "annotate": "annotate/a1",
        "index": "index/i1",
        "train": f"train/{train}",
        "select": "select/s1",
        "compress": f"compress/c-{train}",
    }
    return {stage: root / ref for stage, ref in ends.items()} | evaluated(
        home, train, against, items, wording, **models
    )


def evaluated(
    home: Path, train: str, against: str = "", items: int = ITEMS, wording: str = "question {}", **models: float
) -> dict[str, Path]:
    """A candidate that is there already, asked beside a version or the base model, and its scan."""
    figures = {
        m: {"token_f1": {"mean": s, "low": s - 0.1, "high": s + 0.1}, "perplexity": 9.5} for m, s in models.items()
    }
    inputs = {"annotate": "annotate/a1", "select": "select/s1", "compress": f"compress/c-{train}"}
    other = {"champion": f"versions/{against}"} if against else {}
    files = {
        "answers.parquet": answers(items, wording, **models),
        "evaluation.json": {"items": items, "confidence": 0.95, "models": figures},
    }
    evaluate = finish(home, "evaluate", f"e-{train}-{against}", {**inputs, **other}, files)
    report = {"verdict": "passed", "reasons": ["nothing found"], "counts": []}
    ends = {"annotate": "annotate/a1", "compress": f"compress/c-{train}", "evaluate": f"evaluate/e-{train}-{against}"}
    govern = finish(home, "govern", f"g-{train}-{against}", ends, {"governance.json": report})
    return {"evaluate": evaluate, "govern": govern}


def registry_in(home: Path) -> Registry:
    return registry_of(Config(home=home))


def release(
    home: Path, inputs: dict[str, Path], champion: Path | None = None, task: str = "qa", **changed: Any
) -> dict[str, Any]:
    out = home / "out" / str(len(list((home / "out").iterdir())) if (home / "out").exists() else 0)
    out.mkdir(parents=True)
    decided = Release(**changed).model_dump(exclude={"registry"})
    config = Config(home=home, release=decided, evaluate={"task": task})
    paths = {"events": config.events, "database": config.database}
    publish.run(config.release, **inputs, champion=champion, interval="2026-01-31", **paths, out=out)
    document: dict[str, Any] = json.loads((out / "decision.json").read_text())
    return document


def test_the_first_model_that_beats_the_base_becomes_champion(tmp_path: Path) -> None:
    decision = release(tmp_path, chain(tmp_path, base=0.2, candidate=0.5))
    registry = registry_in(tmp_path)
    version = registry.get("champion")
    assert (decision["outcome"], decision["version"], decision["opponent"]) == ("promoted", "v1", "base")
    assert (version.base_model, version.base_revision, version.quantisation, version.run) == (
        "org/tiny", "rev9", "nf4", "manual__1",
    )  # fmt: skip
    assert (version.servable / "model.bin").read_text() == "servable t1"
    for name in ("evaluation.json", "governance.json", "decision.json", "lineage.json"):
        assert json.loads((version.path / name).read_text())
    assert json.loads((version.path / "decision.json").read_text())["version"] == "v1"


def test_the_scores_of_one_candidate_release_no_other(tmp_path: Path) -> None:
    good, bad = chain(tmp_path, "good", base=0.2, candidate=0.5), chain(tmp_path, "bad", base=0.2, candidate=0.01)
    swapped = {**good, "train": bad["train"], "compress": bad["compress"]}
    with pytest.raises(ArtifactError, match="compress/c-good, but compress/c-bad is given"):
        pipeline.run_stage("release", Config(home=tmp_path), "2026-01-31", swapped)
    assert registry_in(tmp_path).versions() == []
    pipeline.run_stage("release", Config(home=tmp_path), "2026-01-31", good)
    assert registry_in(tmp_path).get("champion").compress == "c-good"


def test_the_index_is_served_whatever_the_gate_decides_and_a_refreshed_one_spends_no_attempt(tmp_path: Path) -> None:
    inputs, config, registry = chain(tmp_path, base=0.5, candidate=0.5), Config(home=tmp_path), registry_in(tmp_path)

    def released(index: str, day: str) -> str:
        pipeline.run_stage("release", config, day, {**inputs, "index": tmp_path / "artifacts" / "index" / index})
        served = served_index(registry)
        return served.name if served else ""

    for index in ("one", "two"):
        finish(tmp_path, "index", index, {"clean": "clean/k1"}, {"index.db": index}, metrics={"passages": 1})
    assert released("one", "2026-01-31") == "one"
    assert registry.champion() is None and registry.get("candidate").status == "rejected"
    assert released("two", "2026-02-01") == "two"
    with registry.database.read() as connection:
        assert len(connection.execute(sa.select(attempts)).all()) == 1
    assert released("one", "2026-01-31") == "two", "a day that is made again took the newer documents away"
    assert released("one", "2026-02-02") == "one", "what is made already is not served"
    assert released("i1", "2026-02-03") == "", "documents that are gone are found"


def test_one_that_does_not_is_rejected_and_kept(tmp_path: Path) -> None:
    decision = release(tmp_path, chain(tmp_path, base=0.5, candidate=0.5))
    assert decision["outcome"] == "rejected"
    registry = registry_in(tmp_path)
    assert (registry.champion(), registry.get("candidate").status) == (None, "rejected")


def test_the_next_is_compared_with_the_champion(tmp_path: Path) -> None:
    release(tmp_path, chain(tmp_path, base=0.2, candidate=0.5))
    registry = registry_in(tmp_path)
    second = chain(tmp_path, "t2", "v1", base=0.2, champion=0.5, candidate=0.5)
    decision = release(tmp_path, second, registry.opponent("c-t2"))
    assert (decision["outcome"], decision["version"], decision["opponent"]) == ("rejected", "v2", "v1")
    third = chain(tmp_path, "t3", "v1", base=0.2, champion=0.5, candidate=0.7)
    assert release(tmp_path, third, registry.opponent("c-t3"))["outcome"] == "promoted"
    assert registry.aliases() == {"candidate": "v3", "champion": "v3", "previous": "v1"}


def test_each_version_has_a_feature_service_named_after_it(tmp_path: Path) -> None:
    release(tmp_path, chain(tmp_path, base=0.2, candidate=0.5))
    release(tmp_path, chain(tmp_path, "t2", "v1", base=0.2, champion=0.5, candidate=0.6), Path("v1"))
    for version in registry_in(tmp_path).versions():
        store = open_store(version.path / "features")
        (service,) = store.list_feature_services()
        assert service.name == f"support_bot_{version.name}"
        assert service.tags["compress"] == version.compress
        assert read_online(version.path / "features", ["nobody"], service.name) == [None]


def test_again_changes_nothing(tmp_path: Path) -> None:
    inputs = chain(tmp_path, base=0.2, candidate=0.5)
    first = release(tmp_path, inputs)
    assert release(tmp_path, inputs) == first
    assert len(registry_in(tmp_path).versions()) == 1


def test_a_champion_that_changed_after_evaluation_is_an_error_or_inconclusive(tmp_path: Path) -> None:
    release(tmp_path, chain(tmp_path, base=0.2, candidate=0.5))
    registry = registry_in(tmp_path)
    stale = chain(tmp_path, "t2", base=0.2, candidate=0.9)
    with pytest.raises(ArtifactError):  # evaluated against the base, to be compared with v1
        release(tmp_path, stale, registry.opponent("c-t2"))
    decision = release(tmp_path, stale)  # both stages saw no champion, but now there is one
    assert decision["outcome"] == "inconclusive"
    assert registry.aliases()["champion"] == "v1"
    assert json.loads((registry.get("v2").path / "decision.json").read_text())["outcome"] == "inconclusive"


def test_answers_without_the_opponent_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="base"):
        release(tmp_path, chain(tmp_path, candidate=0.5))


def test_the_decision_is_an_event(tmp_path: Path) -> None:
    release(tmp_path, chain(tmp_path, base=0.2, candidate=0.5))
    with Spool(tmp_path / "events") as spool:
        (event,) = spool.read("test")[1]
    assert event["event.dataset"] == "llmops.gate"
    assert (event["llmops.model.version"], event["llmops.gate.outcome"]) == ("v1", "promoted")


def test_the_card_has_the_metadata_of_the_hub(tmp_path: Path) -> None:
    release(tmp_path, chain(tmp_path, base=0.2, candidate=0.5))
    text = (registry_in(tmp_path).get("v1").path / "README.md").read_text()
    data = ModelCard(text).data
    assert (data.base_model, data.license, data.language, data.library_name) == ("org/tiny", "apache-2.0", "en", "peft")
    assert {r.metric_type: r.metric_value for r in data.eval_results or []} == {"token_f1": 0.5, "perplexity": 9.5}
    assert yaml.safe_load(text.split("---")[1])["model-index"]
    assert "| faq | CC0-1.0 | support \\| desk | 2 |" in text
    assert "0.500 (0.400 to 0.600)" in text
    assert "{{" not in text
    assert "{%" not in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) >= 4
    for table in tables:
        widths = {line.replace("\\|", "").count("|") for line in table.splitlines()}
        assert len(widths) == 1, table


def test_lineage_goes_from_the_answer_to_the_base_model(tmp_path: Path) -> None:
    inputs = chain(tmp_path, base=0.2, candidate=0.5)
    release(tmp_path, inputs)
    version = registry_in(tmp_path).get("v1")
    known, text = lineage(version), lineage_text(version)
    digest = artifacts.read_record(inputs["annotate"]).files["train.parquet"]
    assert known["dataset"]["sha256"] == version.dataset == digest
    made_by = "torch 2.13, peft 0.21, on NVIDIA L4 (8.9)"
    parts = (
        "v1",
        "manual__1",
        made_by,
        digest,
        "faq",
        "org/tiny at rev9",
        "base/model.safetensors",
        "tiny.gguf sha256 9e37",
    )
    places = [text.index(part) for part in parts]
    assert places == sorted(places) and "config.json" not in text
    assert {s["artifact"].split("/")[0] for s in known["stages"]} == {
        "collect", "clean", "annotate", "select", "features", "train", "compress", "evaluate", "govern",
    }  # fmt: skip
    everything = "".join(p.read_text() for p in version.path.rglob("*") if p.suffix in {".json", ".md"})
    assert PASSWORD not in everything + text


def test_a_day_without_change_evaluates_nothing_though_the_champion_is_another_since(tmp_path: Path) -> None:
    """What has been compared stays compared, also while another version answers, and one that was never is not."""
    first = chain(tmp_path, base=0.2, candidate=0.5)
    release(tmp_path, first)
    registry, config = registry_in(tmp_path), Config(home=tmp_path)

    def planned(made: dict[str, Path], day: str) -> Path:
        inputs = {name: made[name] for name in ("annotate", "select", "compress")}
        inputs["index"] = tmp_path / "artifacts" / "index" / "i1"
        return pipeline.plan("evaluate", config, day, inputs).path

    before = planned(first, "2026-01-31")
    second = chain(tmp_path, "t2", "v1", base=0.2, champion=0.5, candidate=0.9)
    new = planned(second, "2026-02-01")
    assert release(tmp_path, second, registry.opponent("c-t2"))["outcome"] == "promoted"
    registry.rollback()
    assert registry.aliases()["champion"] == "v1"
    for day in ("2026-02-01", "2026-02-02"):
        assert (planned(first, day), planned(second, day)) == (before, new)


def test_lineage_tells_which_days_data_were_trained_on(tmp_path: Path) -> None:
    """The candidate is of the 31st; its dataset was made on the 29th, and collect has found the same ever since."""
    inputs = chain(tmp_path, base=0.2, candidate=0.5)
    for ref in ("collect/c1", "clean/k1", "annotate/a1"):
        file = tmp_path / "artifacts" / ref / "record.json"
        artifacts.write_json(file, json.loads(file.read_text()) | {"interval": "2026-01-29"})
    release(tmp_path, inputs)
    version = registry_in(tmp_path).get("v1")
    assert "data of 2026-01-31, unchanged since 2026-01-29" in lineage_text(version)
    days = {stage["artifact"]: stage["interval"] for stage in lineage(version)["stages"]}
    assert (days["collect/c1"], days["train/t1"]) == ("2026-01-29", "2026-01-31")


def test_lineage_outlives_the_artifacts_and_damage_is_named(tmp_path: Path) -> None:
    release(tmp_path, chain(tmp_path, base=0.2, candidate=0.5))
    (tmp_path / "artifacts").rename(tmp_path / "gone")
    version = registry_in(tmp_path).get("v1")
    assert lineage_text(version)
    (version.path / "lineage.json").unlink()
    with pytest.raises(RegistryError, match="lineage"):
        lineage(version)


def test_lineage_tells_what_the_gate_said_last(tmp_path: Path) -> None:
    release(tmp_path, chain(tmp_path, base=0.5, candidate=0.5))
    version = registry_in(tmp_path).get("v1")
    for name in ("version.json", "lineage.json"):  # as one who was killed before the database was told leaves them
        file = version.path / name
        file.write_text(file.read_text().replace(f'"{version.status}"', '"promoted"'))
    version = registry_in(tmp_path).get("v1")
    assert version.status != "promoted" and lineage(version)["status"] == version.status
    assert f"version       v1, {version.status} against" in lineage_text(version)


def test_card_and_lineage_tell_of_an_erasure(tmp_path: Path) -> None:
    inputs = chain(tmp_path, base=0.2, candidate=0.5)
    release(tmp_path, inputs)
    registry = registry_in(tmp_path)
    before = (registry.get("v1").path / "README.md").read_text()
    for examples in (2, 3):
        registry.mark("v1", {"time": f"2026-02-0{examples}T00:00:00+00:00", "examples": examples}, card.marked)
    version = registry.get("v1")
    text = (version.path / "README.md").read_text()
    assert text.count("## Erasure") == 1 and "| 2026-02-03T00:00:00+00:00 | 3 |" in text
    assert text.index("## Training data") < text.index("## Erasure") < text.index("## Training\n")
    assert ModelCard(text).data.to_dict() == ModelCard(before).data.to_dict()
    assert lineage_text(version).count("training examples forgotten since") == 2
    release(tmp_path, inputs)  # publishing again renders the card anew
    assert (version.path / "README.md").read_text() == text
    assert card.marked(text, replace(version, erasures=())) == before


def next_release(
    home: Path, train: str, items: int = ITEMS, candidate: float = 0.5, wording: str = "question {}", **changed: Any
) -> dict[str, Any]:
    """Decide on one more candidate, against the champion."""
    registry = registry_in(home)
    champion = registry.opponent(f"c-{train}")
    against = champion.name if champion else ""
    scores = {"base": 0.2, "candidate": candidate} | ({"champion": 0.5} if champion else {})
    return release(home, chain(home, train, against, items, wording, **scores), champion, **changed)


def ledger_of(home: Path) -> list[Attempt]:
    registry = registry_in(home)
    with registry.database.read() as connection:
        return ledger.read(connection, registry.name)


def test_more_labels_wrong_is_no_improvement(tmp_path: Path) -> None:
    changed: dict[str, Any] = {"primary": "hamming_loss", "guardrails": {}, "floors": {}, "task": "multilabel"}
    worse = chain(tmp_path, base=0.21, candidate=0.5)
    assert release(tmp_path, worse, **changed)["outcome"] == "rejected"
    better = chain(tmp_path, "t2", base=0.5, candidate=0.21)
    assert release(tmp_path, better, **changed)["outcome"] == "promoted"


def test_every_candidate_asks_the_test_at_a_smaller_level_and_says_so(tmp_path: Path) -> None:
    decisions = [next_release(tmp_path, f"t{n}") for n in range(1, 10)]
    assert [d["outcome"] for d in decisions] == ["promoted"] + ["rejected"] * 8
    assert [d["attempt"] for d in decisions] == list(range(1, 10))  # the first, against the base, is one
    assert [d["level"] for d in decisions] == pytest.approx([ALPHA / (k * (k + 1)) for k in range(1, 10)])
    assert [(a.number, a.version) for a in ledger_of(tmp_path)] == [(k, f"v{k}") for k in range(1, 10)]
    version = registry_in(tmp_path).get("v7")
    line = f"attempt 7 on this frozen test (level 0.00089, left {decisions[6]['left']:.2g})"
    assert line in decisions[6]["reasons"]
    assert f"- {line}" in (version.path / "README.md").read_text()
    assert any("would have been found with a chance of 80%" in reason for reason in decisions[6]["reasons"])
    with Spool(tmp_path / "events") as spool:
        event = spool.read("test")[1][6]
    told = {name: event[f"llmops.gate.{name}"] for name in ("attempt", "level", "left", "power")}
    assert told == {name: decisions[6][name] for name in told} and told["attempt"] == 7


def test_a_better_one_has_to_be_better_by_more_the_later_it_comes_and_can_be(tmp_path: Path) -> None:
    for n in range(1, 12):
        next_release(tmp_path, f"t{n}")
    assert next_release(tmp_path, "t12", candidate=0.7)["outcome"] == "promoted"


def test_another_seed_is_no_other_candidate_and_spends_nothing(tmp_path: Path) -> None:
    next_release(tmp_path, "t1")
    first = next_release(tmp_path, "t2-1", candidate=0.505)
    again = next_release(tmp_path, "t2-2", candidate=0.9)
    assert (first["outcome"], again["outcome"], again["attempt"]) == ("rejected", "inconclusive", 0)
    assert "v2" in again["reasons"][0] and again["left"] == first["left"]
    assert registry_in(tmp_path).aliases() == {"champion": "v1", "candidate": "v3"}
    assert next_release(tmp_path, "t1-9", candidate=0.9)["outcome"] == "inconclusive"  # the promoted one's twin
    assert next_release(tmp_path, "t3")["attempt"] == 3
    grown = next_release(tmp_path, "t2-3", items=44, candidate=0.9)  # another test: it may ask
    assert (grown["outcome"], grown["attempt"]) == ("promoted", 4)


@pytest.mark.parametrize(
    ("train", "lessons", "more", "outcome"),
    [
        ("t1-2", 1, 0, "inconclusive"),  # one that gets better by luck is no wonder
        ("t1-2", 0, 0, "inconclusive"),
        ("t1-2", 10, 0, "promoted"),
        ("t1-2", 1, 1, "promoted"),  # another source tells of something new, too
        ("t2", 1, 0, "promoted"),  # other settings
    ],
)
def test_what_users_have_said_of_too_few_topics_spends_nothing(
    tmp_path: Path, train: str, lessons: int, more: int, outcome: str
) -> None:
    champion_of(tmp_path, [FAQ, said(99, interval="2026-01-01")])
    taught = [said(n) for n in range(lessons or 1)]
    faq = [replace(FAQ, id="f", position="row 2")] * more
    tested = [replace(row, id=f"t{row.id}", split="test", question=f"other {row.id}") for row in taught[:lessons]]
    old = said(99, interval="2026-01-01")
    decision = after(tmp_path, [FAQ, old, *taught, *faq], [*tested, replace(old, id="t99", question="other")], train)
    assert decision["outcome"] == outcome
    if outcome == "inconclusive":
        assert decision["attempt"] == 0
        assert f"has {lessons or 'no'} topic of that, where at least 7 are needed" in decision["reasons"][0]


@pytest.mark.parametrize("interval", ["2026-01-30", "2026-01-31"])
@pytest.mark.parametrize("rows", [0, 1])
def test_rows_of_a_day_before_the_champion_that_it_was_not_trained_on_are_new(
    tmp_path: Path, interval: str, rows: int
) -> None:
    """A source that was not there that day, a run of it again, a backfill."""
    champion_of(tmp_path, [FAQ])
    late = [replace(FAQ, id=f"f{n}", position=f"row 2{n}", interval=interval) for n in range(rows)]
    assert after(tmp_path, [FAQ, said(1), *late], [])["outcome"] == ("promoted" if rows else "inconclusive")


@pytest.mark.parametrize(
    ("asked", "outcome"), [("How long?", "promoted"), (" WHAT is it ?", "inconclusive"), ("", "promoted")]
)
def test_rows_that_are_gone_are_news_too_but_where_users_have_corrected_them(
    tmp_path: Path, asked: str, outcome: str
) -> None:
    row = replace(FAQ, id="2", question="What is it?", position="row 2")
    champion_of(tmp_path, [FAQ, row])
    if not asked:  # forgotten: it is in neither
        write_rows(tmp_path / "artifacts" / "annotate" / "a1" / "train.parquet", [FAQ], Example)
        artifacts.amend(tmp_path / "artifacts" / "annotate" / "a1", {"time": "2026-02-01T00:00:00Z", "examples": 1})
    assert after(tmp_path, [FAQ, said(1, question=asked or "q1")], [])["outcome"] == outcome


def test_where_the_champions_dataset_is_gone_nothing_is_known_to_be_new(tmp_path: Path) -> None:
    champion_of(tmp_path, [FAQ])
    version = registry_in(tmp_path).get("v1").path
    lost = json.loads((version / "lineage.json").read_text())
    lost["dataset"]["artifact"] = "annotate/gone"
    (version / "lineage.json").unlink()
    (version / "lineage.json").write_text(json.dumps(lost))
    assert after(tmp_path, [FAQ, said(1)], [])["outcome"] == "promoted"


def said(n: int, **changed: Any) -> Example:
    """A correction that trains, of a topic of its own."""
    at = {"source": "said", "location": "feedback", "position": f"key {n}", "licence": "CC0-1.0"}
    row = Example(id=f"s{n}", question=f"q{n}", answer="a", group=f"g{n}", split="train", interval="2026-02-07", **at)
    return replace(row, **changed)


def champion_of(home: Path, taught: list[Example]) -> None:
    """Make v1 champion, trained on these rows."""
    inputs = chain(home, base=0.2, candidate=0.5)
    shutil.rmtree(inputs["annotate"])
    finish(home, "annotate", "a1", {"clean": "clean/k1"}, {"train.parquet": taught})
    release(home, inputs)


def after(home: Path, taught: list[Example], tested: list[Example], train: str = "t1-2") -> dict[str, Any]:
    """Decide on a candidate of these rows against the champion."""
    second = chain(home, train, "v1", items=ITEMS + 20, champion=0.5, candidate=0.9)
    files = {"train.parquet": taught, "validation.parquet": [], "test.parquet": tested}
    annotate = finish(home, "annotate", "a2", {"clean": "clean/k1"}, files)
    return release(home, {**second, "annotate": annotate}, registry_in(home).opponent(f"c-{train}"))


@pytest.mark.parametrize("left", ["no environment", "no dataset", "damaged", "nothing"])
def test_of_a_champion_whose_lineage_tells_less_nothing_is_known_to_be_new(tmp_path: Path, left: str) -> None:
    """Versions of old recorded no environment; others have lost their lineage."""
    release(tmp_path, chain(tmp_path, base=0.2, candidate=0.5))
    file = registry_in(tmp_path).get("v1").path / "lineage.json"
    known = json.loads(file.read_text())
    known["stages"] = [{k: v for k, v in s.items() if k != "environment"} for s in known["stages"]]
    without = {k: v for k, v in known.items() if k != "dataset"}
    kept = {"no environment": json.dumps(known), "no dataset": json.dumps(without), "damaged": "[{"}
    file.unlink()
    if left in kept:
        file.write_text(kept[left])
    assert after(tmp_path, [FAQ, said(1)], [])["outcome"] == "promoted"


def test_of_a_test_that_was_asked_without_end_no_number_of_topics_is_said_to_be_enough(tmp_path: Path) -> None:
    """From attempt 112 on the level is below what any number of topics reaches."""
    next_release(tmp_path, "t1")
    write_table(tmp_path / "answers.parquet", answers(ITEMS + 20, candidate=0.5))
    items = publish.read_items(tmp_path / "answers.parquet")
    spent = {"model": "support-bot", "time": "2026-02-01T00:00:00Z", "items": len(items), "asked": list(items)}
    spent |= {"test": ledger.frozen_test(items), "version": "v9", "identity": "9", "outcome": "rejected"}
    with registry_in(tmp_path).database.change() as connection:
        connection.execute(sa.insert(attempts).values(**spent, number=250, level=8e-7, left=2e-4))
    decision = after(tmp_path, [FAQ, said(1)], [said(1)])
    assert (decision["outcome"], decision["attempt"]) == ("inconclusive", 0)
    assert "are needed" not in " ".join(decision["reasons"])
    assert "asked too often" in " ".join(decision["reasons"])


@pytest.mark.parametrize("alone", [True, False])
def test_topics_that_the_champion_was_not_taught_make_up_for_no_loss_in_others(tmp_path: Path, alone: bool) -> None:
    """Ten topics of thirty are taught anew; g10 was taught before, by another wording."""
    champion_of(tmp_path, [FAQ, *(said(n) for n in ((10,) if alone else range(11)))])
    second = chain(tmp_path, "t2", "v1", items=ITEMS + 20, champion=0.5, candidate=0.47)
    rows = pq.read_table(second["evaluate"] / "answers.parquet").to_pylist()
    for row in rows:
        if row["model"] == "candidate" and int(row["group"][1:]) < 10:
            row |= {"token_f1": 0.9, "rouge_l": 0.9}
    write_table(second["evaluate"] / "answers.parquet", pa.Table.from_pylist(rows))
    taught = [FAQ, *(said(n) for n in range(11)), said(10, id="s10 too", question="another")]
    files = {"train.parquet": taught, "validation.parquet": [], "test.parquet": []}
    annotate = finish(tmp_path, "annotate", "a2", {"clean": "clean/k1"}, files)
    decision = release(tmp_path, {**second, "annotate": annotate}, registry_in(tmp_path).opponent("c-t2"))
    told = [(c["old_topics"], c["passed"]) for c in decision["comparisons"] if c["metric"] == "rouge_l"]
    if alone:
        assert (decision["outcome"], told) == ("rejected", [(0, True), (20, False)])
        assert "rouge_l (guardrail, on the 20 topics" in decision["reasons"][0] and "-0.030" in decision["reasons"][0]
    else:
        assert (decision["outcome"], told) == ("promoted", [(0, True)])


def test_new_items_refill_the_budget_by_their_share(tmp_path: Path) -> None:
    for n in range(1, 5):
        next_release(tmp_path, f"t{n}")
    left = ledger_of(tmp_path)[-1].left
    grown = next_release(tmp_path, "t5", items=60)
    assert grown["attempt"] == 5
    assert grown["level"] + grown["left"] == pytest.approx(left + (ALPHA - left) * 20 / 60)
    assert [len(a.asked) for a in ledger_of(tmp_path)] == [40, 40, 40, 40, 60]
    assert next_release(tmp_path, "t6", items=40)["left"] < grown["left"]  # shrunk: nothing new


def test_questions_that_are_written_otherwise_refill_nothing(tmp_path: Path) -> None:
    for n in range(1, 5):
        next_release(tmp_path, f"t{n}")
    left = ledger_of(tmp_path)[-1].left
    other = next_release(tmp_path, "t5", wording=" QUESTION   {}?")
    assert other["attempt"] == 5 and other["level"] + other["left"] == pytest.approx(left)


def test_a_test_that_was_shelved_and_has_grown_has_what_it_had(tmp_path: Path) -> None:
    for n in range(1, 5):
        next_release(tmp_path, f"t{n}")
    left = ledger_of(tmp_path)[-1].left
    assert next_release(tmp_path, "t5", wording="another {}")["attempt"] == 1
    back = next_release(tmp_path, "t6", items=ITEMS + 1)
    assert back["attempt"] == 5
    assert back["level"] + back["left"] == pytest.approx(left + (ALPHA - left) / 41)


def test_each_question_of_the_gate_has_its_own_answer_again(tmp_path: Path) -> None:
    next_release(tmp_path, "t1")
    inputs = chain(tmp_path, "t2", "v1", base=0.2, champion=0.5, candidate=0.7)
    champion = registry_in(tmp_path).opponent("c-t2")
    strict = release(tmp_path, inputs, champion, min_effect=0.3)
    lenient = release(tmp_path, inputs, champion, min_effect=0.01)
    assert (strict["outcome"], lenient["outcome"]) == ("rejected", "promoted")
    before = ledger_of(tmp_path)
    again = release(tmp_path, inputs, champion, min_effect=0.3)
    assert {**again, "aliases": strict["aliases"]} == strict and again["aliases"]["champion"] == "v2"
    assert registry_in(tmp_path).get("v2").status == "rejected" and ledger_of(tmp_path) == before
    assert {**release(tmp_path, inputs, champion), "aliases": lenient["aliases"]} == lenient


def test_what_was_said_against_another_champion_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = registry_in(tmp_path)
    next_release(tmp_path, "t1")
    third: dict[str, Path] = {}
    for n, score in (("t2", 0.6), ("t3", 0.6), ("t4", 0.9)):  # v2 is on trial; v3 and v4 passed against v1, too
        inputs = chain(tmp_path, n, "v1", base=0.2, champion=0.5, candidate=score)
        assert release(tmp_path, inputs, registry.opponent(f"c-{n}"), canary=True)["outcome"] == "promoted"
        third = inputs if n == "t3" else third
    registry.promote("v4")
    assert release(tmp_path, third, registry.opponent("c-t3"))["outcome"] == "inconclusive"  # v1 is champion no more
    opponent = registry.opponent("c-t3")
    assert opponent is not None and opponent.name == "v4"
    scores = {"base": 0.2, "champion": 0.9, "candidate": 0.6}
    judged = third | evaluated(tmp_path, "t3", "v4", **scores)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="killed"):
        patch.setattr(type(registry), "_move", mock.Mock(side_effect=OSError("killed")))
        release(tmp_path, judged, opponent)
    decision = release(tmp_path, judged, registry.opponent("c-t3"))
    assert (decision["outcome"], decision["opponent"], registry.aliases()["champion"]) == ("rejected", "v4", "v4")


def test_a_model_that_somebody_removed_is_there_again_before_its_version_is_champion(tmp_path: Path) -> None:
    next_release(tmp_path, "t1")
    inputs = chain(tmp_path, "t2", "v1", base=0.2, champion=0.5, candidate=0.7)
    registry = registry_in(tmp_path)
    assert release(tmp_path, inputs, registry.opponent("c-t2"), min_effect=0.3)["outcome"] == "rejected"
    shutil.rmtree(registry.get("v2").servable)
    assert release(tmp_path, inputs, registry.opponent("c-t2"), min_effect=0.01)["aliases"]["champion"] == "v2"
    assert (registry.get("v2").servable / "model.bin").read_text() == "servable t2"
    assert [p.name for p in registry.get("v2").path.parent.iterdir() if p.name.startswith(".")] == []


def test_what_a_finished_comparison_was_with_may_be_gone(tmp_path: Path) -> None:
    next_release(tmp_path, "t1")
    inputs = chain(tmp_path, "t2", "v1", base=0.2, champion=0.5, candidate=0.7)
    registry = registry_in(tmp_path)
    first = release(tmp_path, inputs, registry.opponent("c-t2"))
    shutil.rmtree(registry.get("v1").path)
    assert registry.opponent("c-t2") == registry.folder / "versions" / "v1"
    assert release(tmp_path, inputs, registry.opponent("c-t2"))["outcome"] == first["outcome"] == "promoted"


def test_another_base_is_another_candidate(tmp_path: Path) -> None:
    next_release(tmp_path, "t1")
    next_release(tmp_path, "t2-1")
    selection = tmp_path / "artifacts" / "select" / "s1" / "selection.json"
    selection.write_text(selection.read_text().replace("9e37", "5eed"))
    assert next_release(tmp_path, "t2-2")["attempt"] == 3


def test_again_gives_the_decision_there_was_whatever_came_since(tmp_path: Path) -> None:
    next_release(tmp_path, "t1")
    scores = {"base": 0.2, "champion": 0.5, "candidate": 0.55}
    inputs = chain(tmp_path, "t2", "v1", **scores)
    champion = registry_in(tmp_path).opponent("c-t2")
    first = release(tmp_path, inputs, champion)
    next_release(tmp_path, "t3")
    before = ledger_of(tmp_path)
    assert {**release(tmp_path, inputs, champion), "aliases": first["aliases"]} == first
    assert ledger_of(tmp_path) == before
    asked = release(tmp_path, inputs, champion, min_effect=0.1)  # another question: another attempt
    assert (asked["outcome"], asked["attempt"]) == ("rejected", 4)


def test_a_comparison_with_one_that_is_no_champion_any_more_spends_nothing(tmp_path: Path) -> None:
    next_release(tmp_path, "t1")
    stale = chain(tmp_path, "t2", base=0.2, candidate=0.9)
    decision = release(tmp_path, stale)
    assert decision["attempt"] == 0
    assert len(ledger_of(tmp_path)) == 1
    (row,) = registry_in(tmp_path).decisions("v2")
    assert (row["outcome"], row["why"], row["numbers"]) == ("inconclusive", decision["reasons"][0], {})
    assert next_release(tmp_path, "t2-0", candidate=0.9)["attempt"] == 2


def test_a_level_that_the_topics_cannot_reach_leaves_the_champion(tmp_path: Path) -> None:
    decisions = [next_release(tmp_path, f"t{n}", items=20, min_items=20) for n in range(1, 9)]  # 10 topics
    assert [d["attempt"] for d in decisions] == [1, 2, 3, 4, 5, 6, 0, 0]
    assert "10 topics" in next_release(tmp_path, "t9", items=20, min_items=20, candidate=0.9)["reasons"][0]
    assert registry_in(tmp_path).aliases()["champion"] == "v1"


def die(*_: Any, **__: Any) -> None:
    os._exit(9)


def die_after(function: Callable[..., Any]) -> Callable[..., None]:
    def run(*given: Any, **named: Any) -> None:
        function(*given, **named)
        os._exit(9)

    return run


@pytest.mark.parametrize(
    ("where", "how"),
    [
        ("llmops.release.ledger.spend", die),
        ("llmops.release.ledger.spend", die_after(ledger.spend)),
        ("llmops.registry.registry.Registry._move", die),
        ("llmops.registry.registry.Registry._move", die_after(Registry._move)),
        ("llmops.release.stage.write_json", die),
        ("llmops.release.stage.emit", die),
    ],
)
def test_a_kill_spends_an_attempt_neither_twice_nor_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, how: Callable[..., None]
) -> None:
    next_release(tmp_path, "t1")
    inputs = chain(tmp_path, "t2", "v1", base=0.2, champion=0.5, candidate=0.7)
    champion = registry_in(tmp_path).opponent("c-t2")
    if not (child := os.fork()):
        monkeypatch.setattr(where, how)
        release(tmp_path, inputs, champion)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    if where not in ("llmops.release.stage.write_json", "llmops.release.stage.emit"):  # the database was told nothing
        registry = registry_in(tmp_path)
        assert {version.name: version.status for version in registry.versions()}.get("v2", "undecided") == "undecided"
        with pytest.raises(RegistryError, match="v2"):
            registry.promote("v2")
    decision = release(tmp_path, inputs, champion)
    assert (decision["outcome"], decision["attempt"], decision["level"]) == ("promoted", 2, pytest.approx(ALPHA / 6))
    assert [(a.version, a.number) for a in ledger_of(tmp_path)] == [("v1", 1), ("v2", 2)]
    assert registry_in(tmp_path).aliases() == {"candidate": "v2", "champion": "v2", "previous": "v1"}


def test_one_that_was_decided_on_meanwhile_costs_the_other_a_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_release(tmp_path, "t1")
    judge, raced = publish.judge, list[str]()

    def slow(*given: Any) -> Any:
        judgement = judge(*given)
        if not raced:
            raced.append("t3")
            next_release(tmp_path, "t3")
        return judgement

    monkeypatch.setattr(publish, "judge", slow)
    assert next_release(tmp_path, "t2")["attempt"] == 3
    assert [a.number for a in ledger_of(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("kept", [False, True])
def test_a_kill_while_a_version_is_judged_anew_lets_nothing_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its folder has been told already, the database has not."""
    next_release(tmp_path, "t1")
    inputs = chain(tmp_path, "t2", "v1", base=0.2, champion=0.5, candidate=0.7)
    champion = registry_in(tmp_path).opponent("c-t2")
    assert release(tmp_path, inputs, champion, min_effect=0.3)["outcome"] == "rejected"
    if not (child := os.fork()):
        monkeypatch.setattr("llmops.registry.registry.Registry._move", die)
        release(tmp_path, inputs, champion)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    registry = registry_in(tmp_path)
    assert json.loads((registry.get("v2").path / "version.json").read_text())["status"] == "promoted"
    assert registry.get("v2").status == "rejected"
    for words in (["promote", "v2"], ["canary", "v2"]):
        assert cli.main(["models", *words, "--set", f"home={tmp_path}"]) == 1
    assert cli.main(["models", "list", "--set", f"home={tmp_path}"]) == 0
    assert re.search(r"(?m)^v2 +rejected", capsys.readouterr().out)
    again = release(tmp_path, inputs, champion, **({"min_effect": 0.3} if kept else {}))
    assert (again["outcome"], again["attempt"]) == (("rejected", 2) if kept else ("promoted", 3))


def test_a_canary_that_is_judged_again_and_not_passed_ends(tmp_path: Path) -> None:
    next_release(tmp_path, "t1")
    inputs = chain(tmp_path, "t2", "v1", base=0.2, champion=0.5, candidate=0.7)
    champion, registry = registry_in(tmp_path).opponent("c-t2"), registry_in(tmp_path)
    assert release(tmp_path, inputs, champion, canary=True)["aliases"]["canary"] == "v2"
    assert release(tmp_path, inputs, champion, canary=True, min_effect=0.3)["outcome"] == "rejected"
    assert registry.canary() is None and "its trial ends" in registry.history()[-1]["why"]
    registry.start_canary("v2", 0.1, override="the customer waits for it")
    release(tmp_path, inputs, champion, canary=True, min_effect=0.31)
    assert registry.aliases()["canary"] == "v2"  # it is there for that reason, not by the gate


def test_what_its_canary_pulled_is_not_promoted_by_a_run_without_canaries(tmp_path: Path) -> None:
    next_release(tmp_path, "t1")
    inputs = chain(tmp_path, "t2", "v1", base=0.2, champion=0.5, candidate=0.7)
    champion, registry = registry_in(tmp_path).opponent("c-t2"), registry_in(tmp_path)
    release(tmp_path, inputs, champion, canary=True)
    trial = registry.canary()
    assert trial and rollout.pull(registry, tmp_path / "events", trial, "it is worse", {})
    assert release(tmp_path, inputs, champion)["aliases"] == {"champion": "v1", "candidate": "v2"}

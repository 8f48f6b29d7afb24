"""The whole pipeline on the example's real data, with a tiny base model so that it takes a minute; no Airflow."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from llmops import artifacts
from llmops.model.gguf.pipeline import is_gguf
from llmops.records import Dropped, Example, read_rows
from llmops.scans.pii import scan_all

from .conftest import DAY, Llmops


@pytest.fixture(scope="module")
def stages(home: Path) -> dict[str, Path]:
    """The artifact of every stage; of `release` the one that decided last, which is the base's with the documents."""
    rows = [json.loads(line) for line in (home / "printed.jsonl").read_text().splitlines()]
    return {row["stage"]: Path(row["artifact"]) for row in rows}


def test_every_artifact_is_whole(stages: dict[str, Path]) -> None:
    assert list(stages) == [
        "collect", "clean", "index", "annotate", "select", "features", "tune", "train", "compress", "evaluate",
        "govern", "release", "deploy", "push_to_hub",
    ]  # fmt: skip
    assert {name: artifacts.verify(path) for name, path in stages.items()} == {name: [] for name in stages}


def test_running_again_changes_nothing(home: Path, stages: dict[str, Path], llmops: Llmops) -> None:
    before = {p: p.read_bytes() for p in home.rglob("record.json")}
    done = llmops("run", "all", "--interval", DAY, "--json")
    assert done.returncode == 0, done.stderr[-4000:]
    assert {p: p.read_bytes() for p in home.rglob("record.json")} == before
    assert done.stdout == (home / "printed.jsonl").read_text()


def test_a_day_without_change_only_collects(stages: dict[str, Path], llmops: Llmops) -> None:
    done = llmops("run", "all", "--interval", (date.fromisoformat(DAY) + timedelta(days=1)).isoformat())
    assert done.returncode == 0, done.stderr[-4000:]
    collect, *others = done.stdout.splitlines()
    assert "unchanged" not in collect and str(stages["collect"]) not in collect
    assert dict(line.split()[:2] for line in others) == {n: str(p) for n, p in stages.items() if n != "collect"}
    assert all(f"unchanged since {DAY}" in line for line in others)
    assert "nothing to train" in next(line for line in others if line.startswith("train"))


def test_bad_rows_are_kept_with_their_place(stages: dict[str, Path]) -> None:
    quarantined = {
        (row.source, row.location, row.rule) for row in read_rows(stages["collect"] / "quarantine.parquet", Dropped)
    }
    assert ("returns_policy", "sources/policy/returns_policy_2019.pdf", "unreadable") in quarantined
    assert ("chats", "sources/chats.jsonl", "malformed") in quarantined
    assert ("customers", "sources/customers.csv", "encoding") in quarantined
    dropped = {row.rule for row in read_rows(stages["clean"] / "dropped", Dropped)}
    assert {"duplicate", "missing", "too_short"} <= dropped


def test_splits_share_no_group_and_hold_no_personal_data(stages: dict[str, Path]) -> None:
    splits = {s: read_rows(stages["annotate"] / f"{s}.parquet", Example) for s in ("train", "validation", "test")}
    groups = {name: {e.group for e in examples} for name, examples in splits.items()}
    assert not (groups["train"] & groups["test"] or groups["train"] & groups["validation"])
    assert not groups["validation"] & groups["test"]
    assert len(splits["test"]) >= 60
    assert sum(map(len, splits.values())) >= 300
    texts = [text for rows in splits.values() for e in rows for text in (e.question, e.answer, e.context)]
    found = scan_all(texts, ["EMAIL_ADDRESS", "CREDIT_CARD", "PHONE_NUMBER", "SECRET"])
    assert [t for t, counts in zip(texts, found, strict=True) if counts] == []
    assert any("<EMAIL_ADDRESS>" in t for t in texts) and any("<CREDIT_CARD>" in t for t in texts)


def test_what_is_trained_is_what_feast_holds(stages: dict[str, Path]) -> None:
    from llmops.features.examples import read_offline

    trained = {t.id for t in read_offline(stages["features"], "train")}
    assert trained == {e.id for e in read_rows(stages["annotate"] / "train.parquet", Example)}


def test_decision_version_and_lineage(home: Path, stages: dict[str, Path], llmops: Llmops) -> None:
    decision = json.loads((stages["release"] / "decision.json").read_text())
    assert decision["outcome"] in ("promoted", "rejected", "inconclusive") and decision["reasons"]
    assert decision["opponent"] == "base" and decision["items"] >= 60
    version = home / "registry" / "support-bot" / "versions" / decision["version"]
    assert json.loads((version / "version.json").read_text())["quantisation"] == "q8_0"
    assert is_gguf(version / "servable")
    card = (version / "README.md").read_text()
    assert "base_model" in card and "CC0-1.0" in card
    done = llmops("lineage", decision["version"])
    assert done.returncode == 0, done.stderr
    dataset = artifacts.read_record(stages["annotate"]).files["train.parquet"]
    for expected in (decision["version"], "test-run", dataset[:12], "sources/chats.jsonl", "local"):
        assert expected in done.stdout
    pushed = json.loads((stages["push_to_hub"] / "push.json").read_text())
    assert pushed == {"state": "no repository"}
    deployed: dict[str, Any] = json.loads((stages["deploy"] / "deployment.json").read_text())
    if decision["outcome"] == "promoted":
        assert deployed["version"] == decision["version"]
    else:
        assert deployed["state"] == "no champion"


def test_errors_are_one_line(home: Path, llmops: Llmops) -> None:
    done = llmops("lineage", "v99")
    assert done.returncode == 1 and done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1 and "v99" in done.stderr
    done = llmops("run", "collect", "--set", "collect.sources=[]")
    assert done.returncode == 1 and "source" in done.stderr.splitlines()[-1]

"""The features stage with real Feast stores: written once, read back offline and online."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from llmops.config import Features
from llmops.errors import ArtifactError
from llmops.features.examples import read_offline
from llmops.features.online import OnlineTokens, read_online
from llmops.features.stage import run
from llmops.prompts import training_ids
from llmops.records import Dropped, read_rows


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, make: Any) -> dict[str, Any]:
    """One run with everything in it, its inputs and its metrics."""
    home = tmp_path_factory.mktemp("with a space") / ".llmops"
    base = make.select(home / "artifacts" / "select" / "0123456789abcdef")
    train = [make.example(n, context="b " * n) for n in range(40, -1, -1)]
    train += [make.example(100, answer="c " * 500), make.example(101, context="b " * 500, interval=""), make.example(3)]
    data = make.annotate(
        home / "annotate", train=train, validation=[make.example(200, "validation")], test=[make.example(300, "test")]
    )
    out = home / "artifacts" / "features" / "fedcba9876543210"
    out.mkdir(parents=True)
    config = Features(store=home / "feast", max_tokens=128, online_batch=7)
    metrics = run(config, annotate=data, select=base, out=out)
    return {"config": config, "data": data, "base": base, "out": out, "metrics": metrics, "train": train}


def test_offline_gives_what_the_prompt_format_makes_in_the_order_written(world: dict[str, Any]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(world["base"] / "base")
    found = read_offline(world["out"], "train")
    assert [t.id for t in found] == [f"id{n}" for n in range(40, -1, -1)] + ["id101"]
    for tokens, item in zip(found[:41], world["train"], strict=False):
        expected = training_ids(tokenizer, item.question, item.answer, item.context)
        assert (tokens.token_ids, tokens.prompt_tokens) == expected
    assert [t.id for t in read_offline(world["out"], "validation")] == ["id200"]
    assert [t.id for t in read_offline(world["out"], "test")] == ["id300"]
    with pytest.raises(ArtifactError, match="'dev'"):
        read_offline(world["out"], "dev")


def test_online_gives_the_same_tokens_by_input_id_and_none_for_an_unknown_one(world: dict[str, Any]) -> None:
    offline = {t.id: t for t in read_offline(world["out"], "train")}
    assert read_online(world["out"], ["id7", "nobody", "id101", "id40"]) == [
        offline["id7"], None, offline["id101"], offline["id40"],
    ]  # fmt: skip
    assert read_online(world["out"], []) == []


def test_what_cannot_be_used_is_kept_with_its_reason_and_counted(world: dict[str, Any]) -> None:
    dropped = read_rows(world["out"] / "dropped.parquet", Dropped)
    assert [(d.id, d.rule, d.position) for d in dropped] == [
        ("id100", "too_long", "row 100"),
        ("id3", "duplicate", "row 3"),
    ]
    metrics = world["metrics"]
    assert metrics["examples"] == 44 and metrics["truncated"] == 1 and metrics["longest"] == 128
    assert metrics["dropped"] == {"too_long": 1, "duplicate": 1}
    assert metrics["tokens"]["train"] == sum(len(t.token_ids) for t in read_offline(world["out"], "train"))


def test_rows_carry_mask_metadata_and_the_date_of_their_interval(world: dict[str, Any]) -> None:
    rows = pq.read_table(world["out"] / "features.parquet").to_pylist()
    assert all(row["attention_mask"] == [1] * len(row["token_ids"]) for row in rows)
    assert json.loads(rows[0]["meta"]).keys() == {"split", "source", "group", "prompt_tokens"}
    assert rows[0]["event_timestamp"].date().isoformat() == "2026-01-31"


def test_two_artifacts_share_the_online_store_and_each_keeps_its_own_tokens(world: dict[str, Any], make: Any) -> None:
    """Another base model's tokens of the same example must not shine through, nor may its file be read."""
    other = make.select(world["base"].with_name("aaaaaaaaaaaaaaaa"), tuple(reversed(make.WORDS)))
    out = world["out"].with_name("bbbbbbbbbbbbbbbb")
    out.mkdir()
    before = read_online(world["out"], ["id7"]), list(read_offline(world["out"], "train"))
    registry = (world["out"] / "registry.db").read_bytes()
    run(world["config"], annotate=world["data"], select=other, out=out)
    assert (read_online(world["out"], ["id7"]), list(read_offline(world["out"], "train"))) == before
    assert (world["out"] / "registry.db").read_bytes() == registry
    assert read_online(out, ["id7"]) != before[0]
    assert OnlineTokens(out).read(["id200"]) == list(read_offline(out, "validation"))


def test_nothing_left_to_train_on_is_an_error(tmp_path: Path, make: Any) -> None:
    data = make.annotate(
        tmp_path / "annotate", train=[make.example(1, answer="c " * 99)], test=[make.example(2, "test")]
    )
    with pytest.raises(ArtifactError, match="max_tokens"):
        run(
            Features(store=tmp_path, max_tokens=32), annotate=data, select=make.select(tmp_path / "select"),
            out=tmp_path / "out",
        )  # fmt: skip


def test_declarations_that_feast_refuses_are_an_error(tmp_path: Path, make: Any) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "feature_store.yaml").write_text("project: '!'\nprovider: local\nregistry: r.db\n")
    with pytest.raises(ArtifactError, match="Feast refuses"):
        run(
            Features(repo=tmp_path / "repo", store=tmp_path), annotate=make.annotate(tmp_path, train=[make.example(1)]),
            select=make.select(tmp_path / "select"), out=tmp_path / "out",
        )  # fmt: skip


def test_a_folder_that_is_no_artifact_is_named(tmp_path: Path) -> None:
    for read in (lambda: read_offline(tmp_path, "train"), lambda: read_online(tmp_path, ["x"])):
        with pytest.raises(ArtifactError, match="run features"):
            read()

"""The features stage with real Feast stores: written once, read back offline and online."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from llmops.config import Features
from llmops.data.features.examples import read_offline
from llmops.data.features.online import read_online
from llmops.data.features.stage import run
from llmops.frame.errors import ArtifactError
from llmops.frame.records import DroppedRow, read_rows
from llmops.prompts import encode_example


def test_usable_examples_are_offline_and_online_and_others_are_dropped_with_a_reason(tmp_path: Path, make: Any) -> None:
    home = tmp_path / "with a space" / ".llmops"
    base = make.select(home / "artifacts" / "select" / "0123456789abcdef")
    train = [make.example(n, context="b " * n) for n in range(40, -1, -1)]
    train += [make.example(100, answer="c " * 500), make.example(101, context="b " * 500, interval=""), make.example(3)]
    data = make.annotate(
        home / "annotate", train=train, validation=[make.example(200, "validation")], test=[make.example(300, "test")]
    )
    out = home / "artifacts" / "features" / "fedcba9876543210"
    metrics = run(Features(store=home / "feast", max_tokens=128, online_batch=7), annotate=data, select=base, out=out)
    tokenizer, found = AutoTokenizer.from_pretrained(base / "base"), read_offline(out, "train")
    assert [t.id for t in found] == [f"id{n}" for n in range(40, -1, -1)] + ["id101"], "in the order written"
    for tokens, item in zip(found[:41], train, strict=False):
        expected = encode_example(tokenizer, item.question, item.answer, item.context)
        assert (tokens.token_ids, tokens.prompt_tokens) == expected
    assert [t.id for split in ("validation", "test") for t in read_offline(out, split)] == ["id200", "id300"]
    assert read_online(out, ["id0", "id101", "id40"]) == [found[40], found[41], found[0]] and read_online(out, []) == []
    with pytest.raises(ArtifactError, match="'dev'"):
        read_offline(out, "dev")
    dropped = [(d.id, d.rule, d.position) for d in read_rows(out / "dropped.parquet", DroppedRow)]
    assert dropped == [("id100", "too_long", "row 100"), ("id3", "duplicate", "row 3")]
    assert metrics["examples"] == 44 and metrics["truncated"] == 1 and metrics["longest"] == 128
    assert metrics["dropped"] == {"too_long": 1, "duplicate": 1}
    assert metrics["tokens"]["train"] == sum(len(t.token_ids) for t in found)
    rows = pq.read_table(out / "features.parquet").to_pylist()
    assert all(row["attention_mask"] == [1] * len(row["token_ids"]) for row in rows)
    assert json.loads(rows[0]["meta"]).keys() == {"split", "source", "group", "prompt_tokens"}
    assert rows[0]["event_timestamp"].date().isoformat() == "2026-01-31"


def test_nothing_left_to_train_on_and_declarations_that_feast_refuses_are_errors(tmp_path: Path, make: Any) -> None:
    train, test = [make.example(1, answer="c " * 99)], [make.example(2, "test")]
    made = {"annotate": make.annotate(tmp_path, train=train, test=test), "select": make.select(tmp_path / "select")}
    with pytest.raises(ArtifactError, match="max_tokens"):
        run(Features(store=tmp_path, max_tokens=32), **made, out=tmp_path / "out")
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "feature_store.yaml").write_text("project: '!'\nprovider: local\nregistry: r.db\n")
    with pytest.raises(ArtifactError, match="Feast refuses"):
        run(Features(repo=tmp_path / "repo", store=tmp_path), **made, out=tmp_path / "out")


def test_a_folder_that_is_no_artifact_is_named(tmp_path: Path) -> None:
    for read in (lambda: read_offline(tmp_path, "train"), lambda: read_online(tmp_path, ["x"])):
        with pytest.raises(ArtifactError, match="run features"):
            read()

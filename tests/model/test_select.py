"""Selecting a base model: every filter, its reason, and the packaged model converted."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.config import Select
from llmops.errors import ConfigError
from llmops.model.catalog import Entry, catalogue
from llmops.model.select import base_path, choose, run

ROW = {"licence": "apache-2.0", "embedding": 0.1, "context": 2048, "languages": ("en",), "gated": False}
ONLINE = Select(offline=False)


def entries() -> list[Entry]:
    return [
        Entry(model="small", parameters=0.3, **ROW),
        Entry(model="big", parameters=7.0, **ROW),
        Entry(model="closed", parameters=0.4, **{**ROW, "licence": "llama3"}),
    ]


def reasons(rows: list[dict[str, str]]) -> dict[str, str]:
    return {row["model"]: row["why"] for row in rows}


def test_the_largest_that_passes_and_why_the_others_do_not() -> None:
    chosen, rows = choose(ONLINE, entries(), memory=24, gpu=True)
    assert chosen.model == "big"
    assert "llama3" in reasons(rows)["closed"]
    assert "smaller" in reasons(rows)["small"]


def test_memory_and_missing_gpu_exclude() -> None:
    chosen, rows = choose(ONLINE, entries(), memory=4, gpu=True)
    assert chosen.model == "small" and "GiB" in reasons(rows)["big"]
    chosen, rows = choose(ONLINE, entries(), memory=24, gpu=False)
    assert chosen.model == "small" and "no GPU" in reasons(rows)["big"]
    assert choose(Select(offline=False, model="big"), entries(), memory=24, gpu=False)[0].model == "big"


def test_none_passes_says_each_reason() -> None:
    with pytest.raises(ConfigError, match="small.*download.*closed.*licence"):
        choose(Select(), entries(), memory=24, gpu=True)


def test_unknown_model_is_named() -> None:
    with pytest.raises(ConfigError, match="'huge'"):
        choose(Select(model="huge"), entries(), memory=24, gpu=True)


def test_a_local_folder_is_taken_as_it_is(tiny_base: Path, tmp_path: Path) -> None:
    assert run(Select(model=str(tiny_base)), out=tmp_path)["revision"] == "local"
    assert base_path(tmp_path) == str(tiny_base)


def test_catalogue_covers_the_families() -> None:
    names = " ".join(e.model for e in catalogue())
    for family in ("SmolLM2", "Phi-3", "Llama-3", "Mistral", "Qwen"):
        assert family in names
    assert catalogue()[0].packaged()


def test_memory_estimate_matches_the_qlora_paper() -> None:
    seven = Entry(model="x", parameters=6.7, **{**ROW, "embedding": 0.13})
    assert 5.0 < seven.training_gib < 7.0  # the paper's 7 B: about 5 GB of weights and under 6 GB to train

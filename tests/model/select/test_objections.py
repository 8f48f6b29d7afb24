"""Every filter of the catalogue, and the reason it gives."""

from __future__ import annotations

from typing import Any

import pytest

from llmops.config import Select
from llmops.errors import ConfigError
from llmops.model.base.catalog import Entry
from llmops.model.select.objections import Capacity, objections

ROW: dict[str, Any] = {
    "licence": "apache-2.0", "embedding": 0.1, "context": 2048, "languages": ("en",), "gated": False, "layers": 24,
    "kv": 256,
}  # fmt: skip
ONLINE = Select(offline=False)
GPU = Capacity(training_gib=24, serving_gib=24, gpu=True, token=False)


def entry(model: str, parameters: float, **changed: Any) -> Entry:
    return Entry(model=model, parameters=parameters, **{**ROW, **changed})


SMALL, BIG = entry("small", 0.3), entry("big", 7.0)


@pytest.mark.parametrize(
    ("changed", "config", "capacity", "reason"),
    [
        ({"licence": "llama3"}, ONLINE, GPU, "llama3"),
        ({}, Select(offline=False, languages=("en", "fr")), GPU, "fr"),
        ({}, Select(offline=False, min_context=4096), GPU, "4,096"),
        ({}, Select(), GPU, "download"),
        ({"gated": True}, ONLINE, GPU, "HF_TOKEN"),
        ({}, ONLINE, Capacity(3, 24, True, False), "train"),
        ({}, ONLINE, Capacity(12, 24, True, False), "evaluated in bfloat16"),
        ({}, ONLINE, Capacity(24, 3, True, False), "served"),
        ({}, ONLINE, Capacity(24, 24, False, False), "no GPU"),
    ],
)
def test_every_filter_says_why(changed: dict[str, Any], config: Select, capacity: Capacity, reason: str) -> None:
    able = entry("able", 0.3, languages=("en", "fr"), context=8192)
    found = objections(config, [able, entry("odd", 7.0, **changed)], capacity, local={"able"})
    assert found["able"] == "" and reason in found["odd"]


def test_a_gated_model_passes_with_a_token_or_when_it_is_here() -> None:
    gated = entry("gated", 7.0, gated=True)
    assert objections(ONLINE, [gated], Capacity(24, 24, True, True), set()) == {"gated": ""}
    assert objections(ONLINE, [gated], GPU, {"gated"}) == {"gated": ""}


def test_a_named_model_may_be_large_without_a_gpu_but_not_break_the_licence() -> None:
    named = Select(offline=False, model="big")
    assert objections(named, [SMALL, BIG], Capacity(24, 24, False, False), set()) == {"big": ""}
    with pytest.raises(ConfigError, match="licence"):
        objections(named, [entry("big", 7.0, licence="llama3")], GPU, set())
    with pytest.raises(ConfigError, match="'huge'"):
        objections(Select(model="huge"), [SMALL], GPU, set())


def test_none_passes_says_each_reason() -> None:
    with pytest.raises(ConfigError, match="small.*download.*closed.*licence"):
        objections(Select(), [SMALL, entry("closed", 0.4, licence="llama3")], GPU, set())

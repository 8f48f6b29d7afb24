"""Every filter of the catalogue, and the reason it gives."""

from typing import Any

import pytest

from llmops.config import Select
from llmops.frame.errors import ConfigError
from llmops.model.base.objections import Capacity, find_objections
from tests.model.samples import make_entry

ONLINE = Select(offline=False)
GPU = Capacity(training_gib=24, serving_gib=24, gpu=True, token=False)
SMALL, BIG = make_entry("small", 0.3), make_entry("big", 7.0)


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
    able = make_entry("able", 0.3, languages=("en", "fr"), context=8192)
    found = find_objections(config, [able, make_entry("odd", 7.0, **changed)], capacity, local={"able"})
    assert found["able"] == "" and reason in found["odd"]


def test_what_passes_all_the_same_and_what_does_not() -> None:
    gated = make_entry("gated", 7.0, gated=True)
    assert find_objections(ONLINE, [gated], Capacity(24, 24, True, True), set()) == {"gated": ""}
    assert find_objections(ONLINE, [gated], GPU, {"gated"}) == {"gated": ""}

    named = Select(offline=False, model="big")
    assert find_objections(named, [SMALL, BIG], Capacity(24, 24, False, False), set()) == {
        "big": ""
    }  # without a GPU, too
    with pytest.raises(ConfigError, match="licence"):
        find_objections(named, [make_entry("big", 7.0, licence="llama3")], GPU, set())
    with pytest.raises(ConfigError, match="'huge'"):
        find_objections(Select(model="huge"), [SMALL], GPU, set())

    with pytest.raises(ConfigError, match="small.*download.*closed.*licence"):
        find_objections(Select(), [SMALL, make_entry("closed", 0.4, licence="llama3")], GPU, set())

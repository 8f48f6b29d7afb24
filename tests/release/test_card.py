"""The model card of a classifier shows what its threshold does."""

from types import SimpleNamespace
from typing import Any

import pytest

from llmops.release import card

CURVE: list[dict[str, float]] = [
    {"threshold": 0.0, "refused": 0.0, "accuracy": 0.9},
    {"threshold": 0.25, "refused": 0.021, "accuracy": 0.95},
    {"threshold": 1.0, "refused": 1.0},
]


def render(calibration: dict[str, Any]) -> str:
    """Return the card of a classifier with this calibration."""
    facts: dict[str, Any] = {"name": "v1", "classifies": True, "dataset": "5a", "base_model": "bert", "licence": "mit"}
    facts |= {"quantisation": "int8", "status": "promoted", "erasures": (), "interval": "", "run": "", "created": ""}
    version: Any = SimpleNamespace(**facts, compared_with="", system_prompt="")
    base = {"model": "bert", "revision": "local", "licence": "mit"}
    return card.render(
        "intents",
        version,
        decision=SimpleNamespace(outcome="promoted", opponent="base", reasons=(), index=""),  # type: ignore[arg-type]
        evaluation={"items": 3, "confidence": 0.95, "models": {"candidate": {"accuracy": 0.9}}},
        governance={"verdict": "passed", "reasons": [], "counts": []},
        lineage={"base_model": base, "git_commit": "", "dataset": {"sha256": "5a"}, "stages": []},
        sources=[],
        training={},
        calibration=calibration,
        chat=False,
    )


@pytest.mark.parametrize("held_out", [0, 7])
def test_the_curve_has_a_row_per_threshold(held_out: int) -> None:
    curve = [{**point, **({"out_of_scope_refused": 0.4} if held_out else {})} for point in CURVE]
    text = render({"threshold": 0.25, "out_of_scope_measured": held_out, "curve": curve})
    outside = " 40.0% |" if held_out else ""
    assert f"\n| 0.25 | 2.1% | 95.0% |{outside}\n| 1 | 100.0% |  |{outside}\n" in text
    assert "probability below 0.25 gets no label" in text and ("7 out-of-scope texts" in text) == bool(held_out)


def test_a_threshold_of_zero_is_said() -> None:
    text = render({"threshold": 0.0, "out_of_scope_measured": 0, "curve": CURVE[:1]})
    assert "every text gets a label" in text and "gets no label" not in text


def test_without_a_calibration_there_is_no_threshold() -> None:
    assert "## Threshold" not in render({})

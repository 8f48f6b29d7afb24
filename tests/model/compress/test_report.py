"""The report of the stage compress says what a classifier's threshold does."""

from pathlib import Path
from typing import Any

import pytest

from llmops.model.compress.report import write_report

CURVE: list[dict[str, float]] = [
    {"threshold": 0.0, "refused": 0.0, "accuracy": 0.9},
    {"threshold": 0.25, "refused": 0.021, "accuracy": 0.95},
    {"threshold": 1.0, "refused": 1.0},
]


def write(out: Path, threshold: float, held_out: int = 0) -> str:
    """Return the report of a classifier with this threshold and so many out-of-scope texts to measure it."""
    interval = {"mean": 0.0, "low": 0.0, "high": 0.0}
    row: dict[str, Any] = {"variant": "f32", "size_mib": 1.0, "memory_mib": 2.0, "loss": 0.5, "token_f1": 1.0}
    row |= {"tokens_per_second_1": 3.0, "tokens_per_second_batch": 4.0, "loss_added": interval}
    curve = [{**point, **({"out_of_scope_refused": 0.4} if held_out else {})} for point in CURVE]
    document = {"chosen": "f32", "rule": "smallest", "items": 9, "confidence": 0.95, "batch": 8, "within": 0.01}
    document |= {"variants": [row]}
    document |= {"calibration": {"threshold": threshold, "out_of_scope_measured": held_out, "curve": curve}}
    write_report(document, out)
    assert (out / "compression.png").stat().st_size > 0
    return (out / "report.md").read_text()


@pytest.mark.parametrize("held_out", [0, 7])
def test_the_curve_has_a_row_per_threshold(held_out: int, tmp_path: Path) -> None:
    """No accuracy is shown where no label is given, and no refusal of out-of-scope texts that were not measured."""
    outside = " 40.0% |" if held_out else ""
    text = write(tmp_path, threshold=0.25, held_out=held_out)
    assert f"| **0.25** | 2.1% | 95.0% |{outside}\n" in text and f"| 1 | 100.0% |  |{outside}\n" in text
    assert ("7 out-of-scope texts" in text) == bool(held_out)


def test_a_threshold_of_zero_is_said(tmp_path: Path) -> None:
    text = write(tmp_path, threshold=0.0)
    assert "every text gets a label" in text and "gets no label" not in text and "| **0** |" in text

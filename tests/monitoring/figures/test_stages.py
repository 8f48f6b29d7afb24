"""What stages measured, as small tables: names, units, changes; whatever a record holds."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from llmops import artifacts
from llmops.monitoring.figures.stages import MOST_CHARS, rows, told

FACTS: dict[str, Any] = {"config": {}, "inputs": {}, "interval": "", "code": "", "files": {}, "git_commit": ""}


def lines(metrics: dict[str, Any], before: dict[str, Any] | None = None) -> list[tuple[str, ...]]:
    return [(row.name, row.value, row.unit, row.change) for row in rows(metrics, before)]


@pytest.mark.parametrize(
    ("metrics", "before", "row"),
    [
        ({"examples": 12345}, None, ("examples", "12,345", "", "")),
        ({"examples": 12345}, {"examples": 12000}, ("examples", "12,345", "", "+345")),
        ({"examples": 3}, {"examples": 3}, ("examples", "3", "", "=")),
        ({"final_loss": 2.123456}, {"final_loss": 2.2}, ("final loss", "2.123", "nats/token", "−0.07654")),
        ({"truncated_share": 0.125}, {"truncated_share": 0.1}, ("truncated share", "12.5", "%", "+2.5")),
        ({"q8_0_size_mib": 8.3}, None, ("q8_0 size", "8.3", "MiB", "")),
        ({"f16_tokens_per_second_batch": 7952.6}, None, ("f16 batch", "7,953", "tokens/s", "")),
        ({"learning_rate": 5e-05}, {"learning_rate": 1e-4}, ("learning rate", "5e-05", "", "−5e-05")),
        ({"chosen": "q8_0"}, {"chosen": "f16"}, ("chosen", "q8_0", "", "was f16")),
        ({"chosen": "q8_0"}, {"chosen": 3}, ("chosen", "q8_0", "", "was 3")),
        ({"items": 3}, {"items": "many"}, ("items", "3", "", "")),
        ({"gain": None}, {"gain": 0.5}, ("gain", "–", "", "")),
        ({"gain": 0.5}, {"gain": None}, ("gain", "0.5", "nats/token", "")),
        ({"beyond_noise": True}, {"beyond_noise": False}, ("beyond noise", "yes", "", "was False")),
        ({"final_loss": float("nan")}, {"final_loss": 1.0}, ("final loss", "nan", "", "was 1.0")),
        ({"final_loss": 1.0}, {"final_loss": float("inf")}, ("final loss", "1", "nats/token", "")),
        ({"big": 10**40}, {"big": 1}, ("big", f"{10**40:,}", "", f"+{float(10**40):,.0f}")),
        ({"gain_low": -0.0123}, None, ("gain low", "−0.0123", "nats/token", "")),
        ({"big": 10**400}, {"big": -1}, ("big", f"{10**400}"[: MOST_CHARS - 1] + "…", "", "was -1")),
        ({"truncated_share": 1e308}, {"truncated_share": -1e308}, ("truncated share", "1e+308", "", "was -1e+308")),
        ({"dropped": {"too_short": 2}}, {"dropped": {"too_short": 1}}, ("dropped: too short", "2", "", "+1")),
        ({"dropped": {"too_short": 2}}, {"dropped": 7}, ("dropped: too short", "2", "", "")),
        ({"reasons": ["a\nb"]}, None, ("reasons", "a b", "", "")),
        ({"why": "x" * 999}, None, ("why", "x" * (MOST_CHARS - 1) + "…", "", "")),
    ],
)  # fmt: skip
def test_a_row(metrics: dict[str, Any], before: dict[str, Any] | None, row: tuple[str, ...]) -> None:
    assert lines(metrics, before) == [row]


def test_what_has_further_levels_is_left_to_reports_and_lists_have_a_row_each() -> None:
    metrics = {"sources": {"faq": {"in": 3, "kept": 2}}, "empty": {}, "reasons": ["one", "two"], "nothing": []}
    assert [row[:2] for row in lines(metrics)] == [("reasons 1", "one"), ("reasons 2", "two")]


def test_of_a_long_list_the_first_are_shown() -> None:
    assert len(lines({"losses": [0.5] * 5000})) == 20


def made(root: Path, key: str, finished: str, metrics: dict[str, Any]) -> Path:
    path = root / "train" / key
    path.mkdir(parents=True)
    record = artifacts.Record("train", key, metrics=metrics, started=finished, finished=finished, **FACTS)
    artifacts.commit(path, record)
    return path


def test_a_log_has_the_table_beside_the_artifact_that_was_made_before(tmp_path: Path) -> None:
    made(tmp_path, "bb", "2026-01-01", {"examples": 5})
    made(tmp_path, "aa", "2026-01-02", {"examples": 1200, "tokens_per_second": 800.0})
    (tmp_path / "train" / "broken").mkdir()
    (tmp_path / "train" / "broken" / "record.json").write_text("{")
    (tmp_path / "train" / "begun").mkdir()
    (tmp_path / "train" / ".partial").mkdir()
    last = made(tmp_path, "a0", "2026-01-03", {"examples": 1000, "tokens_per_second": 907.25, "why": "as it was " * 5})
    assert told(last, artifacts.read_record(last)).splitlines() == [
        "train:",
        "  examples           1,000            −200",
        "  tokens per second  907.2  tokens/s  +107.2",
        "  why                as it was as it was as it was as it was as it was",
    ]


def test_a_stage_that_measured_nothing_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = made(tmp_path, "aa", "2026-01-01", {})
    assert told(path, artifacts.read_record(path)) == "train: nothing was measured"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

"""Counts of a side of a trial, by group of callers: they add up, survive being written, and stay small."""

import json

import pytest

from llmops.release.counts import GROUPS, SideCounts, assign_group


def test_figures_of_replicas_add_up_and_survive_being_written() -> None:
    one, two = SideCounts(), SideCounts()
    for n in range(1, 100):
        (one if n % 3 else two).add(f"caller {n % 7}", n / 100, n, 5, rejected=n % 50 == 0)
    one.count("caller 1", "failed")
    two.count("caller 2", "failed", 3)
    both = one + two
    assert [both.total(word) for word in ("answered", "failed", "rejected")] == [99, 4, 1] and both.requests == 103
    assert both.find_quantile_s(0.5) == pytest.approx(0.5, rel=0.1)
    assert both.find_quantile_s(0.95) == pytest.approx(0.94, rel=0.1)
    assert both.summarize()["callers"] == 7 and one.requests + two.requests == 103
    again = SideCounts.from_json(json.loads(json.dumps(both.as_json())))
    assert again == both and again.summarize() == both.summarize()
    assert SideCounts().summarize()["latency_ms"] == {"p50": None, "p95": None}


def test_a_million_callers_take_no_more_room_than_the_groups() -> None:
    figures = SideCounts()
    for n in range(20_000):
        figures.count(f"{n:08x}", "failed")
    assert len(figures.callers) == GROUPS and figures.total("failed") == 20_000


def test_nothing_of_a_callers_key_is_in_what_is_written() -> None:
    figures = SideCounts()
    figures.add("ab12cd34", 1.0, 5, 5)
    assert "ab12cd34" not in json.dumps(figures.as_json())
    assert assign_group("ab12cd34") == assign_group("ab12cd34") and 0 <= int(assign_group("ab12cd34")) < GROUPS

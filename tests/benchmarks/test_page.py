"""The page: machines beside each other, each replacing its own part only."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

SMALL, LARGE = "Small, 2 cores, 8 GiB", "Large, 64 cores, 256 GiB, GPU"
TITLES = {"data": "Cleaning.", "tuning": "Search."}
BARE = {"date": "2026-02-01", "load": 0.5, "machine": {"cores": 2, "versions": {}}}


def run(ratio: float, date: str = "2026-01-31", **more: Any) -> dict[str, Any]:
    machine = {"cores": 2, "versions": {"python": "3.11.7", "torch": "2.13.0"}}
    arms = {"ours": {"s": ratio}, "theirs": {"s": 1.0, "MiB": None}}
    told = {"machine": machine, "arms": arms, "ratios": {"faster": ratio}, "failed": {}}
    return {"date": date, "load": 0.5, **told, **more}


@pytest.fixture
def page(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("page")


def rows(text: str, first: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_machines_stand_beside_each_other_and_a_run_replaces_only_its_own_part(page: ModuleType) -> None:
    kept = page.merge({}, SMALL, "data", run(2.0, failed={"(c) peer": "pip said no"}, load=11.2))
    kept = page.merge(kept, LARGE, "data", run(5.0, "2026-02-01"))
    kept = page.merge(kept, LARGE, "tuning", {**BARE, "error": "KeyError: 'loss'"})
    text = page.render(kept, TITLES)
    assert rows(text, "faster") == [["faster", "5.000", "2.000"]]
    assert rows(text, "measured")[0] == ["measured", "2026-02-01", "2026-01-31"]
    assert "pip said no" in text and "KeyError: 'loss'" in text and "11 processes" in text
    after = page.merge(kept, SMALL, "data", run(7.0, "2026-03-01"))
    assert after[LARGE] == kept[LARGE] and kept[SMALL]["data"]["ratios"] == {"faster": 2.0}
    assert rows(page.render(after, TITLES), "faster") == [["faster", "5.000", "7.000"]]


def test_reasons_hold_no_folders(page: ModuleType) -> None:
    assert page.one_line("No such file:\n '/home/someone/llmops/x.json'") == "No such file: 'x.json'"
    kept = "GET http://127.0.0.1:8000/readyz/now failed, 10 docs/s and/or ../a/b"
    assert page.one_line(kept) == kept

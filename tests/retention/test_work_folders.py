"""`llmops gc` on what killed cleanings left at `clean.work`."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llmops import cli, config
from llmops.data.clean.work import Work
from llmops.retention.gc import gc

LEFT, LOCAL = "0123456789abcdef", "shared"


def left_by_a_kill(place: str, file: Path) -> None:
    """What a cleaning has there until it ends, and what somebody else has."""
    for name in (LEFT, "notes"):
        Work.at(f"{place}/{name}").take(file, "documents.parquet")
        Work.at(f"{place}/{name}").take(file, "parts/0.arrow")


@pytest.fixture(params=[LOCAL, "s3", pytest.param("azure", marks=pytest.mark.service)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == LOCAL:
        return str(tmp_path / LOCAL)
    return f"{request.getfixturevalue(request.param)}/work"


def test_they_go_when_nothing_has_written_to_them_for_days(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(bytes(1000))
    left_by_a_kill(place, tmp_path / "file")
    settings = config.load(overrides={"home": str(tmp_path / "home"), "clean": {"work": place + "/"}}, environ={})

    def there() -> set[str]:
        where = Work.at(place).address()
        return {path.rpartition(place.rpartition("/")[2])[2] for path in where.filesystem.find(where.path)}

    everything = there()
    monkeypatch.setenv("LLMOPS_CLEAN__WORK", place)
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "home"))
    assert cli.main(["gc", "--json"]) == 0  # it may still be running
    (item,) = json.loads(capsys.readouterr().out)["items"]
    assert (item["kind"], item["name"], item["goes"]) == ("work files", f"{place}/{LEFT}", False)
    assert item["size"] == 2000 and there() == everything and len(everything) == 4

    later = datetime.now(UTC) + timedelta(days=settings.retention.days + 1)
    told = gc(settings, dry_run=True, now=later)
    assert [item.name for item in told.plan.going] == [f"{place}/{LEFT}"] and there() == everything
    gc(settings, now=later)
    assert there() == {path for path in everything if "notes" in path}
    assert gc(settings, now=later).plan.items == []


def test_a_place_that_is_not_there_or_not_to_be_reached_stops_nothing(
    tmp_path: Path, no_credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def items(work: str) -> list[dict[str, Any]]:
        overrides = {"home": str(tmp_path / "home"), "clean": {"work": work}}
        found: list[dict[str, Any]] = gc(config.load(overrides=overrides, environ={})).as_json()["items"]
        return found

    assert items(str(tmp_path / "nowhere")) == []
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    (item,) = items("s3://bucket/work")
    assert not item["goes"] and "cannot be reached" in item["why"]

"""A cleaning that was killed leaves its work files at `clean.work`: they are part of an erasure."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.config import Config
from llmops.erasure.forget import forget
from llmops.errors import LlmopsError
from llmops.records import Document, write_rows

WHO = "anna.lind@example.com"


def killed(home: Path, work: Path, answer: str) -> Config:
    """A home in which `clean` was killed over its first artifact; another home's work files lie beside."""
    (home / "artifacts" / "clean" / "a1" / "documents").mkdir(parents=True)
    for key in ("a1", "b2"):
        document = Document(
            id="1", source="shop", location="shop.csv", position="row 1", question="Who?", answer=answer
        )
        write_rows(work / key / "documents.parquet", [document], Document)
    return Config(home=home, clean={"work": str(work)})


def test_work_files_of_an_unfinished_cleaning_go(tmp_path: Path) -> None:
    config = killed(tmp_path / "home", tmp_path / "work", f"Ask {WHO}.")
    assert forget(config, WHO, dry_run=True).remaining == {} and (tmp_path / "work" / "a1").is_dir()
    report = forget(config, WHO)
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["b2"]
    assert [place for place in report.unreached if str(tmp_path / "work") in place]


def test_they_stay_where_nothing_names_the_person(tmp_path: Path) -> None:
    with pytest.raises(LlmopsError, match="names this person"):
        forget(killed(tmp_path / "home", tmp_path / "work", "Ask us."), WHO)
    assert (tmp_path / "work" / "a1").is_dir()


@pytest.mark.parametrize("work", ["", "s3://bucket/work"])
def test_the_report_names_a_place_that_is_not_searched(tmp_path: Path, work: str) -> None:
    config = Config(home=tmp_path, clean={"work": work})
    (log := tmp_path / "logs" / "run.log").parent.mkdir()
    log.write_text(f"{WHO} called\n")
    assert bool([place for place in forget(config, WHO).unreached if "s3://bucket/work" in place]) == bool(work)

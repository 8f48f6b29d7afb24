"""`llmops status` (artifacts, newest first; the stages of the next run) and the last lines of `llmops run all`."""

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llmops import cli
from llmops.frame import artifacts, intervals
from llmops.frame.artifacts import Record
from llmops.pipeline import pipeline
from llmops.release.registry.version import build_partial


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "faq.csv").write_text("question,answer\nWhere?,Here.\n")
    source = [{"name": "faq", "kind": "csv", "location": "faq.csv"}]
    (tmp_path / "config.yaml").write_text(json.dumps({"collect": {"sources": source}}))
    monkeypatch.setenv("LLMOPS_CONFIG", str(tmp_path / "config.yaml"))
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def finish(path: Path, interval: str, finished: datetime) -> None:
    path.mkdir(parents=True)
    started = (finished - timedelta(seconds=90)).isoformat()
    record = Record(
        path.parent.name, path.name, {}, {}, interval, "", {}, {}, "", started, finished.isoformat(), "run 1"
    )
    artifacts.commit(path, record)


def status(capsys: Any, *arguments: str, exit_status: int = 0) -> str:
    assert (cli.main(["status", *arguments]) or 0) == exit_status
    return str(capsys.readouterr().out)


def test_a_new_home_has_nothing_and_the_next_run_builds_everything_of_yesterday(home: Path, capsys: Any) -> None:
    days = {(datetime.now(UTC) - timedelta(days=1)).date().isoformat()}
    text = status(capsys)
    days.add((datetime.now(UTC) - timedelta(days=1)).date().isoformat())
    assert any(day in text for day in days) and "llmops run all" in text
    assert all(stage in text for stage in pipeline.STAGES)
    assert not list(home.rglob("*"))  # looking makes no database
    (home / "artifacts" / "collect" / ("1" * 16) / "record.json").mkdir(parents=True)  # no file
    assert any(line.startswith("damaged") for line in status(capsys, exit_status=1).splitlines())


def test_a_home_whose_data_was_all_removed_shows_no_empty_list(home: Path, capsys: Any) -> None:
    path = home / "artifacts" / "clean" / ("0" * 16)
    finish(path, "2026-01-30", datetime(2026, 1, 31, 0, 5, tzinfo=UTC))
    assert "newest first" in status(capsys)
    removed = artifacts.read_record(path)
    (path / artifacts.RECORD).unlink()
    values = asdict(removed) | {"removed": "2026-02-10T00:00:00+00:00"}
    (path / artifacts.REMOVED_RECORD).write_text(json.dumps(values))
    text = status(capsys)
    assert "newest first" not in text and "llmops run all" not in text
    assert "data was removed: 1," in text


def test_after_midnight_what_was_made_is_still_told_newest_first(home: Path, capsys: Any) -> None:
    from llmops.config import load

    config, day = load(), "2026-01-31"
    collect = pipeline.plan_stage("collect", config, day).path
    finish(collect, day, datetime(2026, 2, 1, 0, 5, tzinfo=UTC))
    finish(collect.with_name("0" * 16), "2026-01-30", datetime(2026, 1, 31, 0, 5, tzinfo=UTC))
    finish(config.artifacts / "clean" / ("1" * 16), day, datetime(2026, 2, 1, 0, 7, tzinfo=UTC))
    rows = [line.split() for line in status(capsys).splitlines() if line.startswith("2026-01")]
    assert [(row[0], row[1], row[3], row[4]) for row in rows] == [
        ("2026-01-31", "clean", "00:07:00", "90.0"),
        ("2026-01-31", "collect", "00:05:00", "90.0"),
        ("2026-01-30", "collect", "00:05:00", "90.0"),
    ]
    said = json.loads(status(capsys, "--interval", day, "--json"))
    assert [stage["done"] for stage in said["next"]["stages"]][:2] == [True, False]
    assert said["next"]["interval"] == day and said["next"]["problem"] == ""
    assert said["artifacts"][1]["artifact"] == str(collect) and said["artifacts"][1]["run"] == "run 1"


def test_where_nothing_has_changed_the_next_run_has_only_to_collect(home: Path, capsys: Any) -> None:
    """Before it has, nobody knows whether there is more to do; where a stage has made nothing yet, there is."""
    day = intervals.parse_interval()
    for stage in ("collect", "clean"):
        finish(home / "artifacts" / stage / ("0" * 16), "2026-01-30", datetime(2026, 1, 31, 0, 5, tzinfo=UTC))
    text = status(capsys)
    assert "builds collect index annotate" in text and "to do for clean is known" in text
    said = json.loads(status(capsys, "--json"))["next"]
    assert said["interval"] == day and said["problem"] == ""
    assert said["stages"][1] == {"stage": "clean", "artifact": None, "done": False}


def test_a_damaged_file_is_named_when_asked_for(home: Path, capsys: Any) -> None:
    path = home / "artifacts" / "clean" / ("0" * 16)
    finish(path, "2026-01-30", datetime(2026, 1, 31, 0, 5, tzinfo=UTC))
    (path / "documents").write_text("rows")
    artifacts.commit(path, artifacts.read_record(path))
    (path / "documents").write_text("rots")
    assert not [line for line in status(capsys).splitlines() if line.startswith("damaged")]
    text = status(capsys, "--verify", exit_status=1)
    (line,) = [line for line in text.splitlines() if line.startswith("damaged")]
    assert f"{path} is damaged: documents is" in line and f"delete {path}" in line


def test_a_version_whose_model_was_changed_is_named(home: Path, capsys: Any) -> None:
    made = home / "artifacts" / "compress" / ("5" * 16)
    (made / "servable").mkdir(parents=True)
    (made / "servable" / "model.gguf").write_text("weights")
    now = datetime.now(UTC).isoformat()
    artifacts.commit(made, Record("compress", made.name, {}, {}, "2026-01-30", "", {}, {}, "", now, now))
    names = ("status", "compared_with", "base_model", "base_revision", "licence", "quantisation", "interval", "run")
    facts = dict.fromkeys((*names, "dataset", "created"), "") | {"name": "v1", "compress": made.name}
    version = home / "registry" / "support-bot" / "versions" / "v1"
    registered = build_partial(version, {"servable": made / "servable"}, {"version.json": json.dumps(facts)})
    registered.rename(version)
    assert "damaged" not in status(capsys, "--verify")
    (version / "servable" / "model.gguf").unlink()
    (version / "servable" / "model.gguf").write_text("WEIGHTS")
    (damaged,) = json.loads(status(capsys, "--json", "--verify", exit_status=1))["damaged"].values()
    assert "v1 is damaged: servable/model.gguf" in damaged and "rollback" in damaged


def test_a_source_that_is_not_there_hides_nothing_that_is(home: Path, capsys: Any) -> None:
    finish(home / "artifacts" / "collect" / ("0" * 16), "2026-01-30", datetime(2026, 1, 31, 0, 5, tzinfo=UTC))
    (home.parent / "faq.csv").unlink()
    text = status(capsys)
    assert "faq" in text and "cannot be planned" in text and "2026-01-30  collect" in text


@pytest.mark.parametrize("change", [{"finished": None}, {"stage": "x", "unknown": 1}, "{"])
def test_one_damaged_record_hides_no_other(change: dict[str, Any] | str, home: Path, capsys: Any) -> None:
    moment = datetime(2026, 1, 31, 0, 5, tzinfo=UTC)
    folder = home / "artifacts" / "collect"
    finish(folder / ("0" * 16), "2026-01-30", moment)
    finish(folder / ("1" * 16), "2026-01-31", moment)
    file = folder / ("1" * 16) / "record.json"
    file.write_text(change if isinstance(change, str) else json.dumps(json.loads(file.read_text()) | change))
    lines = status(capsys, exit_status=1).splitlines()
    assert any(line.startswith("2026-01-30  collect") for line in lines)
    (damaged,) = [line for line in lines if line.startswith("damaged")]
    assert f"delete {file.parent}" in damaged
    said = json.loads(status(capsys, "--json", exit_status=1))
    assert len(said["artifacts"]) == 1 and list(said["damaged"]) == [str(file.parent)]


def test_a_run_ends_with_its_result_and_says_which_configuration_it_had(
    home: Path, capsys: Any, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics: dict[str, dict[str, Any]] = {
        "annotate": {"train": 0, "test": 60, "made_up": 10},
        "train": {"skipped": "nothing to train on"},
        "release": {"version": "v1", "outcome": "promoted", "opponent": "base", "reasons": ["token_f1 +0.07"]},
        "deploy": {
            "version": "v1",
            "question": "Where?",
            "answer": "There.",
            "answer_from_documents": "Here.",
            "sources": ["faq.csv"],
        },
    }

    def finish_stage(name: str, settings: Any, interval: str, *_: Any, **__: Any) -> Path:
        path = home / "artifacts" / name / ("1" * 16)
        path.mkdir(parents=True)
        now = datetime.now(UTC).isoformat()
        artifacts.commit(
            path, Record(name, path.name, {}, {}, interval, "", metrics.get(name, {}), {}, "", now, now, "")
        )
        return path

    monkeypatch.setattr(pipeline, "run_stage", finish_stage)
    with caplog.at_level("INFO"):
        assert cli.main(["run", "all"]) == 0
    assert f"configuration: {home.parent / 'config.yaml'}; home: {home}" in caplog.text
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()] == list(pipeline.STAGES)
    last = printed.err.split("\n\n")[-1]
    assert "Nothing was trained: the sources gave 50 test items (annotate.min_test_items asks for 60)" in last
    assert "v1 promoted against base:\n  token_f1 +0.07" in last and "asked: Where?\n  Here.\n  source: faq.csv" in last

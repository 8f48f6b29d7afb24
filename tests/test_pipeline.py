"""`run_stage`: skip what is done, rebuild what is incomplete, one whole artifact when two runs race."""

from __future__ import annotations

import ast
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from llmops import artifacts, pipeline
from llmops.code_version import _shape
from llmops.config import Config, load
from llmops.errors import ArtifactError
from llmops.pipeline import STAGES, Stage, plan, run_stage

DAY = "2026-01-31"

FIRST = """
from pathlib import Path
def run(config, *, interval, out):
    (out / "calls").write_text(interval)
    with open(out.parent / "log", "a") as log:
        log.write("first\\n")
    return {"n": 1}
"""

SECOND = """
import os, time
from pathlib import Path
def run(config, *, first, out):
    left = sorted(p.name for p in out.iterdir())
    (out / "half").write_text("x")
    while os.environ.get("HANG"):
        time.sleep(0.1)
    with open(out.parent / "log", "a") as log:
        log.write(",".join(left) + "\\n")
    (out / "copy").write_text((first / "calls").read_text())
    return {"left": left}
"""


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two small stages under the names and sections of real ones."""
    (tmp_path / "first_stage.py").write_text(FIRST)
    (tmp_path / "second_stage.py").write_text(SECOND)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(
        pipeline, "STAGES", {"first": Stage("first_stage", interval=True), "second": Stage("second_stage", ("first",))}
    )
    monkeypatch.setattr(pipeline, "code_version", lambda module: "1")
    monkeypatch.setattr(pipeline, "_section", lambda config, name: config.train)
    return tmp_path


def settings(home: Path, **train: Any) -> Config:
    return load(overrides={"home": str(home), "train": train}, environ={})


def test_done_is_skipped_and_changes_are_not(stages: Path) -> None:
    config = settings(stages / "home")
    first = run_stage("first", config, DAY)
    second = run_stage("second", config, DAY)
    assert (run_stage("first", config, DAY), run_stage("second", config, DAY)) == (first, second)
    assert (first.parent / "log").read_text() == "first\n"
    assert run_stage("first", config, "2026-02-01") != first
    assert run_stage("first", settings(stages / "home", seed=1), DAY) != first
    record = artifacts.read_record(second)
    assert record.inputs == {"first": f"first/{first.name}"}
    assert set(record.files) == {"half", "copy"}
    assert [r.stage for r in artifacts.walk(second)] == ["second", "first"]


def test_missing_input_is_named(stages: Path) -> None:
    with pytest.raises(ArtifactError, match="needs first"):
        run_stage("second", settings(stages / "home"), DAY)


def test_incomplete_is_rebuilt_and_resumable_goes_on(stages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(stages / "home")
    run_stage("first", config, DAY)
    todo = plan("second", config, DAY)
    todo.path.mkdir(parents=True)
    (todo.path / "rubbish").touch()
    assert artifacts.read_record(run_stage("second", config, DAY)).metrics["left"] == []
    monkeypatch.setitem(pipeline.STAGES, "second", Stage("second_stage", ("first",), resumable=True))
    (todo.path / "record.json").unlink()
    assert artifacts.read_record(run_stage("second", config, DAY)).metrics["left"] == ["copy", "half"]


RUN = textwrap.dedent("""
    import sys
    from llmops import pipeline
    from llmops.config import load
    sys.path.insert(0, sys.argv[1])
    pipeline.STAGES.clear()
    pipeline.STAGES["first"] = pipeline.Stage("first_stage", interval=True)
    pipeline.STAGES["second"] = pipeline.Stage("second_stage", ("first",))
    pipeline.code_version = lambda module: "1"
    pipeline._section = lambda config, name: config.train
    print(pipeline.run_stage("second", load(overrides={"home": sys.argv[1] + "/home"}, environ={}), "2026-01-31"))
""")


def start(folder: Path, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder)], env={**os.environ, **environ}, stdout=subprocess.PIPE, text=True
    )


def test_two_runs_racing_end_with_one_whole_artifact(stages: Path) -> None:
    run_stage("first", settings(stages / "home"), DAY)
    paths = {p.communicate(timeout=120)[0] for p in [start(stages), start(stages), start(stages)]}
    assert len(paths) == 1
    path = Path(paths.pop().strip())
    assert (path.parent / "log").read_text() == "\n"  # built once
    assert artifacts.verify(path) == []


def test_killed_while_building_leaves_no_artifact_and_no_lock(stages: Path) -> None:
    config = settings(stages / "home")
    run_stage("first", config, DAY)
    path = plan("second", config, DAY).path
    process = start(stages, HANG="1")
    deadline = time.monotonic() + 60
    while not (path / "half").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not artifacts.is_done(path)
    assert run_stage("second", config, DAY) == path
    assert artifacts.read_record(path).metrics["left"] == []


def test_verify_finds_what_was_changed(stages: Path) -> None:
    path = run_stage("first", settings(stages / "home"), DAY)
    assert artifacts.verify(path) == []
    (path / "calls").write_text("other")
    assert artifacts.verify(path) == ["calls"]


def test_damaged_record_is_named(stages: Path) -> None:
    path = run_stage("first", settings(stages / "home"), DAY)
    (path / "record.json").write_text("{")
    with pytest.raises(ArtifactError, match="damaged"):
        artifacts.read_record(path)


def test_every_stage_has_a_section_and_known_inputs() -> None:
    seen: set[str] = set()
    for name, stage in STAGES.items():
        assert name in Config.model_fields
        assert set(stage.inputs) <= seen, f"{name} reads a stage that runs later"
        for other, useless in stage.sections.items():
            assert other not in stage.inputs
            assert set(useless) <= set(Config.model_fields[other].annotation.model_fields)  # type: ignore[union-attr]
        seen.add(name)


def test_another_section_counts_where_a_stage_reads_it(stages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tune` trains as `train` says; a field of it that it has no use for neither reaches it nor makes it run again."""
    (stages / "third_stage.py").write_text(
        "def run(config, *, train, out):\n"
        "    return {'trials': config.trials, 'rank': train.rank, 'seed': train.seed}\n"
    )
    monkeypatch.setattr(pipeline, "STAGES", {"tune": Stage("third_stage", sections={"train": ("seed",)})})
    monkeypatch.setattr(pipeline, "_section", lambda config, name: getattr(config, name))
    path = run_stage("tune", settings(stages / "home", rank=4, seed=3), DAY)
    record = artifacts.read_record(path)
    assert record.metrics == {"trials": Config().tune.trials, "rank": 4, "seed": 0}
    assert record.config["train"]["rank"] == 4 and record.config["trials"] == Config().tune.trials
    assert plan("tune", settings(stages / "home", rank=4, seed=5), DAY).path == path
    assert plan("tune", settings(stages / "home", rank=8, seed=3), DAY).path != path


def test_code_version_follows_imports(tmp_path: Path) -> None:
    versions = {stage.module: pipeline.code_version(stage.module) for stage in STAGES.values()}
    assert len(set(versions.values())) == len(STAGES)


def test_syntax_reads_the_same_in_every_python() -> None:
    """The digest was made on 3.11; where a later Python's differs, everything would be built again after an update."""
    text = '''
@cache
async def f(a: int = 1, *b, c=None, **d) -> list[str]:
    """Docstring
    of two lines."""
    match a:
        case [1, *_] | {"k": None}:
            return [f"{x!r:>{a}}" f'{b["q"]}' async for x in b if x]
    try:
        lambda: (yield)
    except* ValueError:
        global g
        del d[1:], g
class C(B, metaclass=M):
    x: float = 1e-5; y = ..., -0.0, 2j, b"\\xff", "\\u00e9"
'''
    assert hashlib.sha256(_shape(ast.parse(text)).encode()).hexdigest()[:12] == "2e2f1a037944"
    assert len({_shape(ast.parse(call)) for call in ("f(0)", "f(None)", "f()", "f('')", "f([])")}) == 5


def test_changed_files_are_new_work(tmp_path: Path) -> None:
    (tmp_path / "faq.csv").write_text("question,answer\nQ?,A.\n")
    source = {"name": "faq", "kind": "csv", "location": "*.csv", "fields": {"question": "question", "answer": "answer"}}
    collect = {"root": str(tmp_path), "sources": [source]}
    config = load(overrides={"home": str(tmp_path / "home"), "collect": collect}, environ={})
    first = run_stage("collect", config, DAY)
    assert run_stage("collect", config, DAY) == first
    (tmp_path / "faq.csv").write_text("question,answer\nQ?,B.\n")
    assert run_stage("collect", config, DAY) != first
    assert plan("train", config, DAY).path != plan("train", config, "2026-02-01").path

"""`run_stage`: skip what is done, rebuild what is incomplete, one whole artifact when two runs race."""

import ast
import os
import shutil
import subprocess
import sys
import textwrap
import types
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from llmops.config import Config, load
from llmops.frame import artifacts, code_version
from llmops.frame.errors import ArtifactError, LlmopsError
from llmops.pipeline import pipeline, stage_inputs
from llmops.pipeline.pipeline import STAGES, Stage, plan_stage, run_stage
from llmops.pipeline.stage_inputs import StagePlan
from llmops.state.database import database_of
from llmops.state.tables import erasures
from tests.clock import wait_until

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
import os, signal
from pathlib import Path
def run(config, *, first, out):
    left = sorted(p.name for p in out.iterdir())
    (out / "half").write_text("x")
    if os.environ.get("HANG"):
        signal.pause()
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
    monkeypatch.setattr(pipeline, "compute_code_version", lambda module: "1")
    monkeypatch.setattr(stage_inputs, "get_section", lambda config, name: config.train)
    return tmp_path


def make_settings(home: Path, **train: Any) -> Config:
    return load(overrides={"home": str(home), "train": train}, environ={})


def test_done_is_skipped_and_changes_are_not(stages: Path) -> None:
    config = make_settings(stages / "home")
    first = run_stage("first", config, DAY)
    second = run_stage("second", config, DAY)
    assert (run_stage("first", config, DAY), run_stage("second", config, DAY)) == (first, second)
    assert (first.parent / "log").read_text() == "first\n"
    assert run_stage("first", config, "2026-02-01") != first
    assert run_stage("first", make_settings(stages / "home", seed=1), DAY) != first
    record = artifacts.read_record(second)
    assert record.inputs == {"first": f"first/{first.name}"}
    assert set(record.files) == {"half", "copy"}
    assert [r.stage for r in artifacts.walk_lineage(second)] == ["second", "first"]


def test_incomplete_is_rebuilt_and_resumable_goes_on(stages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_settings(stages / "home")
    run_stage("first", config, DAY)
    todo = plan_stage("second", config, DAY)
    todo.path.mkdir(parents=True)
    (todo.path / "rubbish").touch()
    assert artifacts.read_record(run_stage("second", config, DAY)).metrics["left"] == []
    monkeypatch.setitem(pipeline.STAGES, "second", Stage("second_stage", ("first",), resumable=True))
    (todo.path / "record.json").unlink()
    assert artifacts.read_record(run_stage("second", config, DAY)).metrics["left"] == ["copy", "half"]


def test_stages_that_train_do_nothing_without_training_examples(stages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (stages / "idle_stage.py").write_text(FIRST.replace('"n": 1', '"train": 0'))
    monkeypatch.setitem(pipeline.STAGES, "first", Stage("idle_stage", interval=True))
    run_stage("first", make_settings(stages / "home"), DAY)
    for name, source in (("second", "first"), ("third", "second")):
        monkeypatch.setitem(pipeline.STAGES, name, Stage("second_stage", (source,), needs_examples=True))
        record = artifacts.read_record(run_stage(name, make_settings(stages / "home"), DAY, run="r1"))
        assert (record.metrics, record.files, record.run) == ({"skipped": "nothing to train on"}, {}, "r1")
    monkeypatch.setitem(pipeline.STAGES, "third", Stage("second_stage", ("first",)))
    assert "skipped" not in artifacts.read_record(run_stage("third", make_settings(stages / "home"), DAY)).metrics
    assert [name for name, stage in STAGES.items() if stage.needs_examples] == ["features", "tune", "train"]


def test_what_the_ledger_does_not_know_is_made_again(stages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup of the database takes its place, and the artifacts of the days since are still there."""
    text = FIRST.replace("interval, out", "interval, ledger, out")
    text = text.replace("    return", "    ledger.write([])\n    return")
    (stages / "ledger_stage.py").write_text(text)
    monkeypatch.setitem(pipeline.STAGES, "first", Stage("ledger_stage", interval=True, ledger=True))
    config = make_settings(stages / "home")
    first = run_stage("first", config, DAY)
    assert plan_stage("first", config, DAY).done
    (stages / "home" / "state.db").unlink()
    assert not plan_stage("first", config, DAY).done
    assert run_stage("first", config, DAY) == run_stage("first", config, DAY) == first
    assert (first.parent / "log").read_text() == "first\n" * 2


def test_nothing_is_made_before_an_interrupted_erasure_is_finished(stages: Path) -> None:
    config = make_settings(stages / "home")
    run_stage("first", config, DAY)
    with database_of(config).change() as connection:
        connection.execute(sa.insert(erasures).values(subject="x", begun=DAY, ended="", plan={"by": "admin"}))
    for name in ("first", "second"):
        with pytest.raises(LlmopsError, match="llmops data forget"):
            run_stage(name, config, DAY)
    with database_of(config).change() as connection:
        connection.execute(sa.update(erasures).values(ended=DAY))
    run_stage("second", config, DAY)


RUN = textwrap.dedent("""
    import sys
    from llmops.pipeline import pipeline, stage_inputs
    from llmops.config import load
    sys.path.insert(0, sys.argv[1])
    pipeline.STAGES.clear()
    pipeline.STAGES["first"] = pipeline.Stage("first_stage", interval=True)
    pipeline.STAGES["second"] = pipeline.Stage("second_stage", ("first",))
    pipeline.compute_code_version = lambda module: "1"
    stage_inputs.get_section = lambda config, name: config.train
    print(pipeline.run_stage("second", load(overrides={"home": sys.argv[1] + "/home"}, environ={}), "2026-01-31"))
""")


def start_run(folder: Path, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder)], env={**os.environ, **environ}, stdout=subprocess.PIPE, text=True
    )


def test_two_runs_racing_end_with_one_whole_artifact(stages: Path) -> None:
    run_stage("first", make_settings(stages / "home"), DAY)
    paths = {p.communicate(timeout=50)[0] for p in [start_run(stages), start_run(stages)]}
    assert len(paths) == 1
    path = Path(paths.pop().strip())
    assert (path.parent / "log").read_text() == "\n"  # built once
    assert artifacts.find_changed_files(path) == []


def test_killed_while_building_leaves_no_artifact_and_no_lock(stages: Path) -> None:
    config = make_settings(stages / "home")
    run_stage("first", config, DAY)
    path = plan_stage("second", config, DAY).path
    process = start_run(stages, HANG="1")
    wait_until((path / "half").exists, "the stage")
    process.kill()
    process.wait()
    assert not artifacts.is_done(path)
    assert run_stage("second", config, DAY) == path
    assert artifacts.read_record(path).metrics["left"] == []


def test_every_stage_has_known_inputs_and_sections() -> None:
    seen: set[str] = set()
    for name, stage in STAGES.items():
        assert set(stage.inputs) <= seen, f"{name} reads a stage that runs later"
        for other, useless in stage.sections.items():
            assert other not in stage.inputs
            hidden = useless(getattr(Config(), name))
            assert set(hidden) <= set(Config.model_fields[other].annotation.model_fields)  # type: ignore[union-attr]
        seen.add(name)


def test_another_section_counts_where_a_stage_reads_it(stages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tune` trains as `train` says; a field of it that it has no use for neither reaches it nor makes it run again."""
    (stages / "third_stage.py").write_text(
        "def run(config, *, train, out):\n"
        "    return {'trials': config.trials, 'rank': train.rank, 'seed': train.seed}\n"
    )
    monkeypatch.setattr(pipeline, "STAGES", {"tune": Stage("third_stage", sections=STAGES["tune"].sections)})
    monkeypatch.setattr(stage_inputs, "get_section", lambda config, name: getattr(config, name))
    path = run_stage("tune", make_settings(stages / "home", rank=4, seed=3), DAY)
    record = artifacts.read_record(path)
    assert record.metrics == {"trials": Config().tune.trials, "rank": 4, "seed": 0}
    assert record.config["train"]["rank"] == 4 and record.config["trials"] == Config().tune.trials
    assert plan_stage("tune", make_settings(stages / "home", rank=4, seed=5), DAY).path == path
    assert plan_stage("tune", make_settings(stages / "home", rank=8, seed=3), DAY).path != path
    hidden = STAGES["tune"].sections["train"]  # trials that are trained whole are given the epochs
    assert "epochs" in hidden(Config().tune)
    assert "epochs" not in hidden(Config(tune={"steps": 0, "halving": 1}).tune)


@pytest.mark.parametrize("name", ["features", "evaluate"])
def test_a_stage_reads_index_and_settings_of_grounding_only_if_they_are_used(name: str) -> None:
    stage = STAGES[name]

    def read(enabled: bool, likeness: float = 0.4, sources: Any = (), **serving: int) -> tuple[bool, dict[str, Any]]:
        grounding = {"enabled": enabled, "passages": 2, "likeness": likeness}
        config = Config(grounding=grounding, serving=serving, collect={"sources": sources})
        return "index" in stage_inputs.list_inputs(stage, config), stage_inputs.get_hashed_values(stage, config, name)

    assert read(False) == (False, getattr(Config(), name).get_hashed_values()) and read(True)[0]
    assert read(True)[1]["grounding"]["passages"] == 2
    assert (read(True, likeness=0.5) == read(True)) == (name == "features")  # training prompts have no threshold
    pages = {"name": "pages", "kind": "html", "location": "pages", "licence": "CC0-1.0", "owner": "docs"}
    assert (read(True, sources=[pages]) == read(True)) == (name == "features")  # a new source alone trains nothing
    assert read(True, max_queue=3) == read(True) != read(True, max_context=512)
    annotate, on = STAGES["annotate"], Config(grounding={"enabled": True})
    assert [stage_inputs.list_inputs(annotate, config) for config in (Config(), on)] == [("clean",), ("clean", "index")]
    assert stage_inputs.get_hashed_values(annotate, on, "annotate") == Config().annotate.get_hashed_values()
    assert [stage_inputs.is_heavy(stage, config) for config in (Config(), on)] == [name == "evaluate", True]
    assert not stage_inputs.is_heavy(annotate, on)


def test_the_libraries_and_the_gpu_that_compute_decide_its_name(stages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new minor version or another GPU makes it anew, a patch release does not; who reads rows is not concerned."""
    installed = {"torch": "2.13.0+cu130", "peft": "0.21.2"}
    monkeypatch.setattr(code_version, "version", installed.__getitem__)
    monkeypatch.setattr(stage_inputs.machine, "describe_gpus", lambda: "NVIDIA L4 (8.9)")
    monkeypatch.setitem(pipeline.STAGES, "second", Stage("second_stage", ("first",), libraries=("torch", "peft")))
    config = make_settings(stages / "home")

    def plan_both() -> tuple[str, str]:
        code_version.get_library_version.cache_clear()
        return plan_stage("first", config, DAY).path.name, plan_stage("second", config, DAY).path.name

    run_stage("first", config, DAY)
    first, second = plan_both()
    record = artifacts.read_record(run_stage("second", config, DAY))
    assert record.environment == {"torch": "2.13", "peft": "0.21", "gpu": "NVIDIA L4 (8.9)"}
    for library, version, same in (("torch", "2.13.4", True), ("peft", "0.22.0", False), ("torch", "2.14.0", False)):
        before = plan_both()
        installed[library] = version
        assert plan_both()[0] == first and (plan_both() == before) == same, (library, version)
    before = plan_both()
    monkeypatch.setattr(stage_inputs.machine, "describe_gpus", lambda: "NVIDIA H100 80GB HBM3 (9.0)")
    assert plan_both()[0] == first and plan_both()[1] not in (before[1], second)
    code_version.get_library_version.cache_clear()


def test_every_data_file_is_code_of_the_stage_that_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edited probe, template or row of the catalogue makes new artifacts only if some module owns the file."""
    package = tmp_path / "llmops"
    shutil.copytree(Path(code_version.__file__).parents[1], package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code_version, "__file__", str(package / "frame" / "code_version.py"))
    files = {f for f in package.rglob("*") if f.is_file() and f.suffix not in (".py", ".pyc")}
    owned = {
        data
        for module in package.rglob("*.py")
        for data in code_version.find_data_files(module, ast.parse(module.read_text(encoding="utf-8")))
    }
    assert len(files) > 3 and {str(f.relative_to(package)) for f in files - owned} == set()

    def versions() -> dict[str, str]:
        return {
            name: code_version.compute_code_version.__wrapped__(STAGES[name].module)
            for name in ("collect", "govern", "train")
        }

    before = versions()
    with open(package / "release/govern/probes.yaml", "a") as handle:
        handle.write("\n")
    assert {name for name, version in versions().items() if version != before[name]} == {"govern"}


def test_inputs_that_were_not_made_from_each_other_are_refused(stages: Path) -> None:
    """Whoever may edit what one task hands to the next must not mix the scores of one model with another's files."""
    (stages / "mixing_stage.py").write_text("def run(config, *, first, second, out): return {}")
    pipeline.STAGES["third"] = Stage("mixing_stage", ("first", "second"))
    config = make_settings(stages / "home")
    first, second = run_stage("first", config, DAY), run_stage("second", config, DAY)
    other = run_stage("first", config, "2026-02-01")
    with pytest.raises(
        ArtifactError, match=f"second/{second.name} was made from first/{first.name}, but.*{other.name}"
    ):
        run_stage("third", config, DAY, {"first": other, "second": second})
    elsewhere = stages / "elsewhere" / "first" / first.name
    shutil.copytree(first, elsewhere)
    for wrong in (elsewhere, second):
        with pytest.raises(ArtifactError, match="is given as artifact of first, but it would lie at"):
            run_stage("third", config, DAY, {"first": wrong, "second": second})
    assert not list((stages / "home" / "artifacts" / "third").glob("*/*"))  # nothing was begun
    run_stage("third", config, DAY, {"first": first, "second": second})


# --- content: what is the same makes no work

THREE = {
    "collect": "(out / 'documents').write_text(text); (out / 'quarantine.parquet').write_text(interval)",
    "clean": "(out / 'documents').write_text((collect / 'documents').read_text().lower()); (out / 'report.md').touch()",
    "annotate": "(out / 'train.parquet').write_text((clean / 'documents').read_text())",
    "features": "(out / 'features.parquet').write_text((annotate / 'train.parquet').read_text()[:8])",
    "train": "(out / 'servable').write_text((features / 'features.parquet').read_text())",
    "compress": "(out / 'servable').write_text((train / 'servable').read_text())",
}
INPUTS = {
    "clean": ("collect",), "annotate": ("clean",), "features": ("annotate",), "train": ("features",),
    "compress": ("annotate", "features", "train"),
}  # fmt: skip
SAID = {
    "01": "Ask Ana.", "02": "Ask Ana.", "03": "ask ana.", "04": "Ask Bea.", "05": "Ask Ana.", "06": "Ask Ana. (MIT)",
}  # fmt: skip


@pytest.fixture
def days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A chain of small stages; on some days the source says the same, on one the same after cleaning."""
    stages = {}
    for name, body in THREE.items():
        module = types.ModuleType(f"small_{name}")
        given = ", ".join(INPUTS.get(name, ("interval",)))
        text = f"SAID = {SAID!r}\ndef run(config, *, {given}, out):\n"
        text += "    text = SAID[interval[-2:]]\n" if name == "collect" else ""
        exec(text + f"    {body}\n    return {{}}", module.__dict__)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        stages[name] = Stage(
            module.__name__, INPUTS.get(name, ()), interval=name == "collect", unread_files=STAGES[name].unread_files
        )
    monkeypatch.setattr(pipeline, "STAGES", stages)
    monkeypatch.setattr(pipeline, "compute_code_version", lambda module: "1")
    return tmp_path / "home"


def run_stages(home: Path, day: str, **train: Any) -> dict[str, artifacts.Record]:
    """A whole run: the record of each stage's artifact."""
    config, done = make_settings(home, **train), dict[str, Path]()
    for name in pipeline.STAGES:
        done[name] = run_stage(name, config, f"2026-01-{day}", done, run=day)
    return {name: artifacts.read_record(path) for name, path in done.items()}


def list_days(records: dict[str, artifacts.Record]) -> str:
    return " ".join(record.run for record in records.values())


def test_a_day_without_news_makes_nothing_behind_collect(days: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="llmops.pipeline")
    assert list_days(run_stages(days, "01")) == "01 01 01 01 01 01"
    caplog.clear()
    assert list_days(run_stages(days, "02")) == "02 01 01 01 01 01"
    messages = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("clean: unchanged since 2026-01-01: ") for line in messages)
    assert any(line.startswith("train: unchanged since 2026-01-01, nothing to train: ") for line in messages)
    assert (
        list_days(run_stages(days, "03")) == "03 03 01 01 01 01"
    )  # other documents, which are the same after cleaning
    assert list_days(run_stages(days, "04")) == "04 04 04 04 04 04"
    assert list_days(run_stages(days, "05")) == "05 01 01 01 01 01"  # as it was
    assert list_days(run_stages(days, "06")) == "06 06 06 06 01 06"  # what training does not see: its model goes on


def test_what_is_read_once_makes_nothing_again_until_something_else_changes(days: Path) -> None:
    """New documents alone train nothing: an example has the passages of the index of the last training."""
    pipeline.STAGES["annotate"] = replace(pipeline.STAGES["annotate"], read_once=("clean",))
    assert (
        list_days(run_stages(days, "01")) == "01 01 01 01 01 01"
        and list_days(run_stages(days, "04")) == "04 04 01 01 01 01"
    )
    pipeline.STAGES["annotate"] = replace(pipeline.STAGES["annotate"], read_once=())
    assert list_days(run_stages(days, "04")) == "04 04 04 04 04 04"
    assert STAGES["features"].read_once == ("index", "collect")


def test_the_plan_finds_what_a_run_would(days: Path) -> None:
    config = make_settings(days)
    assert {name: bool(found) for name, found in pipeline.plan_stages(config, DAY[:8] + "01").items()} == {
        "collect": True, "clean": False, "annotate": False, "features": False, "train": False,
        "compress": False,
    }  # fmt: skip
    with pytest.raises(ArtifactError, match="clean needs collect, which has no finished artifact"):
        plan_stage("train", config, "2026-01-01")
    run_stages(days, "01")
    run_stage("collect", config, "2026-01-02")
    found = pipeline.plan_stages(config, "2026-01-02")
    assert all(isinstance(todo, StagePlan) and todo.done for todo in found.values())
    assert plan_stage("train", config, "2026-01-02").path == plan_stage("train", config, "2026-01-01").path


def test_inputs_of_one_content_belong_together_whatever_their_names(days: Path) -> None:
    """On another day `annotate` makes the same of other documents: what was made of the first goes with it."""
    config, done = make_settings(days), list_paths(days, run_stages(days, "01"))
    annotate, compress = done["annotate"], done["compress"]
    twin = annotate.with_name("f" * 16)
    shutil.copytree(annotate, twin)
    record = {**asdict(artifacts.read_record(annotate)), "fingerprint": twin.name}
    artifacts.write_json(twin / "record.json", record)
    given = {"annotate": twin, "features": done["features"], "train": done["train"]}
    assert run_stage("compress", config, "2026-01-02", given) == compress
    shutil.rmtree(compress)
    assert run_stage("compress", config, "2026-01-02", given) == compress
    artifacts.write_json(twin / "record.json", {**record, "content": "other"})
    with pytest.raises(ArtifactError, match=f"features/{done['features'].name} was made from annotate/.*{twin.name}"):
        run_stage("compress", config, "2026-01-02", given)


def list_paths(home: Path, records: dict[str, artifacts.Record]) -> dict[str, Path]:
    return {name: home / "artifacts" / name / record.fingerprint for name, record in records.items()}


def test_reports_and_what_is_dropped_are_not_content_and_a_metric_that_is_read_is(tmp_path: Path) -> None:
    facts: dict[str, Any] = dict.fromkeys(("interval", "code", "git_commit", "started", "finished"), "")

    def content(files: dict[str, str], unread: tuple[str, ...] = (), **metrics: int) -> str:
        path = tmp_path / "stage" / "key"
        artifacts.clear(path)
        for name, text in files.items():
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_text(text)
        record = artifacts.Record("s", "k", {}, {}, metrics=metrics, files={}, **facts)
        return artifacts.commit(path, record, unread, read_metrics=("n",)).content

    plain = content({"a": "1"}, n=1)
    assert plain == content({"a": "1", "report.md": "x", "dropped/1": "x"}, ("dropped/*",), n=1, seconds=3)
    assert len({plain, content({"a": "2"}, n=1), content({"a": "1"}, n=2), content({"b": "1"}, n=1)}) == 4
    assert plain != content({"a": "1", "dropped/1": "x"}, n=1)


# --- damage and power cuts


def test_a_damaged_input_is_named_before_anything_is_made_of_it(stages: Path) -> None:
    config = make_settings(stages / "home")
    first = run_stage("first", config, DAY)
    (first / "calls").write_text("0000-00-00")
    with pytest.raises(ArtifactError, match=rf"{first} is damaged: calls is .* delete {first} and run .* first again"):
        run_stage("second", config, DAY)
    assert not list((stages / "home" / "artifacts" / "second").glob("*/*"))
    shutil.rmtree(first)
    run_stage("first", config, DAY)
    assert artifacts.is_done(run_stage("second", config, DAY))


def test_everything_is_on_the_disk_before_the_record_says_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clean" / "key"
    (path / "documents" / "more").mkdir(parents=True)
    for name in ("documents/part-0.parquet", "documents/more/x", "report.md"):
        (path / name).write_text("x")
    synced: list[str] = []
    fsync, replaced = os.fsync, os.replace

    def record_sync(handle: int) -> None:
        synced.append(os.path.relpath(os.readlink(f"/proc/self/fd/{handle}"), path))
        fsync(handle)

    def check_synced(source: Any, target: Any) -> None:
        assert Path(target).name == "record.json"
        everything = {os.path.relpath(p, path) for p in path.rglob("*") if ".record" not in p.name}
        assert set(synced) >= everything | {".", "..", "../.."}
        synced.clear()
        replaced(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", check_synced)
    facts: dict[str, Any] = dict.fromkeys(("interval", "code", "git_commit", "started", "finished"), "")
    artifacts.commit(path, artifacts.Record("clean", "key", {}, {}, metrics={}, files={}, **facts))
    assert synced == ["."]  # the record's own name

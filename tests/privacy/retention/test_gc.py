"""`llmops gc` on homes after many days: bounded, safe to kill, and all that was promised still works afterwards."""

import json
import os
import shutil
import subprocess
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from llmops import cli
from llmops.events.spool import Spool
from llmops.frame import artifacts
from llmops.frame.errors import HomeInUse, LlmopsError, RegistryError
from llmops.pipeline import pipeline
from llmops.privacy.erasure.forget import forget_person
from llmops.privacy.retention import disk, plan, removal
from llmops.privacy.retention.gc import collect_garbage
from llmops.release.lineage import format_lineage
from llmops.release.registry.aliases import CANARY
from llmops.state.tables import erasures

from .conftest import WEIGHTS, Site, copy_home


def run_gc(site: Site, number: int = 9, **how: Any) -> Any:
    return collect_garbage(site.config, by="test", now=site.moment(number), **how)


def read_tree(home: Path) -> dict[str, tuple[int, bytes]]:
    """What is there but locks, events and what SQLite changes when it reads."""
    found = [p for p in home.rglob("*") if p.is_file() and "events" not in p.parts]
    kept = [p for p in found if not p.name.endswith((".lock", "-shm", "-wal"))]
    return {str(p.relative_to(home)): (p.stat().st_mtime_ns, p.read_bytes()) for p in kept}


def list_kept(home: Path) -> set[str]:
    return set(read_tree(home))


def measure_with_du(home: Path) -> int:
    """What `du` says, in bytes."""
    output = subprocess.run(["du", "-s", "--block-size=1", home], capture_output=True, text=True, check=True).stdout
    return int(output.split()[0])


def test_a_home_is_bounded_over_many_daily_runs_and_all_records_stay(tmp_path: Path, small: None) -> None:
    site, sizes = Site(tmp_path / "home", runs=2, days=3, versions=3), []
    for number in range(14):
        site.run(number)
        run_gc(site, number)
        sizes.append(disk.measure_usage(site.config)["total"])
    assert max(sizes) < 12 * 3 * WEIGHTS and max(sizes[10:]) < max(sizes[4:10]) * 1.3
    assert max(site.data().values()) <= 7 and len(list(site.config.artifacts.glob("*/*/gone.json"))) > 70
    for govern in (site.config.artifacts / "govern").glob("[!.]*"):  # every release ever made is told to its sources
        assert {record.stage for record in artifacts.walk_lineage(govern)} >= {"collect", "clean", "annotate", "train"}
    assert len(site.registry.versions()) == 14
    assert [v.name for v in site.registry.versions() if v.servable.is_dir()][-3:] == ["v12", "v13", "v14"]


def test_a_dry_run_changes_nothing_and_tells_what_then_happens(lived: Site) -> None:
    before, planned = read_tree(lived.home), run_gc(lived, dry_run=True)
    assert read_tree(lived.home) == before and planned.freed_bytes > 5 * WEIGHTS
    items, champion = {item.name: item for item in planned.items}, lived.registry.get("champion")
    compress = items[f"compress/{champion.compress}"]  # a version links to its weights: each counts half of them
    assert compress.size < WEIGHTS <= compress.size + items[champion.name].size
    size = measure_with_du(lived.home)
    done = run_gc(lived)
    assert done.freed_bytes == planned.freed_bytes
    assert [item.as_json() for item in done.items] == [item.as_json() for item in planned.items]
    freed = size - measure_with_du(lived.home)  # beside what is counted: weights with another name, folders, an event
    assert done.freed_bytes * 0.8 < freed < done.freed_bytes * 1.2
    assert run_gc(lived).removals == []
    with Spool(lived.config.events) as spool:
        (event,) = [e for e in spool.read("test", 1000)[1] if e["event.dataset"] == "llmops.retention"]
    assert event["llmops.retention.freed"] == done.freed_bytes and event["llmops.retention.versions"]


def test_one_damaged_record_or_version_stays_and_the_rest_goes(lived: Site, caplog: pytest.LogCaptureFixture) -> None:
    going = run_gc(lived, dry_run=True).removals
    damaged = next(item for item in going if item.name.startswith("train/"))
    (damaged.paths[0] / artifacts.RECORD).write_text("{")
    (lived.registry.get("v1").path / "version.json").write_text("{")
    (lived.registry.get("champion").path / "lineage.json").write_text("{")
    items = {item.name: item for item in run_gc(lived).items}
    assert not items[damaged.name].goes and artifacts.RECORD in items[damaged.name].why
    assert "v1 stays" in caplog.text and "v1" not in items
    assert {item.name for item in going} - {damaged.name, "v1"} <= {item.name for item in items.values() if item.goes}


def test_what_the_newest_runs_and_the_served_versions_need_stays(lived: Site) -> None:
    lived.registry.promote("v2", override="test")  # an old one
    lived.registry.start_canary("v3", 0.1)
    run_gc(lived)
    kept = {v.name for v in lived.registry.versions() if v.servable.is_dir()}
    aliases = lived.registry.aliases()
    opponents = {lived.registry.get(name).compared_with for name in aliases.values()} - {"base", ""}
    assert aliases[CANARY] == "v3" and aliases["champion"] == "v2"
    assert kept >= {*aliases.values(), "v9", "v10", *opponents} and "v6" not in kept
    for name in kept & {*aliases.values(), "v9", "v10"}:  # an erasure follows rows to them
        stages = json.loads((lived.registry.get(name).path / "lineage.json").read_text())["stages"]
        rows = [s["artifact"] for s in stages if s["artifact"].partition("/")[0] in plan.ROWS]
        assert len(rows) == 4 and all(artifacts.is_done(lived.config.artifacts / ref) for ref in rows)
    for path in lived.config.artifacts.glob("*/*/record.json"):
        record = artifacts.read_record(path.parent)
        rows_of = [s for n, s in record.inputs.items() if n != "champion" and s.partition("/")[0] in plan.ROWS]
        assert all(artifacts.is_done(lived.config.artifacts / ref) for ref in rows_of)


def test_the_newest_day_is_done_already_and_an_old_one_is_made_again(lived: Site) -> None:
    newest = lived.run(9)
    run_gc(lived)
    before = {path: (path / artifacts.RECORD).read_bytes() for path in newest.values()}
    assert lived.run(9) == newest and {p: (p / artifacts.RECORD).read_bytes() for p in newest.values()} == before
    (gone,) = [p for p in (lived.config.artifacts / "collect").glob("[!.]*") if read_day(p) == "2026-01-03"]
    assert artifacts.is_removed(gone) and [p.name for p in gone.iterdir()] == [artifacts.REMOVED_RECORD]
    with pytest.raises(LlmopsError, match="needs collect, whose data was removed on 20.*run collect first"):
        pipeline.run_stage("clean", lived.config, "2026-01-03", {"collect": gone})
    old = lived.run(2)
    assert old["collect"] == gone and artifacts.is_done(gone) and not (gone / artifacts.REMOVED_RECORD).exists()
    assert artifacts.find_changed_files(gone) == [] and artifacts.read_record(gone).removed == ""
    assert lived.registry.get("v3").servable.is_dir() and not lived.registry.get("v3").removed_at  # its model is back


def read_day(path: Path) -> str:
    return artifacts.read_record(path).interval


def test_a_version_without_its_model_is_told_about_and_not_served(lived: Site, capsys: Any) -> None:
    run_gc(lived)
    registry, home = lived.registry, ["--set", f"home={lived.home}"]
    version = registry.get("v3")
    assert version.removed_at and {p.name for p in version.path.iterdir()} == {
        "README.md", "version.json", "lineage.json", "decision.json", "gone.json",
    }  # fmt: skip
    for move in (lambda: registry.promote("v3"), lambda: registry.start_canary("v3", 0.1)):
        with pytest.raises(RegistryError, match=r"gc. removed it on 20.*backup.*--interval 2026-01-03"):
            move()
    before = registry.aliases()
    assert registry.rollback().name == before["previous"] and registry.rollback().name == before["champion"]
    assert registry.promote("v10", override="still there").name == "v10"
    text = format_lineage(version, lived.config.artifacts)
    assert "model removed on 20" in text and text.count("data removed on 20") >= 10
    assert cli.main(["models", "list", *home]) == 0 and cli.main(["lineage", "v3", *home, "--json"]) == 0
    listed, _, lineage = capsys.readouterr().out.partition("{")
    assert "v3" in listed and "model removed on 20" in listed
    assert all(stage["removed"] for stage in json.loads("{" + lineage)["stages"])


def test_with_a_database_that_knows_no_version_none_is_touched(lived: Site) -> None:
    """It may be the wrong one: what the gate said of no version says nothing of which is served."""
    for path in lived.home.glob("state.db*"):
        path.unlink()
    run_gc(lived)
    assert all(version.servable.is_dir() for version in lived.registry.versions())


class Killed(BaseException):
    """As by SIGKILL: nothing is tidied up."""


def kill_after(monkeypatch: pytest.MonkeyPatch, after: int) -> list[int]:
    """Let the step `after` of a removal be the last; a folder that it deletes is then half gone."""
    steps = [0]
    delete, rename, move, write = shutil.rmtree, os.rename, Path.rename, removal.write_json

    def count_steps(real: Any) -> Any:
        def step(*args: Any, **kwargs: Any) -> Any:
            steps[0] += 1
            if steps[0] > after:
                if real is delete:
                    for path in [p for p in sorted(Path(args[0]).rglob("*")) if p.is_file()][:1]:
                        path.unlink()
                raise Killed
            return real(*args, **kwargs)

        return step

    monkeypatch.setattr(shutil, "rmtree", count_steps(delete))
    monkeypatch.setattr(os, "rename", count_steps(rename))
    monkeypatch.setattr(Path, "rename", count_steps(move))
    monkeypatch.setattr(removal, "write_json", count_steps(write))
    return steps


def test_killed_at_any_step_it_goes_on_where_it_was(lived: Site, tmp_path: Path) -> None:
    other = Site(tmp_path / "other", runs=2, days=2, versions=2)
    copy_home(lived.home, other.home)
    with pytest.MonkeyPatch.context() as patch:
        counter = kill_after(patch, 10**9)
        run_gc(other)
        steps, wanted = counter[0], list_kept(other.home)
    for number, after in enumerate(range(0, steps, max(1, steps // 6))):
        here = Site(tmp_path / f"killed-{number}", runs=2, days=2, versions=2)
        copy_home(lived.home, here.home)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            kill_after(patch, after)
            run_gc(here)
        for version in here.registry.versions():  # no version is half a model
            assert not version.servable.is_dir() or os.listdir(version.servable) == ["model.safetensors"], after
        for path in here.config.artifacts.glob("*/[!.]*/record.json"):  # and no artifact is taken for whole that is not
            assert artifacts.find_changed_files(path.parent) == [], after
        run_gc(here)
        assert list_kept(here.home) == wanted, after
        for govern in (here.config.artifacts / "govern").glob("[!.]*"):
            assert "collect" in {record.stage for record in artifacts.walk_lineage(govern)}
        shutil.rmtree(here.home)


def test_beside_a_running_stage_or_a_begun_erasure_nothing_is_removed(lived: Site) -> None:
    before = list_kept(lived.home)
    with artifacts.hold_lock(lived.config.artifacts, shared=True), pytest.raises(HomeInUse):
        run_gc(lived)
    with artifacts.hold_lock(lived.config.artifacts, shared=True):
        assert cli.main(["gc", "--set", f"home={lived.home}"]) == os.EX_TEMPFAIL
        assert cli.main(["gc", "--dry-run", "--set", f"home={lived.home}"]) == 0
    with lived.registry.transaction() as connection:
        values = {"subject": "x", "begun": "2026-01-01", "ended": "", "plan": {"by": "admin"}}
        connection.execute(sa.insert(erasures).values(values))
    with pytest.raises(LlmopsError, match="erasure 1, begun at 2026-01-01 by admin, was interrupted"):
        run_gc(lived)
    assert list_kept(lived.home) == before


def test_a_stage_that_begins_meanwhile_waits_and_finds_its_inputs(lived: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    newest, made, asks = lived.run(9), [], threading.Event()
    finish, locked = removal.finish, artifacts.hold_lock
    stage = threading.Thread(target=lambda: made.append(lived.run(9)), daemon=True)

    def record_lock(*args: Any, **how: Any) -> Any:
        if threading.current_thread() is stage:
            asks.set()
        return locked(*args, **how)

    def check_nothing_began(config: Any) -> None:
        finish(config)
        if not stage.ident:
            stage.start()
            assert asks.wait(50)
        assert not made

    monkeypatch.setattr(artifacts, "hold_lock", record_lock)
    monkeypatch.setattr(removal, "finish", check_nothing_began)
    run_gc(lived)
    stage.join(50)
    assert made == [newest]


def test_what_a_run_uses_again_is_new_again(lived: Site) -> None:
    """A configuration of last month comes back: its artifacts are not old any more."""
    old = {read_day(p): p for p in (lived.config.artifacts / "train").glob("[!.]*")}["2026-01-02"]
    assert f"train/{old.name}" in {item.name for item in run_gc(lived, dry_run=True).removals}
    day, done = "2026-01-02", dict[str, Path]()
    for name in pipeline.STAGES:
        done[name] = pipeline.run_stage(name, lived.config, day, done)  # now, in the eyes of the disk
    run_gc(lived)
    assert done["train"] == old and all(artifacts.is_done(path) for path in done.values())


def test_what_is_begun_again_before_a_killed_removal_is_finished_gets_no_old_record(lived: Site) -> None:
    path = next((lived.config.artifacts / "train").glob("[!.]*"))
    removal.remove(path, "2026-02-01T00:00:00+00:00")
    path.mkdir()
    (path / "checkpoint").write_text("x")
    removal.finish(lived.config)
    assert os.listdir(path) == ["checkpoint"] and not removal.find_trash(lived.config)


def test_unfinished_work_and_logs_stay_while_they_are_new(lived: Site) -> None:
    train, tasks = lived.config.artifacts / "train", lived.home / "logs" / "tasks" / "dag_id=llmops_pipeline"
    ages = {train / "new/checkpoint": 1, train / "old/checkpoint": 5, tasks / "1/a.log": 40, tasks / "2/a.log": 3}
    for path, days in ages.items():
        path.parent.mkdir(parents=True)
        path.write_text("x")
        moment = (lived.moment(9) - timedelta(days=days)).timestamp()
        os.utime(path, (moment, moment))
    (lived.home / "logs" / "serving.log").write_text("x")
    reasons = {item.name: item.why for item in run_gc(lived).items if item.kind == "unfinished"}
    assert (train / "new" / "checkpoint").exists() and not (train / "old").exists()
    assert "not finished" in reasons["train/new"]
    assert [p.name for p in tasks.iterdir()] == ["2"] and (lived.home / "logs" / "serving.log").exists()


def test_a_person_is_forgotten_in_what_is_left_and_nothing_that_is_gone_holds_them(lived: Site) -> None:
    person = "2026-01-02@example.org"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, 30)  # the erasure finishes what was begun
        run_gc(lived)
    kept = "2026-01-10@example.org"
    receipt = forget_person(lived.config, kept).receipt
    assert receipt.remaining == [] and receipt.documents == 1 and not removal.find_trash(lived.config)
    run_gc(lived)
    assert not any(person.encode() in body for _, body in read_tree(lived.home).values())
    with pytest.raises(LlmopsError, match="Nothing in"):
        forget_person(lived.config, person)


def test_status_tells_what_is_gone_and_what_takes_the_room(lived: Site, capsys: Any) -> None:
    run_gc(lived)
    command = ["status", "--set", f"home={lived.home}"]
    assert cli.main(command) == 0
    text = capsys.readouterr().out
    assert "data was removed" in text and "the last on 20" in text
    assert all(word in text for word in ("On the disk:", "train", "registry", "extracts", "online store", "free"))
    assert cli.main([*command, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert {bool(row["removed"]) for row in status["artifacts"]} == {True, False}
    disk_use = status["disk"]
    assert disk_use["artifacts"]["train"] >= WEIGHTS and disk_use["registry"] < disk_use["total"] and disk_use["free"]
    files = sum({p.stat().st_ino: p.stat().st_blocks * 512 for p in lived.home.rglob("*") if p.is_file()}.values())
    assert abs(disk_use["total"] - files) < 200_000

"""A pipeline of small stand-ins with the real stages' names, inputs and registry, and days that pass at once."""

import os
import random
import shutil
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llmops.config import Config
from llmops.data.annotate.split_ledger import SplitLedger
from llmops.frame import artifacts
from llmops.frame.records import Document, write_rows
from llmops.pipeline import pipeline
from llmops.release import lineage
from llmops.release.registry.registry import Registry, registry_of
from llmops.state.database import database_at
from tests.release.conftest import facts

FIRST = date(2026, 1, 1)
WEIGHTS = 200_000  #: bytes of what stands for weights
SELECTION = {"model": "m", "revision": "r", "licence": "l"}


def make_document(day: str) -> Document:
    names = {"question": f"What happened on {day}?", "answer": f"Ana {day}@example.org came on {day}."}
    return Document(id=day, source="faq", location="faq.csv", position=f"row {day}", **names)


def make_stand_in(name: str) -> types.ModuleType:
    def run(config: Any, *, out: Path, **inputs: Any) -> dict[str, Any]:
        made = " ".join([name, str(inputs.get("interval")), *(p.name for p in inputs.values() if isinstance(p, Path))])
        if name == "collect":
            write_rows(out / "documents.parquet", [make_document(inputs["interval"])], Document)
        if name in ("select", "train", "compress"):
            folder = out / ("servable" if name == "compress" else "adapter")
            folder.mkdir(parents=True)
            (folder / "model.safetensors").write_bytes(random.Random(made).randbytes(WEIGHTS))
        if name == "release":
            release(config, inputs)
        (out / "made.json").write_text(made)
        return {}

    def is_current(*_: Any, **__: Any) -> bool:
        return True

    module = types.ModuleType(f"small_{name}")
    module.run, module.is_current = run, is_current  # type: ignore[attr-defined]
    return module


def release(config: Any, inputs: Mapping[str, Any]) -> None:
    """Publish through the real registry: every version beats the champion, unless its day is even."""
    registry = Registry(config.registry, config.name, database_at(inputs["database"]))
    known = lineage.read_records(inputs["govern"])
    interval, champion = known["train"].interval, inputs.get("champion")
    status = "promoted" if champion is None or int(interval[-2:]) % 2 else "rejected"
    against, compress = champion.name if champion else "base", inputs["compress"].name
    published = facts(interval=interval, compress=compress, status=status, compared_with=against)
    stages = [{"artifact": f"{r.stage}/{r.fingerprint}", "finished": r.finished} for r in known.values()]
    document = {"version": "", "run": "", "interval": interval, "git_commit": "", "stages": stages, "sources": []}
    document |= {"dataset": {"sha256": "", "artifact": ""}, "base_model": {**SELECTION, "weights_sha256": {}}}
    document |= {"created": "", "quantisation": "x"}
    trees = {"adapter": inputs["train"] / "adapter", "servable": inputs["compress"] / "servable"}

    def documents(version: Any) -> dict[str, str]:
        import json

        lineage = {**document, "version": version.name}
        return {"README.md": f"# {version.name}", "lineage.json": json.dumps(lineage), "decision.json": "{}"}

    registry.publish(published, trees, documents, by="gate", why="", numbers={"compress": compress})


class Site:
    """A home, and its daily runs."""

    def __init__(self, home: Path, **retention: Any) -> None:
        self.home = home
        self.config = Config(home=home, retention=retention)

    @property
    def registry(self) -> Registry:
        return registry_of(self.config)

    def run(self, number: int) -> dict[str, Path]:
        """The daily run of the day `number`, 0 the first; what it made and used looks as old as it is then."""
        day, done = (FIRST + timedelta(days=number)).isoformat(), dict[str, Path]()
        for name in pipeline.STAGES:
            done[name] = pipeline.run_stage(name, self.config, day, done)
        moment = self.moment(number).timestamp()
        for path in done.values():
            os.utime(path / artifacts.RECORD, (moment, moment))
        return done

    def moment(self, number: int) -> datetime:
        return datetime.combine(FIRST, datetime.min.time(), UTC) + timedelta(days=number + 1)

    def data(self) -> dict[str, int]:
        """Stage → how many of its artifacts have their data."""
        return {stage: len(list((self.config.artifacts / stage).glob("*/record.json"))) for stage in pipeline.STAGES}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, stage in list(pipeline.STAGES.items()):
        module = make_stand_in(name)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        plain: dict[str, Any] = {"declarations": False, "base": False, "libraries": ()}
        monkeypatch.setitem(pipeline.STAGES, name, replace(stage, module=module.__name__, **plain))
    monkeypatch.setattr(pipeline, "compute_code_version", lambda module: "1")
    monkeypatch.setattr(SplitLedger, "written", True)  # stand-ins write nothing to it
    monkeypatch.setattr(pipeline, "read_git_commit", lambda: "")
    monkeypatch.setattr("llmops.data.collect.files.hash_content", lambda config, interval, database: interval)
    monkeypatch.setattr(pipeline.stage_inputs, "check_base", lambda config, select: None)


@pytest.fixture
def site(tmp_path: Path, small: None) -> Site:
    """An empty home that keeps little."""
    return Site(tmp_path / "home", runs=2, days=2, versions=2)


@pytest.fixture(scope="session")
def ten_days(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where `lived` keeps the home that it has made once."""
    yield tmp_path_factory.mktemp("ten") / "home"


@pytest.fixture
def lived(ten_days: Path, tmp_path: Path, site: Site) -> Site:
    """A home after ten days, in which nothing was removed."""
    if not ten_days.exists():
        first = Site(ten_days, runs=2, days=2, versions=2)
        for number in range(10):
            first.run(number)
    copy_home(ten_days, site.home)
    return site


def copy_home(source: Path, target: Path) -> None:
    """Copy a home with its times and hard links."""
    known: dict[int, Path] = {}

    def one(old: str, new: str) -> str:
        inode = os.stat(old).st_ino
        if inode in known:
            os.link(known[inode], new)
        else:
            known[inode] = Path(shutil.copy2(old, new))
        return new

    shutil.copytree(source, target, copy_function=one)

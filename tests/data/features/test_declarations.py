"""Feast declarations of an artifact: their contents and place, and that they can be moved, shared and published."""

import errno
import os
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock
from urllib.parse import quote

import pandas as pd
import pytest
from feast import FeatureStore
from feast.cli.cli import cli

from llmops.config import Config, Features
from llmops.data.features import declarations
from llmops.data.features.declarations import PARQUET, VIEW, declare_version, make_service_name, open_store
from llmops.data.features.examples import read_offline
from llmops.data.features.online import OnlineTokens, read_online
from llmops.frame import artifacts
from llmops.frame.errors import ArtifactError, ConfigError, DiskFullError, TransientError
from llmops.pipeline.pipeline import plan_stage, run_stage


@pytest.fixture
def postgres(postgresql: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty database, as `features.registry` takes it: SQLAlchemy wants the password percent-encoded."""
    monkeypatch.setenv("FEAST_PASSWORD", quote(os.environ["TEST_PG_PASSWORD"], safe=""))
    return postgresql().replace("postgresql:", "postgresql+psycopg:").replace("TEST_PG_PASSWORD", "FEAST_PASSWORD")


def read_historical(store: Path, id: str, when: datetime) -> Any:
    """`meta` of an example as it was known at a time."""
    rows = pd.DataFrame({"input_id": [id], "event_timestamp": [when]})
    (found,) = open_store(store).get_historical_features(rows, [f"{VIEW}:meta"]).to_df()["meta"]
    return found


def test_retrieval_is_point_in_time(tmp_path: Path, make: Any) -> None:
    """An example is not known before its interval, and what is known at a time is the newest row until then."""
    _, out = make.artifact(tmp_path)
    assert read_historical(out, "id3", datetime(2026, 1, 30, 23, tzinfo=UTC)) is None
    assert "group 3" in read_historical(out, "id3", datetime(2026, 1, 31, tzinfo=UTC))
    assert "group 3" in read_historical(out, "id3", datetime(2031, 1, 31, tzinfo=UTC))
    table = pd.read_parquet(out / PARQUET)
    later = table.assign(event_timestamp=pd.Timestamp("2026-02-28", tz="UTC"), meta="newer")
    pd.concat([later, table]).to_parquet(out / PARQUET, coerce_timestamps="us")
    assert "group 3" in read_historical(out, "id3", datetime(2026, 2, 27, tzinfo=UTC))
    assert read_historical(out, "id3", datetime(2026, 3, 1, tzinfo=UTC)) == "newer"


def test_a_home_can_be_moved(tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file of an artifact holds a path of this machine, and Feast finds its files from any working directory."""
    _, out = make.artifact(tmp_path / "one")
    expected = list(read_offline(out, "train"))
    for file in out.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file
    (tmp_path / "one").rename(tmp_path / "two")
    monkeypatch.chdir("/")
    moved = tmp_path / "two" / out.relative_to(tmp_path / "one")
    assert list(read_offline(moved, "train")) == expected
    assert read_online(moved, ["id3"]) == [expected[3]]
    place = tmp_path / "elsewhere" / "features"  # a version outside of the home may move, too
    declare_version(moved, "support_bot_v1", {}, place, place)
    (tmp_path / "further").mkdir()
    place = place.parent.rename(tmp_path / "further" / "away") / "features"
    assert OnlineTokens(place, "support_bot_v1").read(["id3"]) == [expected[3]]


def test_feasts_own_command_fills_the_online_store(tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    other, path = ModuleType("sources"), list(sys.path)
    monkeypatch.setitem(sys.modules, "sources", other)
    config, out = make.artifact(tmp_path)
    assert sys.modules["sources"] is other and sys.path == path
    assert not {"views", "entities", "services"} & sys.modules.keys()
    (config.store / "online.db").unlink()
    open_store(out).apply(open_store(out).get_feature_view(VIEW))  # makes the table again
    assert read_online(out, ["id3"]) == [None]
    monkeypatch.chdir("/")
    cli(["-c", str(out), "materialize", "2026-01-01", "2026-02-28"], standalone_mode=False)
    assert read_online(out, ["id3"]) == [t for t in read_offline(out, "train") if t.id == "id3"]


def test_a_version_serves_by_a_service_of_its_own(tmp_path: Path, make: Any) -> None:
    _, out = make.artifact(tmp_path)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    name = make_service_name("support-bot", "v1")
    assert name == "support_bot_v1"
    place = tmp_path / "registry" / "support-bot" / "versions" / "v1" / "features"
    built = tmp_path / "artifacts" / "release" / "r1" / "features"
    declare_version(out, name, {"version": "v1"}, built, place)
    shutil.copytree(built, place)
    shutil.rmtree(built)
    tokens = OnlineTokens(place, name).read(["id3", "nobody"])
    assert tokens == read_online(out, ["id3", "nobody"]) and tokens[0]
    assert open_store(place).get_feature_service(name).tags == {"version": "v1"}
    assert str(tmp_path) not in (place / "feature_store.yaml").read_text()
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before  # an artifact stays as it is
    with pytest.raises(ArtifactError, match="support_bot_v2.*support_bot_v1"):
        OnlineTokens(place, make_service_name("support-bot", "v2"))


@pytest.mark.parametrize(("linked", "disk"), [("registry", "disks/big/data"), ("feast", "home/disks/big/data")])
def test_a_part_of_the_home_may_be_a_link(linked: str, disk: str, tmp_path: Path, make: Any) -> None:
    """To another disk, say. Paths that are written behind the link lead back, and so do relative paths in it."""
    home, place = tmp_path / "home", tmp_path / disk
    place.mkdir(parents=True)
    home.mkdir(exist_ok=True)
    (home / linked).symlink_to(place)
    _, out = make.artifact(home)
    version = home / "registry" / "support-bot" / "versions" / "v1" / "features"
    declare_version(out, "support_bot_v1", {}, version, version)
    (expected,) = [t for t in read_offline(out, "train") if t.id == "id3"]
    assert OnlineTokens(version, "support_bot_v1").read(["id3"]) == read_online(out, ["id3"]) == [expected]


@pytest.mark.parametrize("server", ["sqlite", pytest.param("postgres", marks=pytest.mark.service)])
def test_the_registry_can_be_a_database(server: str, request: pytest.FixtureRequest, tmp_path: Path, make: Any) -> None:
    url = f"sqlite:///{tmp_path}/feast.db" if server == "sqlite" else request.getfixturevalue("postgres")
    _, out = make.artifact(tmp_path, registry=url)
    assert not (out / "registry.db").exists()
    versions = [tmp_path / "registry" / "support-bot" / "versions" / v / "features" for v in ("v1", "v2")]
    for number, place in enumerate(versions, 1):
        declare_version(out, f"support_bot_v{number}", {}, place, place)
        assert [p.name for p in place.iterdir()] == ["feature_store.yaml"]
    _, other = make.artifact(tmp_path, key="bbbbbbbbbbbbbbbb", registry=url)  # declares the same again
    expected = list(read_offline(out, "train"))
    assert list(read_offline(other, "train")) == expected
    for number, place in enumerate(versions, 1):  # a later run removes no version's service
        assert OnlineTokens(place, f"support_bot_v{number}").read(["id2"]) == [expected[2]]
    if server == "postgres":
        assert os.environ["FEAST_PASSWORD"] not in (out / "feature_store.yaml").read_text()


def commit_inputs(home: Path, inputs: dict[str, Path], **features: str) -> Config:
    """Commit the inputs of the stage `features`, and return the configuration of their home."""
    for name, path in inputs.items():
        path.mkdir(parents=True, exist_ok=True)
        artifacts.commit(path, artifacts.Record(name, path.name, {}, {}, "", "", {}, {}, "", "", "", ""))
    return Config(home=home, features=features)


def run_features(home: Path, make: Any, registry: str) -> Path:
    """Run the stage `features` as an orchestrator does, and return its artifact."""
    inputs = {
        "annotate": make.annotate(home / "artifacts" / "annotate" / "a", train=[make.example(n) for n in range(8)]),
        "select": make.select(home / "artifacts" / "select" / "s"),
    }
    return run_stage("features", commit_inputs(home, inputs, registry=registry), "2026-01-31", inputs)


def test_the_same_examples_have_the_same_content_in_every_home(tmp_path: Path, make: Any) -> None:
    """Feast's registry holds the time; what training reads and where serving looks does not."""
    one, two = (artifacts.read_record(run_features(tmp_path / name, make, "")) for name in ("one", "two"))
    assert one.content == two.content and one.fingerprint == two.fingerprint
    assert {n for n, digest in one.files.items() if digest != two.files[n]} <= {"registry.db"}


def test_a_registry_that_cannot_be_written_is_named(tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, expected in ((OSError(errno.ENOSPC, "full"), DiskFullError), (ValueError("no entity"), ArtifactError)):
        monkeypatch.setattr(FeatureStore, "apply", Mock(side_effect=error))
        with pytest.raises(expected):
            run_features(tmp_path, make, f"sqlite:///{tmp_path}/feast.db")
    monkeypatch.setenv("TEST_PG_PASSWORD", "s3cret")
    with pytest.raises(TransientError, match="features.registry") as caught:
        run_features(tmp_path, make, "postgresql+psycopg://feast:${TEST_PG_PASSWORD}@127.0.0.1:9/feast")
    assert "s3cret" not in str(caught.value)


def test_a_changed_declaration_is_another_artifact_and_none_is_named(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    shutil.copytree(declarations.ROOT / "feature_repo", repo, ignore=shutil.ignore_patterns("__pycache__"))
    inputs = {stage: tmp_path / stage / "0" for stage in ("annotate", "select")}
    config = commit_inputs(tmp_path / "home", inputs, repo=str(repo))
    before = plan_stage("features", config, "2026-01-31", inputs).path
    (repo / "notes.txt").write_text("no code")
    assert plan_stage("features", config, "2026-01-31", inputs).path == before
    (repo / "views.py").write_text((repo / "views.py").read_text().replace("timedelta(0)", "timedelta(days=7)"))
    assert plan_stage("features", config, "2026-01-31", inputs).path != before
    with pytest.raises(ConfigError, match="feature_store.yaml"):
        declarations.hash_repository(Features(repo=tmp_path))

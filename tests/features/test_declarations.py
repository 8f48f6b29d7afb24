"""What is declared, where it stands, and that it can be moved, shared and published."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from llmops import artifacts
from llmops.config import Config, Features
from llmops.errors import ArtifactError, ConfigError
from llmops.features import declarations
from llmops.features.declarations import VIEW, declare_version, open_store, service_name
from llmops.features.examples import PARQUET, read_offline
from llmops.features.online import OnlineTokens, read_online
from llmops.pipeline import plan


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A PostgreSQL server in a temporary folder; gives the SQLAlchemy URL of its database."""
    places = [shutil.which("initdb"), *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")))]
    initdb = next((place for place in places if place), "")
    if not initdb:
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg")
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []  # the server refuses to run as root
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, socket.socket() as free:
        folder = Path(name)  # not pytest's: only its owner may enter that
        folder.joinpath("secret").write_text("s3cret")
        if as_user:
            shutil.chown(folder, "postgres")
        options = ["--username=feast", "--auth=scram-sha-256", f"--pwfile={folder / 'secret'}"]
        subprocess.run(
            [*as_user, initdb, "-D", str(folder / "data"), *options], check=True, capture_output=True, cwd="/"
        )
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        control = [*as_user, str(Path(initdb).with_name("pg_ctl")), "-D", str(folder / "data"), "-w"]
        settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        with open(folder / "log", "w") as log:
            subprocess.run([*control, "-o", settings, "start"], check=True, stdout=log, stderr=log, cwd="/")
        yield f"postgresql+psycopg://feast:${{TEST_PG_PASSWORD}}@127.0.0.1:{port}/postgres"
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd="/")


def historical(store: Path, id: str, when: datetime) -> Any:
    """`meta` of an example as it was known at a time."""
    rows = pd.DataFrame({"input_id": [id], "event_timestamp": [when]})
    (found,) = open_store(store).get_historical_features(rows, [f"{VIEW}:meta"]).to_df()["meta"]
    return found


def test_the_view_is_as_promised(tmp_path: Path, make: Any) -> None:
    _, out = make.artifact(tmp_path)
    view = open_store(out).get_feature_view(VIEW)
    assert [e.name for e in view.entity_columns] == ["input_id"]
    assert {f.name: str(f.dtype) for f in view.features} == {
        "token_ids": "Array(Int32)", "attention_mask": "Array(Int32)", "meta": "String",
    }  # fmt: skip


def test_retrieval_is_point_in_time(tmp_path: Path, make: Any) -> None:
    """An example is not known before its interval, and what is known at a time is the newest row until then."""
    _, out = make.artifact(tmp_path)
    assert historical(out, "id3", datetime(2026, 1, 30, 23, tzinfo=UTC)) is None
    assert "group 3" in historical(out, "id3", datetime(2026, 1, 31, tzinfo=UTC))
    assert "group 3" in historical(out, "id3", datetime(2031, 1, 31, tzinfo=UTC))
    table = pd.read_parquet(out / PARQUET)
    later = table.assign(event_timestamp=pd.Timestamp("2026-02-28", tz="UTC"), meta="newer")
    pd.concat([later, table]).to_parquet(out / PARQUET, coerce_timestamps="us")
    assert "group 3" in historical(out, "id3", datetime(2026, 2, 27, tzinfo=UTC))
    assert historical(out, "id3", datetime(2026, 3, 1, tzinfo=UTC)) == "newer"


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


def test_feasts_command_line_materializes_an_artifact(tmp_path: Path, make: Any) -> None:
    config, out = make.artifact(tmp_path)
    (config.store / "online.db").unlink()
    command = [sys.executable, "-m", "feast.cli.cli", "-c", str(out), "materialize", "2026-01-01", "2026-02-28"]
    open_store(out).apply(open_store(out).get_feature_view(VIEW))  # makes the table again
    environ = {**os.environ, "PYTHONPATH": str(declarations.ROOT)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert read_online(out, ["id3"]) == [t for t in read_offline(out, "train") if t.id == "id3"]


def test_a_version_serves_by_a_service_of_its_own(tmp_path: Path, make: Any) -> None:
    _, out = make.artifact(tmp_path)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    name = service_name("support-bot", "v1")
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
        OnlineTokens(place, service_name("support-bot", "v2"))


@pytest.mark.parametrize("server", ["sqlite", "postgres"])
def test_the_registry_can_be_a_database(
    server: str, request: pytest.FixtureRequest, tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_PG_PASSWORD", "s3cret")
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
    assert "s3cret" not in (out / "feature_store.yaml").read_text()


def test_a_registry_that_does_not_answer_is_named(tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setenv("TEST_PG_PASSWORD", "s3cret")
    with pytest.raises(ArtifactError, match="features.registry") as error:
        make.artifact(tmp_path, registry="postgresql+psycopg://feast:${TEST_PG_PASSWORD}@127.0.0.1:9/feast")
    assert "s3cret" not in str(error.value)


def test_a_changed_declaration_is_another_artifact(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    shutil.copytree(declarations.ROOT / "feature_repo", repo, ignore=shutil.ignore_patterns("__pycache__"))
    config = Config(home=tmp_path / "home", features={"repo": str(repo)})
    inputs = {stage: tmp_path / stage / "0" for stage in ("annotate", "select")}
    before = plan("features", config, "2026-01-31", inputs).path
    (repo / "notes.txt").write_text("no code")
    assert plan("features", config, "2026-01-31", inputs).path == before
    views = repo / "views.py"
    views.write_text(views.read_text().replace("timedelta(0)", "timedelta(days=7)"))
    changed = plan("features", config, "2026-01-31", inputs).path
    assert changed != before
    (repo / "more.py").write_text("")
    assert plan("features", config, "2026-01-31", inputs).path not in (before, changed)


def test_a_folder_that_is_no_repository_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="feature_store.yaml"):
        declarations.repository_hash(Features(repo=tmp_path))


def test_declarations_leave_no_trace_in_the_process(tmp_path: Path, make: Any) -> None:
    sys.modules["sources"] = marker = type(sys)("sources")
    path = list(sys.path)
    try:
        _, out = make.artifact(tmp_path)
        assert sys.modules["sources"] is marker
    finally:
        del sys.modules["sources"]
    assert sys.path == path
    assert not {"views", "entities", "services"} & sys.modules.keys()


def test_planning_imports_no_feast() -> None:
    code = (
        "import sys; from llmops.config import Features; from llmops.features.declarations import repository_hash;"
        "import llmops.pipeline; repository_hash(Features()); sys.exit('feast' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_settings_are_what_the_repository_says(tmp_path: Path, make: Any) -> None:
    config, out = make.artifact(tmp_path)
    settings = yaml.safe_load((out / "feature_store.yaml").read_text())
    assert settings["online_store"] == {"type": "sqlite", "path": "../../../feast/online.db"}
    assert settings["registry"] == "registry.db"
    assert json.dumps(settings).count("${") == 0
    assert artifacts.is_done(out) is False

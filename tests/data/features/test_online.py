"""The online store on SQLite and on a real Redis: the same answers, and nothing left after an erasure."""

import os
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from feast.protos.feast.types.Value_pb2 import Int32List

from llmops import ROOT
from llmops.config import Config, Features
from llmops.data.features import declarations
from llmops.data.features.examples import read_offline
from llmops.data.features.online import OnlineTokens, forget_online, read_online
from llmops.frame import artifacts
from llmops.frame.artifacts import Record
from llmops.frame.errors import ArtifactError, ConfigError
from llmops.privacy.retention import removal


def open_redis(online: str) -> Any:
    address, _, number = online.rpartition("@")[2].partition("/")
    host, port = address.split(":")
    return redis.Redis(host, int(port), int(number), os.environ["TEST_REDIS_PASSWORD"])


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.service)])
def stored(
    request: pytest.FixtureRequest, tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> tuple[Features, Path]:
    """A features artifact whose rows are in the online store."""
    online = "sqlite"
    if request.param == "redis":
        address, password = request.getfixturevalue("redis")
        monkeypatch.setenv("TEST_REDIS_PASSWORD", password)
        online = f"redis://:${{TEST_REDIS_PASSWORD}}@{address}/3"
        with open_redis(online) as server:
            server.flushdb()
    config, out = make.artifact(tmp_path, online=online)
    return config, out


def read_store(config: Features, home: Path) -> bytes:
    if config.online == "sqlite":
        return b"".join(p.read_bytes() for p in sorted(home.glob("feast/*")) if p.is_file())
    with open_redis(config.online) as server:
        return b"".join(name + b"".join(server.hgetall(name).values()) for name in server.scan_iter())


def test_online_reads_what_offline_reads(stored: tuple[Features, Path]) -> None:
    offline = {t.id: t for t in read_offline(stored[1], "train")}
    assert len(offline) == 8
    assert read_online(stored[1], ["id7", "nobody", "id0"]) == [offline["id7"], None, offline["id0"]]
    references = [f"{declarations.VIEW}:{name}" for name in ("token_ids", "attention_mask", "meta")]
    row = declarations.open_store(stored[1]).get_online_features(references, [{"input_id": "id5"}]).to_dict()
    assert row["attention_mask"] == [[1] * len(row["token_ids"][0])]
    assert '"split": "train"' in row["meta"][0]


def test_another_team_reads_as_docs_data_says(
    stored: tuple[Features, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's code in another working directory. With Redis the folder is a copy, and the home is gone."""
    config, out = stored
    expected = {tokens.id: tokens.token_ids for tokens in read_offline(out, "train")}
    team = tmp_path / "team"
    copy = team / ".llmops" / "artifacts" / "features" / out.name
    team.mkdir()
    if config.online == "sqlite":
        (team / ".llmops").symlink_to(tmp_path)
    else:
        copy.parent.mkdir(parents=True)
        shutil.move(out, copy)
    monkeypatch.chdir(team)
    section = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").split("### Read by others\n")[1].split("\n## ")[0]
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL))
    names: dict[str, Any] = {}
    exec(code.replace("<fingerprint>", out.name), names)
    for found in (names["offline"].to_dict("list"), names["online"]):
        tokens = [list(values) for values in found["token_ids"]]
        assert dict(zip(found["input_id"], tokens, strict=True)) == expected
        assert all('"split": "train"' in meta for meta in found["meta"])


def test_a_removed_artifact_takes_its_own_rows_out_of_the_online_store(
    stored: tuple[Features, Path], make: Any
) -> None:
    """Also after the kill of a removal: its folder is trash then, and the next removal finds it."""
    features, large = stored
    home = large.parents[2]
    _, small = make.artifact(home, "0123456789abcdef", 4, online=features.online)
    config = Config(home=home, features=features)
    ids = [f"id{n}" for n in range(8)]
    assert all(read_online(small, ids))
    for path in (large, small):
        inputs = {"annotate": "annotate/a", "select": "select/s"}
        artifacts.commit(path, Record("features", path.name, {}, inputs, "", "", {}, {}, "", "", ""))
    removal.remove(large, "2026-02-01T00:00:00+00:00")
    assert all(read_online(small, ids))
    removal.finish(config)
    assert [bool(found) for found in read_online(small, ids)] == [True] * 4 + [False] * 4
    assert artifacts.is_removed(large) and not removal.find_trash(config)
    removal.remove(small, "2026-02-01T00:00:00+00:00")
    removal.finish(config)
    assert not any(id.encode() in read_store(features, home) for id in ids)


def test_later_intervals_replace_another_base_does_not(
    stored: tuple[Features, Path], tmp_path: Path, make: Any
) -> None:
    config, out = stored
    before = read_online(out, ["id1"])
    _, again = make.artifact(tmp_path, key="aaaaaaaaaaaaaaaa", **config.model_dump(include={"online"}))
    assert read_online(again, ["id1"]) == before
    others = make.artifact(tmp_path, "bbbbbbbbbbbbbbbb", 2, words=make.WORDS[1:], online=config.online)[1]
    assert read_online(out, ["id1"]) == before == [t for t in read_offline(out, "train") if t.id == "id1"]
    assert read_online(others, ["id7"]) == [None] and read_online(others, ["id1"]) not in ([None], before)


def test_no_byte_of_an_erased_example_remains(stored: tuple[Features, Path], tmp_path: Path, make: Any) -> None:
    config, out = stored
    _, other = make.artifact(tmp_path, key="bbbbbbbbbbbbbbbb", max_tokens=99, online=config.online)
    projects = {declarations.read_settings(artifact).project for artifact in (out, other)}
    assert len(projects) == 2, "tokens that were cut elsewhere do not mix"
    reader = OnlineTokens(out)  # forgetting waits for nobody who reads
    victim = reader.read(["id6"])[0]
    assert victim
    tokens = Int32List(val=victim.token_ids).SerializeToString()
    needles = (b"id6", b"group 6", tokens)
    assert all(needle in read_store(config, tmp_path) for needle in needles)
    assert forget_online(config, out, ["id"]) == 0  # others begin like it
    assert forget_online(config, out, ["id6", "nobody"]) == 1
    assert not any(needle in read_store(config, tmp_path) for needle in needles)
    assert reader.read(["id6"]) == [None]
    for artifact in (out, other):
        assert read_online(artifact, ["id6"]) == [None]
        assert all(read_online(artifact, [f"id{n}" for n in (0, 1, 2, 3, 4, 5, 7)]))
    assert forget_online(config, out, ["id6"]) == 0
    assert forget_online(config, out, ["id0", "id1"]) == 2


def test_an_erasure_removes_remnants_of_rows_deleted_before(tmp_path: Path, make: Any) -> None:
    """A row that was replaced, or deleted by somebody else, still stands in SQLite's free pages."""
    config, out = make.artifact(tmp_path, count=200)
    with closing(sqlite3.connect(config.store / "online.db")) as database, database:
        database.execute("PRAGMA secure_delete = OFF")  # some builds of SQLite have it on
        (table,) = (name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'"))
        database.execute(f"DELETE FROM {table} WHERE instr(entity_key, CAST('id1' AS BLOB))")
    remnants = [n for n in range(100, 200) if f'"group {n}"'.encode() in read_store(config, tmp_path)]
    assert remnants
    assert forget_online(config, out, [f"id{n}" for n in remnants]) == 0
    assert not any(f'"group {n}"'.encode() in read_store(config, tmp_path) for n in remnants)


def test_an_unknown_store_is_an_error_and_an_absent_one_holds_nothing(tmp_path: Path, make: Any) -> None:
    config, out = make.artifact(tmp_path)
    (config.store / "online.db").unlink()
    assert forget_online(config, out, ["id3"]) == 0
    settings = yaml.safe_load((out / "feature_store.yaml").read_text())
    settings["online_store"] = {"type": "remote", "path": "http://127.0.0.1:9"}
    (out / "feature_store.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ArtifactError, match="remote"):
        forget_online(config, out, ["id3"])


def test_no_password_is_written_down_and_a_missing_one_is_named(
    redis: tuple[str, str], tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, password = redis
    monkeypatch.setenv("TEST_REDIS_PASSWORD", password)
    _, out = make.artifact(tmp_path, online=f"redis://:${{TEST_REDIS_PASSWORD}}@{address}")
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and password.encode() in p.read_bytes()]
    monkeypatch.delenv("TEST_REDIS_PASSWORD")
    with pytest.raises(ConfigError, match="TEST_REDIS_PASSWORD"):
        read_online(out, ["id1"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("online", "localhost:6379"),
        ("online", "redis://:hunter2@host:6379"),
        ("registry", "feast.db"),
        ("registry", "postgresql+psycopg://u:hunter2@host/feast"),
    ],
)
def test_invalid_addresses_and_literal_passwords_are_refused(field: str, value: str) -> None:
    with pytest.raises(ValueError, match=field):
        Features(**{field: value})


def test_a_redis_url_in_feasts_words(tmp_path: Path) -> None:
    url, expected = "rediss://user:${P}@host/2", "host:6379,db=2,username=user,password=${P},ssl=true"
    assert declarations._make_online_settings(Features(online=url), tmp_path)["connection_string"] == expected

import json
import multiprocessing
import stat
from datetime import UTC, datetime, timedelta

import pytest

from llmops.governance.access import (
    AIRFLOW_ROLES,
    PERMISSIONS,
    ROLES,
    ExpiredKey,
    Forbidden,
    KeyFileError,
    KeyStore,
    RevokedKey,
    UnknownKey,
    require,
)


@pytest.fixture
def store(tmp_path):
    return KeyStore(tmp_path / "home" / "keys.json")


def test_a_created_key_is_good_and_its_secret_is_not_in_the_file(store, tmp_path):
    shown, key = store.create("user", "shop")
    assert store.check(shown) == key
    assert shown.startswith(f"llmops_{key.prefix}_")
    text = (tmp_path / "home" / "keys.json").read_text()
    assert shown.rsplit(f"{key.prefix}_", 1)[1] not in text
    assert key.prefix in text


def test_the_file_is_for_its_owner_only(store, tmp_path):
    store.create("user", "shop")
    store.create("user", "shop")
    assert stat.S_IMODE((tmp_path / "home" / "keys.json").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "change",
    [
        lambda s: "",
        lambda s: "llmops_",
        lambda s: s[:-1],
        lambda s: s + "x",
        lambda s: s.upper(),
        lambda s: s.replace("llmops_", "other_"),
        lambda s: s.split("_")[1],
        lambda s: s.rsplit("_", 1)[0] if s.count("_") == 2 else s[:16],
        lambda s: "llmops_00000000_" + s[16:],
        lambda s: s[:16] + "ü\udcff",
    ],
)
def test_anything_but_the_key_is_unknown(store, change):
    shown, _ = store.create("admin", "ops")
    with pytest.raises(UnknownKey):
        store.check(change(shown))


def test_without_a_file_every_key_is_unknown(store):
    with pytest.raises(UnknownKey):
        store.check("llmops_12345678_secret")
    assert list(store.list()) == []


def test_an_expired_key_is_told_from_a_revoked_one(tmp_path):
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    store = KeyStore(tmp_path / "keys.json", now=lambda: moment)
    day, day_key = store.create("user", "a", days=1)
    forever, forever_key = store.create("user", "b")
    moment += timedelta(hours=23)
    assert store.check(day) == day_key
    moment += timedelta(hours=1)
    with pytest.raises(ExpiredKey):
        store.check(day)
    store.revoke(forever_key.prefix)
    with pytest.raises(RevokedKey):
        store.check(forever)
    with pytest.raises(RevokedKey):
        store.current(forever_key.prefix)


def test_only_who_has_the_secret_learns_that_a_key_was_revoked(store):
    shown, key = store.create("user", "a")
    store.revoke(key.prefix)
    with pytest.raises(UnknownKey):
        store.check(f"llmops_{key.prefix}_guess")


def test_revoking_twice_keeps_the_first_time_and_a_wrong_prefix_is_an_error(store):
    _, key = store.create("user", "a")
    assert store.revoke(key.prefix).revoked == store.revoke(key.prefix).revoked != ""
    with pytest.raises(UnknownKey):
        store.revoke("nothere")


def test_a_revocation_by_another_process_counts_at_once(store, tmp_path):
    shown, key = store.create("user", "a")
    store.check(shown)
    KeyStore(tmp_path / "home" / "keys.json").revoke(key.prefix)
    with pytest.raises(RevokedKey):
        store.check(shown)


@pytest.mark.parametrize("by", ROLES)
@pytest.mark.parametrize("role", ROLES)
def test_nobody_mints_above_the_own_role(store, by, role):
    if ROLES.index(role) > ROLES.index(by):
        with pytest.raises(Forbidden):
            store.create(role, "x", by=by)
        assert list(store.list()) == []
    else:
        assert store.create(role, "x", by=by)[1].role == role


@pytest.mark.parametrize("arguments", [("root", "x"), ("user", "  "), ("user", "x", 0), ("user", "x", float("nan"))])
def test_wrong_arguments_make_no_key(store, arguments):
    with pytest.raises(ValueError):
        store.create(*arguments)
    assert list(store.list()) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"keys": [{"prefix": "x"}]}', '{"keys": [1]}'])
def test_a_damaged_file_lets_nobody_in_and_is_not_overwritten(store, tmp_path, content):
    path = tmp_path / "home" / "keys.json"
    shown, _ = store.create("admin", "a")
    path.write_text(content)
    with pytest.raises(KeyFileError):
        store.check(shown)
    with pytest.raises(KeyFileError):
        store.create("admin", "b")
    assert path.read_text() == content


def _create(path):
    KeyStore(path).create("user", "worker")


def test_keys_made_at_once_by_several_processes_are_all_kept(tmp_path):
    path = tmp_path / "keys.json"
    workers = [multiprocessing.get_context("fork").Process(target=_create, args=(path,)) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(json.loads(path.read_text())["keys"]) == 6


def test_each_role_may_all_that_the_one_below_may():
    assert PERMISSIONS["user"] < PERMISSIONS["developer"] < PERMISSIONS["admin"]
    assert set(AIRFLOW_ROLES) == set(ROLES)


def test_require_names_who_may(store):
    _, user = store.create("user", "a")
    require(user, "generate")
    with pytest.raises(Forbidden, match="admin"):
        require(user, "manage_keys")

import json
import multiprocessing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from llmops.access import keys
from llmops.access.keys import MAX_DAYS, KeyStore
from llmops.access.roles import (
    AIRFLOW_ROLES,
    PERMISSIONS,
    ROLES,
    ExpiredKey,
    Forbidden,
    Key,
    KeyRefused,
    NoSuchKey,
    RevokedKey,
    UnknownKey,
    require,
)
from llmops.errors import StateError, StateUnavailable
from llmops.monitoring.datasets import AUDIT
from llmops.monitoring.spool import Spool
from llmops.state.database import database_at
from llmops.state.tables import audit


@pytest.fixture
def store(tmp_path):
    return store_in(tmp_path / "home")


def store_in(home, url="", **more):
    return KeyStore(database_at(url or f"sqlite:///{home / 'state.db'}"), home / "events", home / "keys.json", **more)


def test_a_created_key_is_good_and_its_secret_is_not_in_the_file(store, tmp_path):
    shown, key = store.create("user", "shop")
    assert store.check(shown) == key
    assert shown.startswith(f"llmops_{key.prefix}_")
    content = b"".join(path.read_bytes() for path in (tmp_path / "home").glob("state.db*"))
    assert shown.rsplit(f"{key.prefix}_", 1)[1].encode() not in content
    assert key.prefix.encode() in content


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


def test_in_an_empty_database_every_key_is_unknown(store):
    with pytest.raises(UnknownKey):
        store.check("llmops_12345678_secret")
    assert list(store.list()) == []


def test_an_expired_key_is_told_from_a_revoked_one(tmp_path):
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    store = store_in(tmp_path, now=lambda: moment)
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
        store.good(store.proven(forever_key.prefix, "0" * 32, bool))


def test_a_session_that_was_signed_out_proves_nothing_and_is_forgotten_when_it_would_be_over(tmp_path):
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    store = store_in(tmp_path, now=lambda: moment)
    _, key = store.create("user", "a")
    for _ in range(2):  # somebody clicks twice
        store.end_session("1" * 32, seconds=60)
    assert store.proven(key.prefix, "2" * 32, lambda hash: hash == key.sha256) == key
    with pytest.raises(UnknownKey, match="sign in again"):
        store.proven(key.prefix, "1" * 32, lambda hash: hash == key.sha256)
    moment += timedelta(seconds=60)
    store.end_session("2" * 32, seconds=60)
    assert (
        store.proven(key.prefix, "1" * 32, lambda hash: hash == key.sha256) == key
    )  # its own signature is too old now


def test_only_who_has_the_secret_learns_that_a_key_was_revoked(store):
    shown, key = store.create("user", "a")
    store.revoke(key.prefix)
    with pytest.raises(UnknownKey):
        store.check(f"llmops_{key.prefix}_guess")


def test_revoking_twice_keeps_the_first_time_and_a_wrong_prefix_is_an_error(store):
    _, key = store.create("user", "a")
    assert store.revoke(key.prefix).revoked == store.revoke(key.prefix).revoked != ""
    for change in (store.revoke, store.rotate):
        with pytest.raises(NoSuchKey):
            change("nothere")


def test_a_revocation_by_another_process_counts_at_once(store, tmp_path):
    shown, key = store.create("user", "a")
    store.check(shown)
    store_in(tmp_path / "home").revoke(key.prefix)
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


@pytest.mark.parametrize("change", ["revoke", "rotate"])
def test_nobody_changes_a_key_above_the_own_role(store, change):
    shown, key = store.create("admin", "boss")
    with pytest.raises(Forbidden):
        getattr(store, change)(key.prefix, by="developer")
    assert store.check(shown) == key


@pytest.mark.parametrize(
    "arguments",
    [
        {"role": "root"},
        {"owner": "  "},
        {"owner": "a\nb"},
        {"owner": "a\x1b[2J"},
        {"owner": "x" * 101},
        {"days": 0},
        {"days": -1},
        {"days": float("nan")},
        {"days": float("inf")},
        {"days": MAX_DAYS + 1},
        {"requests_per_minute": -1},
        {"tokens_per_minute": -1},
    ],
)
def test_wrong_arguments_make_no_key(store, arguments):
    with pytest.raises(KeyRefused):
        store.create(**{"role": "user", "owner": "x", **arguments})
    assert list(store.list()) == []


def test_a_rotated_key_has_a_new_secret_and_the_old_one_for_a_while(tmp_path):
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    store = store_in(tmp_path, now=lambda: moment)
    first, key = store.create("developer", "a", days=30, requests_per_minute=5)
    second, rotated = store.rotate(key.prefix, hours=2)
    assert first != second and first.split("_")[1] == second.split("_")[1]
    kept = ("prefix", "role", "owner", "created", "expires", "requests_per_minute")
    assert all(getattr(rotated, name) == getattr(key, name) for name in kept)
    assert store.check(first) == store.check(second) == rotated
    moment += timedelta(hours=2)
    assert store.check(second) == rotated
    with pytest.raises(UnknownKey):
        store.check(first)
    third, _ = store.rotate(key.prefix, hours=0)
    assert store.check(third)
    for old in (first, second):
        with pytest.raises(UnknownKey):
            store.check(old)


def test_only_the_last_secret_before_a_rotation_goes_on(store):
    first, key = store.create("user", "a")
    second, _ = store.rotate(key.prefix)
    third, _ = store.rotate(key.prefix)
    assert store.check(second) == store.check(third)
    with pytest.raises(UnknownKey):
        store.check(first)


def test_a_rotated_key_that_is_revoked_is_so_with_both_secrets(store):
    first, key = store.create("user", "a")
    second, _ = store.rotate(key.prefix)
    store.revoke(key.prefix)
    for shown in (first, second):
        with pytest.raises(RevokedKey):
            store.check(shown)
    with pytest.raises(KeyRefused):
        store.rotate(key.prefix)


@pytest.mark.parametrize("hours", [-1, float("nan"), float("inf")])
def test_a_rotation_with_a_wrong_time_changes_nothing(store, hours):
    shown, key = store.create("user", "a")
    with pytest.raises(KeyRefused):
        store.rotate(key.prefix, hours)
    assert store.check(shown) == key


def test_a_wrong_secret_costs_the_same_work_whether_or_not_the_prefix_is_known(store, monkeypatch):
    """What could differ in time, hashing and comparing, is done as often and on as much."""
    import hmac

    _, key = store.create("user", "a")
    _, other = store.create("user", "b")
    store.rotate(other.prefix)
    compare, work = hmac.compare_digest, []
    monkeypatch.setattr(keys.hmac, "compare_digest", lambda a, b: work.append((len(a), len(b))) or compare(a, b))
    done = []
    for prefix in (key.prefix, other.prefix, "00000000", ""):
        work.clear()
        with pytest.raises(UnknownKey) as refused:
            store.check(f"llmops_{prefix}_{'x' * 43}")
        done.append((tuple(work), str(refused.value)))
    assert len(set(done)) == 1 and len(done[0][0]) == 2


def test_each_change_is_an_event_without_secrets(store, tmp_path):
    shown, key = store.create("user", "shop", days=1, tokens_per_minute=7, who="alice")
    again, _ = store.rotate(key.prefix, who="bob")
    store.revoke(key.prefix, by="admin", who="key ab12cd34")
    store.revoke(key.prefix)  # changes nothing
    with Spool(tmp_path / "home" / "events") as spool:
        events = spool.read("x")[1]
    assert [(e["event.action"], e["user.name"]) for e in events] == [
        ("create_key", "alice"),
        ("rotate_key", "bob"),
        ("revoke_key", "key ab12cd34"),
    ]
    for event in events:
        assert event["event.dataset"] == AUDIT and event["event.outcome"] == "success"
        assert event["llmops.target.key.prefix"] == key.prefix and event["user.target.name"] == "shop"
        assert event["llmops.target.key.tokens_per_minute"] == 7
    for path in (tmp_path / "home").rglob("*"):
        for secret in (shown, again):
            assert path.is_dir() or secret.split("_", 2)[2].encode() not in path.read_bytes()


def test_a_change_that_cannot_be_written_down_does_not_happen(store, tmp_path):
    shown, key = store.create("user", "a")
    (tmp_path / "home" / "events" / "spool.db").unlink()
    (tmp_path / "home" / "events" / "spool.db").mkdir()
    for change in (lambda: store.create("admin", "b"), lambda: store.revoke(key.prefix)):
        with pytest.raises(Exception, match="database"):
            change()
    assert list(store.list()) == [key] and store.check(shown) == key


def test_the_command_line_makes_lists_rotates_and_revokes(tmp_path, capsys, monkeypatch):
    from llmops.cli import main

    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path))

    def run(*arguments):
        code = main(["keys", *arguments])
        return code, capsys.readouterr()

    limits = ("--requests-per-minute", "9", "--tokens-per-minute", "0")
    code, said = run("create", "--owner", "shop", *limits, "--json")
    made = json.loads(said.out)
    assert code == 0 and (made["requests_per_minute"], made["tokens_per_minute"]) == (9, 0)
    store = store_in(tmp_path)
    assert store.check(made["key"]).owner == "shop"
    fresh = run("rotate", made["prefix"], "--hours", "0")[1].out.strip()
    assert store.check(fresh)
    with pytest.raises(UnknownKey):
        store.check(made["key"])
    (listed,) = json.loads(run("list", "--json")[1].out)
    assert listed["prefix"] == made["prefix"] and not any("sha256" in name for name in listed)
    assert run("revoke", made["prefix"])[0] == 0
    with pytest.raises(RevokedKey):
        store.check(fresh)
    for wrong in (
        ("revoke", "00000000"),
        ("create", "--owner", ""),
        ("create", "shop"),
        ("list", "shop"),
        ("rotate", made["prefix"]),
    ):
        code, said = run(*wrong)
        assert code == 1 and said.err.startswith("llmops: ") and said.err.count("\n") == 1
    with Spool(tmp_path / "events") as spool:
        assert [e["event.action"] for e in spool.read("x")[1]] == ["create_key", "rotate_key", "revoke_key"]


def test_a_change_of_a_key_and_its_row_of_audit_are_one(store):
    shown, key = store.create("user", "shop", who="alice")
    store.revoke(key.prefix, who="bob")
    with store._database.read() as connection:
        rows = connection.execute(sa.select(audit).order_by(audit.c.id)).all()
    assert [(r.action, r.by, r.target) for r in rows] == [
        ("create_key", "alice", key.prefix),
        ("revoke_key", "bob", key.prefix),
    ]
    assert "sha256" not in json.dumps([r.fields for r in rows]) and rows[0].fields["owner"] == "shop"


def _create(home, url):
    store_in(home, url).create("user", "worker")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_keys_made_at_once_by_several_processes_are_all_kept(tmp_path, kind, request):
    url = f"sqlite:///{tmp_path / 'state.db'}" if kind == "sqlite" else request.getfixturevalue("postgresql")()
    workers = [multiprocessing.get_context("fork").Process(target=_create, args=(tmp_path, url)) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(store_in(tmp_path, url).list()) == 6
    shown, key = store_in(tmp_path, url).create("user", "a")
    assert store_in(tmp_path, url).check(shown) == key
    store_in(tmp_path, url).revoke(key.prefix)
    with pytest.raises(RevokedKey):
        store_in(tmp_path, url).check(shown)


# --- while the database is away


def test_a_key_that_was_seen_is_good_for_a_while_and_no_other(store, monkeypatch):
    seen, _ = store.create("user", "a")
    unseen, _ = store.create("user", "b")
    store.check(seen)

    def away(*_):
        raise StateUnavailable("away")

    monkeypatch.setattr(store._database, "read", away)
    assert store.check(seen).owner == "a"
    for other in (unseen, "llmops_00000000_x"):
        with pytest.raises(StateUnavailable):
            store.check(other)
    with pytest.raises(UnknownKey):
        store.check(seen[:-1] + "!")
    monkeypatch.setattr(keys, "AWAY_S", -1.0)
    with pytest.raises(StateUnavailable):
        store.check(seen)


def test_a_damaged_database_lets_nobody_in(tmp_path):
    store = store_in(tmp_path)
    shown, _ = store.create("admin", "a")
    store.check(shown)
    for file in tmp_path.glob("state.db*"):
        file.unlink()
    (tmp_path / "state.db").write_text("{" * 5000)
    with pytest.raises(StateError, match="damaged"):
        store.check(shown)
    with pytest.raises(StateError, match="damaged"):
        store.create("admin", "b")


# --- the file of 0.1.0


def old_file(home):
    """A file as 0.1.0 wrote it, with one key; gives the key as it is shown."""
    home.mkdir(parents=True, exist_ok=True)
    secret = "s" * 43
    kept = Key("0a1b2c3d", "admin", "boss", keys.sha256(secret), created="2026-01-01T00:00:00+00:00")
    (home / "keys.json").write_text(json.dumps({"keys": [asdict(kept)]}))
    return f"llmops_0a1b2c3d_{secret}", kept


def test_its_keys_are_taken_over_once(tmp_path):
    shown, kept = old_file(tmp_path)
    store = store_in(tmp_path)
    assert store.check(shown) == kept
    assert [p.name for p in tmp_path.glob("keys.json*")] == ["keys.json.taken-over"]
    store.revoke(kept.prefix)
    (tmp_path / "keys.json.taken-over").rename(tmp_path / "keys.json")
    with pytest.raises(RevokedKey):
        store_in(tmp_path).check(shown)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"keys": [{"prefix": "x"}]}', '{"keys": [1]}'])
def test_a_damaged_one_lets_nobody_in_and_is_left(tmp_path, content):
    shown, _ = old_file(tmp_path)
    (tmp_path / "keys.json").write_text(content)
    store = store_in(tmp_path)
    for use in (lambda: store.check(shown), lambda: store.create("admin", "b"), store.list):
        with pytest.raises(StateError, match="keys.json"):
            use()
    assert (tmp_path / "keys.json").read_text() == content


def test_each_role_may_all_that_the_one_below_may():
    assert PERMISSIONS["user"] < PERMISSIONS["developer"] < PERMISSIONS["admin"]
    assert set(AIRFLOW_ROLES) == {role for role in ROLES if "run_pipeline" in PERMISSIONS[role]}


def test_require_names_who_may(store):
    _, user = store.create("user", "a")
    require(user, "generate")
    with pytest.raises(Forbidden, match="admin"):
        require(user, "manage_keys")

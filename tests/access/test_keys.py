import hmac
import json
from functools import partial

import pytest
import sqlalchemy as sa

from llmops import cli
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
from llmops.events.datasets import AUDIT
from llmops.events.spool import Spool
from llmops.frame.errors import StateUnavailable
from llmops.state.database import database_at
from llmops.state.tables import audit
from tests.clock import FakeClock


@pytest.fixture
def store(tmp_path):
    return store_in(tmp_path / "home")


def store_in(home, **more):
    return KeyStore(database_at(f"sqlite:///{home / 'state.db'}"), home / "events", **more)


def test_a_created_key_is_good_and_anything_else_is_unknown(store):
    with pytest.raises(UnknownKey):
        store.check("llmops_12345678_secret")
    assert list(store.list()) == []
    shown, key = store.create("admin", "ops")
    assert store.check(shown) == key and shown.startswith(f"llmops_{key.prefix}_")
    others = ["", "llmops_", shown[:-1], shown + "x", shown.upper(), shown.replace("llmops_", "other_")]
    for other in (*others, "llmops_00000000_" + shown[16:], shown[:16] + "ü\udcff"):
        with pytest.raises(UnknownKey):
            store.check(other)


def test_an_expired_key_is_told_from_a_revoked_one(tmp_path):
    clock = FakeClock()
    store = store_in(tmp_path, clock=clock)
    day, day_key = store.create("user", "a", days=1)
    forever, forever_key = store.create("user", "b")
    clock.advance(23 * 3600)
    assert store.check(day) == day_key
    clock.advance(1 * 3600)
    with pytest.raises(ExpiredKey):
        store.check(day)
    store.revoke(forever_key.prefix)
    with pytest.raises(RevokedKey):
        store.check(forever)
    with pytest.raises(RevokedKey):
        store.check_valid(store.identify_session(forever_key.prefix, bool))


@pytest.mark.parametrize("change, refused", [("revoke", RevokedKey), ("rotate", UnknownKey)])
def test_others_see_a_change_within_a_second_and_ask_no_database_until_then(tmp_path, monkeypatch, change, refused):
    clock = FakeClock()
    store, asked = store_in(tmp_path, clock=clock), []
    read = store._database.read
    monkeypatch.setattr(store._database, "read", lambda: asked.append(clock.seconds) or read())
    shown, key = store.create("user", "a")
    for _ in range(3):
        assert store.check(shown) == key
        clock.advance(0.25)
    assert asked == [1000.0] and store.is_cached(key.prefix)
    with pytest.raises(UnknownKey):  # a secret that is wrong is so from memory, too
        store.check(shown + "x")
    getattr(store_in(tmp_path), change)(key.prefix, **{"hours": 0} if change == "rotate" else {})
    assert store.check(shown) == key
    clock.advance(0.25)
    assert not store.is_cached(key.prefix)
    with pytest.raises(refused):
        store.check(shown)
    for _ in range(2):  # what is not found is not kept
        with pytest.raises(UnknownKey):
            store.check("llmops_00000000_x")
    assert len(asked) == 4


def test_a_revocation_keeps_its_first_time_and_counts_at_once_in_its_own_process(store, tmp_path):
    shown, key = store.create("user", "a")
    store.check(shown)
    assert store_in(tmp_path / "home").revoke(key.prefix).revoked == store.revoke(key.prefix).revoked != ""
    with pytest.raises(RevokedKey):
        store.check(shown)
    with pytest.raises(UnknownKey):  # only who has the secret learns of it
        store.check(f"llmops_{key.prefix}_guess")
    for change in (store.revoke, store.rotate):
        with pytest.raises(NoSuchKey):
            change("nothere")


@pytest.mark.parametrize("by", ROLES)
def test_nobody_mints_or_changes_a_key_above_the_own_role(store, by):
    for role in ROLES:
        _, key = store.create(role, "boss")
        keys_before = list(store.list())
        acts = [partial(act, key.prefix, by_role=by) for act in (store.rotate, store.revoke)]
        for act in (partial(store.create, role, "x", by_role=by), *acts):
            if ROLES.index(role) > ROLES.index(by):
                with pytest.raises(Forbidden):
                    act()
                assert list(store.list()) == keys_before
            else:
                act()


def test_wrong_arguments_make_no_key_and_no_rotation(store):
    owners = [{"owner": owner} for owner in ("  ", "a\nb", "a\x1b[2J", "x" * 101)]
    days = [{"days": days} for days in (0, -1, float("nan"), float("inf"), MAX_DAYS + 1)]
    for wrong in (
        *owners,
        *days,
        {"role": "root"},
        {"requests_per_minute": -1},
        {"tokens_per_minute": -1},
        {"tokens_per_month": -1},
    ):
        with pytest.raises(KeyRefused):
            store.create(**{"role": "user", "owner": "x", **wrong})
    assert list(store.list()) == []
    shown, key = store.create("user", "a")
    for hours in (-1, float("nan"), float("inf")):
        with pytest.raises(KeyRefused):
            store.rotate(key.prefix, hours)
    assert store.check(shown) == key


def test_a_rotated_key_has_a_new_secret_and_the_old_one_for_a_while(tmp_path):
    clock = FakeClock()
    store = store_in(tmp_path, clock=clock)
    first, key = store.create("developer", "a", days=30, requests_per_minute=5)
    second, rotated = store.rotate(key.prefix, hours=2)
    assert first != second and first.split("_")[1] == second.split("_")[1]
    kept = ("prefix", "role", "owner", "created", "expires", "requests_per_minute")
    assert all(getattr(rotated, name) == getattr(key, name) for name in kept)
    assert store.check(first) == store.check(second) == rotated
    clock.advance(2 * 3600)
    third, _ = store.rotate(key.prefix, hours=2)
    assert store.check(second) == store.check(third)
    with pytest.raises(UnknownKey):
        store.check(first)
    fourth, _ = store.rotate(key.prefix, hours=0)  # only the last secret goes on, if any
    assert store.check(fourth)
    for old in (second, third):
        with pytest.raises(UnknownKey):
            store.check(old)
    store.revoke(key.prefix)
    with pytest.raises(RevokedKey):
        store.check(fourth)
    with pytest.raises(KeyRefused):
        store.rotate(key.prefix)


def test_a_session_of_the_old_secret_ends_with_it(tmp_path):
    clock = FakeClock()
    store = store_in(tmp_path, clock=clock)
    _, key = store.create("admin", "a")
    _, rotated = store.rotate(key.prefix, hours=2)
    old, new = (of.sha256.__eq__ for of in (key, rotated))  # what each session proves
    assert store.identify_session(key.prefix, old) == store.identify_session(key.prefix, new) == rotated
    clock.advance(2 * 3600)
    assert store.identify_session(key.prefix, new) == rotated
    with pytest.raises(UnknownKey):
        store.identify_session(key.prefix, old)


def test_a_wrong_secret_costs_the_same_work_whether_or_not_the_prefix_is_known(store, monkeypatch):
    """What could differ in time, hashing and comparing, is done as often and on as much."""
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


def test_each_change_is_an_event_and_a_row_of_audit_without_secrets(store, tmp_path):
    shown, key = store.create("user", "shop", days=1, tokens_per_minute=7, by="alice")
    again, _ = store.rotate(key.prefix, by="bob")
    store.revoke(key.prefix, by_role="admin", by="key ab12cd34")
    store.revoke(key.prefix)  # changes nothing
    done = [("create_key", "alice"), ("rotate_key", "bob"), ("revoke_key", "key ab12cd34")]
    with Spool(tmp_path / "home" / "events") as spool:
        events = spool.read("x")[1]
    assert [(e["event.action"], e["user.name"]) for e in events] == done
    for event in events:
        assert event["event.dataset"] == AUDIT and event["event.outcome"] == "success"
        assert event["llmops.target.key.prefix"] == key.prefix and event["user.target.name"] == "shop"
        assert event["llmops.target.key.tokens_per_minute"] == 7
    with store._database.read() as connection:
        rows = connection.execute(sa.select(audit).order_by(audit.c.id)).all()
    assert [(r.action, r.by, r.target) for r in rows] == [(*one, key.prefix) for one in done]
    assert "sha256" not in json.dumps([r.fields for r in rows]) and rows[0].fields["owner"] == "shop"
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
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path))

    def run(*arguments):
        code = cli.main(["keys", *arguments])
        return code, capsys.readouterr()

    limits = ("--requests-per-minute", "9", "--tokens-per-minute", "0", "--tokens-per-month", "1000")
    made = json.loads(run("create", "--owner", "shop", *limits, "--json")[1].out)
    assert (made["requests_per_minute"], made["tokens_per_minute"], made["tokens_per_month"]) == (9, 0, 1000)
    clock = FakeClock()
    store = store_in(tmp_path, clock=clock)
    assert store.check(made["key"]).owner == "shop"
    clock.advance(1)
    fresh = run("rotate", made["prefix"], "--hours", "0")[1].out.strip()
    assert store.check(fresh)
    with pytest.raises(UnknownKey):
        store.check(made["key"])
    (listed,) = json.loads(run("list", "--json")[1].out)
    assert listed["prefix"] == made["prefix"] and not any("sha256" in name for name in listed)
    assert run("revoke", made["prefix"])[0] == 0
    clock.advance(1)
    with pytest.raises(RevokedKey):
        store.check(fresh)
    for wrong in (("revoke", "00000000"), ("create", "--owner", ""), ("list", "shop"), ("rotate", made["prefix"])):
        code, said = run(*wrong)
        assert code == 1 and said.err.startswith("llmops: ") and said.err.count("\n") == 1


# --- while the database is away


def test_a_key_that_was_seen_is_good_for_a_while_and_no_other(tmp_path, monkeypatch):
    clock = FakeClock()
    store = store_in(tmp_path, clock=clock)
    seen, _ = store.create("user", "a")
    unseen, _ = store.create("user", "b")
    store.check(seen)

    def away(*_):
        raise StateUnavailable("away")

    monkeypatch.setattr(store._database, "read", away)
    clock.advance(1)
    assert store.check(seen).owner == "a"
    for other in (unseen, "llmops_00000000_x"):
        with pytest.raises(StateUnavailable):
            store.check(other)
    with pytest.raises(UnknownKey):
        store.check(seen[:-1] + "!")
    clock.advance(keys.STALE_S - 2)
    assert store.check(seen).owner == "a"
    clock.advance(3)
    with pytest.raises(StateUnavailable):
        store.check(seen)


def test_each_role_may_all_that_the_one_below_may_and_no_more():
    assert PERMISSIONS["user"] < PERMISSIONS["developer"] < PERMISSIONS["admin"]
    assert set(AIRFLOW_ROLES) == {role for role in ROLES if "run_pipeline" in PERMISSIONS[role]}
    user = Key("0a1b2c3d", "user", "a", "", created="")
    require(user, "generate")
    with pytest.raises(Forbidden, match="admin"):
        require(user, "manage_keys")


def test_answers_to_a_person_are_not_those_of_a_key_whose_owner_has_the_same_name(store):
    _, key = store.create("user", "ann")
    person = store.admit_person("oidc-0123456789abcdef", "ann", "user")
    assert person.owner == key.owner and person.answered_to != key.answered_to == "ann"

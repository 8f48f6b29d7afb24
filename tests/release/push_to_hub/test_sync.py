"""The Hub follows the registry: what lies where, and what is left when anything fails at any call."""

import json
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llmops.config import PushToHub
from llmops.events.spool import Spool
from llmops.frame.errors import LlmopsError, RegistryError
from llmops.release.card import write_erasures
from llmops.release.push_to_hub import sync
from llmops.release.registry.registry import Registry
from llmops.state.database import database_at

from .conftest import writer_of_versions

REPO = PushToHub(repo="me/bot")


def expected(registry: Registry, name: str) -> dict[str, bytes]:
    """What a ref of the version is to hold."""
    files = sync._collect_files(registry.get(name), REPO.repo, registry.overrides().get(name, ""))
    return {path: c if isinstance(c, bytes) else c.read_bytes() for path, c in files.items()}


def push_from(registry: Registry, tmp_path: Path) -> dict[str, Any]:
    return sync.push(registry, REPO, tmp_path / "events", by="test")


@pytest.fixture
def registry(write_version: Any, hub: Any, tmp_path: Path) -> Registry:
    """v1, champion and on the Hub; then v2, rejected, and v3, which took its place: not pushed yet."""
    write_version(1, "promoted", "nf4")
    found: Registry = write_version.registry
    push_from(found, tmp_path)
    write_version(2, "rejected")
    write_version(3, "promoted", "bf16")
    assert found.aliases()["champion"] == "v3"
    return found


@pytest.fixture
def repo(registry: Registry, hub: Any) -> Any:
    return hub.repos["me/bot"]


@pytest.fixture
def push(registry: Registry, tmp_path: Path) -> Callable[[], dict[str, Any]]:
    return lambda: push_from(registry, tmp_path)


def test_only_the_champion_is_on_main_and_has_a_tag(
    registry: Registry, hub: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, push: Any, repo: Any
) -> None:
    """No text of a person and no token leaves home, and pushing again changes nothing."""
    caplog.set_level("DEBUG")
    state = push()
    assert (state["main"], state["champion"], state["equal"], state["behind"]) == ("v3", "v3", True, [])
    assert state["pushed"] == ["main", "v3"]
    assert repo.files("main") == repo.files("v3") == expected(registry, "v3")
    assert repo.files("v1") == expected(registry, "v1")
    assert list(repo.branches) == ["main"] and list(repo.tags) == ["v1", "v3"]  # v2 was rejected
    assert {path for path in repo.files("v1") if path.startswith("servable/adapter/")}
    assert not [path for path in repo.files("main") if path.startswith("servable/adapter/")]  # another form's leftover
    assert hub.created[0]["visibility"] == "private"
    everything = b"".join(c for _, files in repo.commits.values() for c in files.values())
    assert b"a person's" not in everything + b"".join(hub.large.values())
    with Spool(tmp_path / "events") as spool:
        told = [event for event in spool.read("test")[1] if event["event.dataset"] == "llmops.hub"]
    assert told[-1]["llmops.hub.main"] == "v3"
    assert "x1x1" not in caplog.text + json.dumps(told)
    commits = len(repo.commits)
    assert push()["pushed"] == [] and len(repo.commits) == commits


def test_main_follows_a_rollback_and_an_erasure(
    registry: Registry, write_version: Any, tmp_path: Path, push: Any, repo: Any
) -> None:
    push()
    tags = dict(repo.tags)
    registry.rollback()
    found = sync.read_state(registry, REPO)
    assert (found["main"], found["champion"], found["equal"], found["behind"]) == ("v3", "v1", False, ["main"])
    assert push()["pushed"] == ["main"]
    assert repo.files("main") == expected(registry, "v1") and repo.tags == tags
    registry.rollback()
    registry.record_erasure("v3", {"time": "2026-02-01T00:00:00+00:00", "examples": 2, "receipt": 1}, write_erasures)
    assert push()["pushed"] == ["main"]
    assert repo.files("main") == expected(registry, "v3") and repo.tags == tags
    assert b"## Erasure" in repo.files("main")["README.md"] and b"## Erasure" not in repo.files("v3")["README.md"]
    # the model of v1 was removed here, and stays there
    write_version(4, "promoted")
    assert registry.retire("v1", ["servable", "adapter"], tmp_path / "trash", by="test", why="old")
    assert push()["pushed"] == ["main", "v4"] and "servable/model.safetensors" in repo.files("v1")


def test_an_override_is_on_the_card_and_stays_there(registry: Registry, push: Any, repo: Any) -> None:
    """There once its version is champion, and not while it is on trial."""
    trial = registry.start_canary("v2", 0.1, override="the others answer nobody")
    push()
    assert b"Override" not in repo.files("main")["README.md"] and "v2" not in repo.tags
    registry.promote("v2", trial=trial.started)
    assert push()["pushed"] == ["main", "v2"]
    told = b"rejected. It became champion by an override: the others answer nobody\n"
    assert told in repo.files("main")["README.md"] and repo.files("v2") == repo.files("main")
    registry.rollback()
    registry.rollback()
    assert push()["main"] == "v2" and told in repo.files("main")["README.md"]


def test_a_repository_as_0_1_0_left_it_is_mended(write_version: Any, hub: Any, tmp_path: Path) -> None:
    """The last candidate, rejected or not, on `main`, with files of the one before; a tag on each."""
    version, registry = write_version(1, "rejected", "nf4"), write_version.registry
    hub.answer("POST", "/api/repos/create", b'{"organization": "me", "name": "bot"}')
    repo = hub.repos["me/bot"]
    files = {p.relative_to(version.path).as_posix(): p.read_bytes() for p in version.path.rglob("*") if p.is_file()}
    repo.tags["v1"] = repo.add("main", files)
    assert push_from(registry, tmp_path)["main"] == ""
    assert repo.files("main") == {}  # nothing is champion
    champion = write_version(2, "promoted")
    assert push_from(registry, tmp_path)["main"] == champion.name
    assert repo.files("main") == expected(registry, "v2") and repo.files("v1") == files


def test_a_repository_that_is_not_ours_is_left_alone(hub: Any, push: Any, repo: Any) -> None:
    repo.tags["v3"] = repo.add("other", {"version.json": b'{"compress": "other", "created": "2020"}'})
    for says, main in (
        (r"tag v3 of me/bot .*2020", None),
        ("somebody", {"somebody.safetensors": b"w"}),
        (r"version\.json of me/bot .*no JSON object", {"version.json": b"[]"}),
        ("holds None, made None", {"version.json": b"{}"}),
    ):
        if main:
            repo.tags.pop("v3", None)
            repo.add("main", main)
        before = hub.snapshot()[0]["me/bot"]
        with pytest.raises(RegistryError, match=says):
            push()
        assert (repo.branches, repo.tags) == (before.branches, before.tags)


@pytest.mark.parametrize("wrong", ["home", "database", "model"])
def test_a_registry_that_does_not_know_what_is_on_main_changes_nothing(
    registry: Registry, hub: Any, tmp_path: Path, wrong: str, push: Any, repo: Any
) -> None:
    """An empty home, the right folder beside a fresh database, and another model's first version."""
    push()
    before = hub.snapshot()[0]["me/bot"]
    if wrong == "model":
        (tmp_path / "mine").mkdir()
        other = writer_of_versions(tmp_path / "mine")
        other(1, "promoted")
        found = other.registry
    else:
        folder = tmp_path / ("empty" if wrong == "home" else "registry")
        found = Registry(folder, "bot", database_at(f"sqlite:///{tmp_path}/fresh.db"))
    for ask in (lambda: sync.read_state(found, REPO), lambda: push_from(found, tmp_path)):
        with pytest.raises(RegistryError, match=r"main of me/bot .* holds v3, .*state\.url") as error:
            ask()
        assert len(str(error.value).splitlines()) == 1
    assert (repo.branches, repo.tags, repo.commits) == (before.branches, before.tags, before.commits)


def test_a_version_that_left_is_replaced_on_main_but_no_other_models(registry: Registry, push: Any, repo: Any) -> None:
    shutil.rmtree(registry.get("v1").path)
    ours = repo.files("main")
    theirs = {**ours, "version.json": b'{"name": "v1", "compress": "other", "created": "2020"}'}
    repo.add("main", theirs)
    with pytest.raises(RegistryError, match=r"main of me/bot .* holds v1, made 2020"):
        push()
    assert repo.files("main") == theirs and set(repo.tags) == {"v1"}
    repo.add("main", ours)
    assert push()["main"] == "v3" and "v1" in repo.tags


def test_what_the_gate_did_not_say_is_not_pushed(registry: Registry, push: Any, repo: Any) -> None:
    """Killed after the files of v3 were brought up to date by another decision, and before the database was."""
    file = registry.get("v3").path / "version.json"
    file.write_text(file.read_text().replace("promoted", "rejected"))
    with pytest.raises(RegistryError, match=r"v3 .*its files say rejected, but .* promoted, .*stage release again"):
        push()
    assert repo.files("main") == expected(registry, "v1") and set(repo.tags) == {"v1"}


@pytest.mark.parametrize("file", ["lineage.json", "version.json", "README.md"])
def test_a_damaged_champion_leaves_main_alone_and_other_versions_are_not_read(
    registry: Registry, file: str, push: Any, repo: Any
) -> None:
    def damage(version: str) -> None:
        damaged = registry.folder / "versions" / version / file
        damaged.unlink() if file == "README.md" else damaged.write_text("[]")

    kept = expected(registry, "v1")
    damage("v3")
    for ask in (push, lambda: sync.read_state(registry, REPO)):
        with pytest.raises(RegistryError, match=rf"{file}.*/v3 is damaged|/v3/{file}.*damaged|/v3/{file}.*restore it"):
            ask()
    assert repo.files("main") == kept and set(repo.tags) == {"v1"}
    damage("v2")
    registry.rollback()
    assert push()["main"] == "v1"


def test_a_champion_that_cannot_be_pushed_leaves_main_alone(registry: Registry, hub: Any, push: Any, repo: Any) -> None:
    hub.fail = lambda number, method, path: "400" if "/preupload/main" in path else ""
    with pytest.raises(RegistryError, match="me/bot at .* refuses"):
        push()
    shutil.rmtree(registry.get("v3").servable)
    with pytest.raises(RegistryError, match="v3 is champion and has no model"):
        push()
    shutil.rmtree(registry.get("v3").path)
    with pytest.raises(RegistryError, match="v3"):
        push()
    assert repo.files("main") == expected(registry, "v1") and set(repo.tags) == {"v1"}


def test_what_a_person_put_beside_the_model_stays(write_version: Any, hub: Any, tmp_path: Path) -> None:
    hub.answer("POST", "/api/repos/create", b'{"organization": "me", "name": "bot"}')
    mine = {name: b"mine" for name in (".gitattributes", ".gitignore", "LICENSE", "LICENSE.md", "NOTICE")}
    hub.repos["me/bot"].add("main", {**mine, "README.md": b"to come"})
    for number in (1, 2):
        write_version(number, "promoted")
        assert push_from(write_version.registry, tmp_path)["main"] == f"v{number}"
        there = hub.repos["me/bot"]
        files = there.commits[there.branches["main"]][1]
        assert mine.items() <= files.items() and b"to come" not in files["README.md"]


def test_signed_urls_are_in_no_log(served: Any, caplog: pytest.LogCaptureFixture, push: Any) -> None:
    caplog.set_level("DEBUG")
    failed: list[str] = []

    def fail(number: int, method: str, path: str) -> str:
        if method == "PUT" and not failed:
            failed.append(path)
            return "503"
        return ""

    served.fail = fail
    assert push()["equal"]
    assert failed[0] in caplog.text and "503" in caplog.text and "s3cr3t" not in caplog.text


@pytest.mark.parametrize(("status", "words"), [("401", "expired"), ("403", "may not write"), ("404", "may not see")])
def test_a_refusal_says_what_to_do_and_is_not_tried_again(hub: Any, status: str, words: str, push: Any) -> None:
    hub.asked.clear()
    hub.fail = lambda number, method, path: status
    with pytest.raises(RegistryError, match=f"me/bot.*{words}") as error:
        push()
    assert len(str(error.value).splitlines()) == 1 and len(hub.asked) <= 2


def test_without_token_repository_or_network_it_says_so(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, push: Any
) -> None:
    with pytest.raises(RegistryError, match=r"push_to_hub\.repo"):
        sync.push(registry, PushToHub(), tmp_path / "events", by="test")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(LlmopsError, match=r"127\.0\.0\.1:9"):
        push()
    monkeypatch.setenv("HF_TOKEN", "hf_one hf_two")
    with pytest.raises(RegistryError, match="no Hub token"):
        push()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(RegistryError, match="HF_TOKEN"):
        push()


def check_whole(hub: Any, registry: Registry) -> None:
    """Whatever happened: `main` was always a champion, whole; what has a version's tag is that version, whole."""
    repo = hub.repos["me/bot"]
    champions = [expected(registry, "v1"), expected(registry, "v3")]
    for commit in repo.history("main")[:-1]:
        assert repo.files(commit) in champions
    for name in repo.tags:
        assert repo.files(name) == expected(registry, name)


@pytest.mark.parametrize("how", ["lost", "kill", "500", "429", "reset"])
def test_a_failure_at_any_call_leaves_main_whole(registry: Registry, hub: Any, how: str, push: Any) -> None:
    """A kill is an exception that nobody catches."""
    start = hub.snapshot()
    hub.asked.clear()
    push()
    calls = len(hub.asked)
    assert calls > 10
    seen: set[tuple[str, ...]] = set()
    for first in range(calls):
        hub.restore(start)
        tags = dict(hub.repos["me/bot"].tags)
        hub.fail = lambda number, method, path, first=first: how if number >= first else ""
        with pytest.raises(KeyboardInterrupt if how == "kill" else LlmopsError) as error:
            push()
        assert len(str(error.value).splitlines()) <= 1
        assert "s3cr3t" not in str(error.value) and "x1x1" not in str(error.value)
        check_whole(hub, registry)
        repo = hub.repos["me/bot"]
        assert tags.items() <= repo.tags.items()
        seen.add((*sorted(repo.branches), *sorted(repo.tags), str(len(repo.history("main")))))
        hub.fail = lambda number, method, path: ""
        assert push()["equal"]
        check_whole(hub, registry)
        assert repo.files("main") == expected(registry, "v3")
    assert len(seen) >= 3  # it was interrupted between all of its steps


def test_pushes_at_once_and_promotions_end_in_one_state(registry: Registry, hub: Any, push: Any, repo: Any) -> None:
    chance = random.Random(0)

    def work(number: int) -> None:
        for _ in range(2):
            registry.promote(chance.choice(["v1", "v3"]))
            push()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    check_whole(hub, registry)
    champion = registry.aliases()["champion"]
    assert repo.files("main") == expected(registry, champion)
    assert sync.read_state(registry, REPO)["equal"]


@pytest.mark.parametrize("pushed", [False, True])
def test_a_champion_that_changes_is_followed(registry: Registry, hub: Any, pushed: bool, push: Any, repo: Any) -> None:
    """One reads that v3 is champion and is slow; meanwhile v1 becomes it, and may be pushed by another."""
    push()
    registry.rollback()
    push()
    registry.promote("v3")
    asked: list[str] = []

    def fail(number: int, method: str, path: str) -> str:
        if path.endswith("/commit/main") and not asked:
            asked.append(path)
            registry.promote("v1")
            if pushed:
                repo.add("main", repo.commits[repo.tags["v1"]][1])
        return ""

    hub.fail = fail
    assert push()["main"] == "v1" and asked

"""The table of docs/changes.md: what may be done with a version in which state. Every cell is walked, in every way."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from llmops import cli
from llmops.access.keys import keys_of
from llmops.config import Config, Monitoring, Retention
from llmops.errors import LlmopsError
from llmops.monitoring.datasets import ADMIN
from llmops.monitoring.shipping import drain
from llmops.monitoring.sinks.local import LocalStore
from llmops.push_to_hub import sync
from llmops.registry.registry import Registry, registry_of
from llmops.registry.version import Version
from llmops.release import rollout, trials
from llmops.retention.gc import gc
from llmops.state.tables import audit
from serving.app import create_app

from ..push_to_hub.conftest import hub  # noqa: F401

PAGE = Path(__file__).parents[2] / "docs" / "changes.md"
FACTS = ("base_model", "base_revision", "licence", "quantisation", "interval", "run", "dataset")
SUBJECT, SHARE, REASON = "v3", 0.25, "the largest customer waits for it"
REPO = "me/bot"
ALL = ("command line", "api", "function")
WAYS = {action: ALL for action in ("promote", "canary", "A/B test", "rollback")}
WAYS |= {"push": ("command line", "function"), "forget": ("function",)}


def table() -> dict[tuple[str, str], str]:
    """(state, action) → what happens."""
    text = PAGE.read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("| \n").split("|")] for line in text.splitlines() if line[:1] == "|"]
    start = next(n for n, row in enumerate(rows) if row[0] == "state of the version")
    actions = rows[start][1:]
    cells: dict[tuple[str, str], str] = {}
    for state, *row in rows[start + 2 :]:
        if len(row) != len(actions):
            break
        cells |= {(state, action): cell for action, cell in zip(actions, row, strict=True)}
    return cells


TABLE = table()


# --- the states


def publish(settings: Config, name: str, status: str = "promoted", canary: float = 0.0) -> Version:
    registry = registry_of(settings)
    champion = registry.aliases().get("champion", "base")
    facts = {**dict.fromkeys(FACTS, "x"), "status": status, "compared_with": champion, "compress": f"made {name}"}
    source = settings.home / "servable"
    source.mkdir(exist_ok=True)
    (source / "config.json").write_text("{}")
    stages = [{"artifact": "train/t1", "config": {"method": "lora"}}]
    lineage = {"base_model": {"model": "org/base", "revision": "main"}, "stages": stages}
    documents = {"README.md": "## Intended use\n\n## How to load\n", "lineage.json": json.dumps(lineage)}
    why = f"what the gate said of {name}"
    return registry.publish(facts, {"servable": source}, lambda _: documents, by="gate", why=why, canary=canary)


def passed(settings: Config) -> None:
    publish(settings, SUBJECT, canary=SHARE)
    registry_of(settings).stop_canary()


def pulled(settings: Config) -> None:
    publish(settings, SUBJECT, canary=SHARE)
    registry = registry_of(settings)
    trial = registry.canary()
    assert trial and rollout.pull(registry, settings.events, trial, "it is worse", {})


def by_reason(settings: Config) -> None:
    publish(settings, SUBJECT, "rejected")
    registry_of(settings).start_canary(SUBJECT, SHARE, override="an earlier reason")


def in_ab_test(settings: Config) -> None:
    passed(settings)
    registry_of(settings).start_canary(SUBJECT, SHARE, kind="ab_test")


def judged_again(settings: Config) -> None:
    publish(settings, SUBJECT)
    publish(settings, SUBJECT, "rejected")


def undecided(settings: Config) -> None:
    """The folder is there, the database knows nothing of it."""
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Registry, "_move", Mock(side_effect=KeyboardInterrupt))
        publish(settings, SUBJECT)


def marked(settings: Config) -> None:
    passed(settings)
    forget(settings, SUBJECT)


def previous(settings: Config) -> None:
    publish(settings, SUBJECT)
    publish(settings, "v4")


def previous_by_reason(settings: Config) -> None:
    publish(settings, SUBJECT, "rejected")
    registry_of(settings).promote(SUBJECT, override="an earlier reason")
    publish(settings, "v4")


def without_model(settings: Config) -> None:
    previous(settings)
    registry_of(settings).get(SUBJECT).servable.rename(settings.home / "lost")


def retired(settings: Config) -> None:
    passed(settings)
    publish(settings, "v4", "rejected")  # takes the alias `candidate`
    gc(settings.model_copy(update={"retention": Retention(versions=1)}))
    assert registry_of(settings).get(SUBJECT).removed


STATES: dict[str, Callable[[Config], Any]] = {
    "champion": lambda s: publish(s, SUBJECT),
    "champion, not passed by the gate any more": judged_again,
    "previous champion": previous,
    "previous champion, rejected by the gate": previous_by_reason,
    "passed the gate": passed,
    "passed the gate, marked by forget": marked,
    "passed the gate, pulled by its canary": pulled,
    "canary": lambda s: publish(s, SUBJECT, canary=SHARE),
    "canary by a reason": by_reason,
    "in an A/B test": in_ab_test,
    "rejected": lambda s: publish(s, SUBJECT, "rejected"),
    "inconclusive": lambda s: publish(s, SUBJECT, "inconclusive"),
    "undecided": undecided,
    "previous champion, its model gone": without_model,
    "passed the gate, its model removed by `llmops gc`": retired,
    "not there": lambda s: None,
}


@pytest.fixture(scope="module")
def home_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the home in which v2 is the champion, v1 was it before, and v3 is in a state; it is made once."""
    made: dict[str, Path] = {}

    def home_of(state: str) -> Path:
        if state not in made:
            made[state] = tmp_path_factory.mktemp("home")
            settings = Config(home=made[state], push_to_hub={"repo": REPO})
            publish(settings, "v1")
            publish(settings, "v2")
            STATES[state](settings)
        return made[state]

    return home_of


@pytest.fixture
def settings(home_of: Callable[[str], Path], tmp_path: Path, request: pytest.FixtureRequest) -> Config:
    """A copy of the home of a state; without a state v3 is not there."""
    shutil.copytree(home_of(getattr(request, "param", "not there")), tmp_path / "home")
    return Config(home=tmp_path / "home", push_to_hub={"repo": REPO})


# --- the ways


@dataclass
class Way:
    """One way to do the actions; each says whether it was done."""

    settings: Config
    name: str

    def promote(self, override: str = "") -> bool:
        more = ["--override", override] if override else []
        return self._do(
            ["promote", SUBJECT, *more],
            ("promote", {"version": SUBJECT, "override": override}),
            lambda r, e: rollout.promote(r, e, SUBJECT, by="ana", why="w", override=override),
        )

    def canary(self, override: str = "") -> bool:
        more = ["--override", override] if override else []
        return self._do(
            ["canary", SUBJECT, "--share", str(SHARE), *more],
            ("canary", {"version": SUBJECT, "share": SHARE, "override": override}),
            lambda r, e: rollout.start(r, e, SUBJECT, SHARE, by="ana", why="w", override=override),
        )

    def ab_test(self, override: str = "") -> bool:
        more = ["--override", override] if override else []
        return self._do(
            ["ab", SUBJECT, "--share", str(SHARE), *more],
            ("ab_test", {"version": SUBJECT, "share": SHARE, "override": override}),
            lambda r, e: rollout.start(r, e, SUBJECT, SHARE, by="ana", why="w", override=override, kind="ab_test"),
        )

    def push(self) -> bool:
        def by_function(registry: Registry, events: Path) -> Any:
            return sync.push(registry, self.settings.push_to_hub, events, by="ana")

        return self._do(["push", "--set", f"push_to_hub.repo={REPO}"], ("", {}), by_function)

    def rollback(self) -> bool:
        return self._do(["rollback"], ("rollback", {}), lambda r, e: rollout.rollback(r, e, by="ana", why="w"))

    def forget(self) -> bool:
        return _done(lambda: forget(self.settings, SUBJECT))  # what `llmops data forget` does with a version

    def _do(self, words: list[str], route: tuple[str, Any], function: Callable[[Registry, Path], Any]) -> bool:
        if self.name == "command line":
            return cli.main(["models", *words, "--set", f"home={self.settings.home}"]) == 0
        if self.name == "api":
            key = keys_of(self.settings).create("admin", "ana")[0]
            client = TestClient(create_app(self.settings, environ={}))
            answer = client.post(f"/admin/{route[0]}", json=route[1], headers={"X-API-Key": key})
            assert answer.status_code in (200, 409), answer.text
            return answer.status_code == 200
        return _done(lambda: function(registry_of(self.settings), self.settings.events))


def forget(settings: Config, version: str) -> None:
    erasure = {"time": "2026-01-31T00:00:00+00:00", "examples": 2}
    registry_of(settings).mark(version, erasure, lambda text, _: text)


def _done(action: Callable[[], Any]) -> bool:
    try:
        action()
    except LlmopsError:
        return False
    return True


# --- the cells


@dataclass(frozen=True)
class Seen:
    """What can be seen of a registry."""

    aliases: dict[str, str]
    changes: int
    audit: int
    events: int
    marks: int

    @classmethod
    def of(cls, settings: Config) -> Seen:
        registry = registry_of(settings)
        drain(settings.events, Monitoring())
        with registry.database.read() as connection:
            rows = connection.scalar(
                sa.select(sa.func.count()).select_from(audit).where(audit.c.action.not_like("%key%"))
            )
        marks = sum(len(version.erasures) for version in registry.versions())
        events = len(list(LocalStore(settings.events).find(ADMIN)))
        return cls(registry.aliases(), len(registry.history()), rows or 0, events, marks)


def changed(before: Seen, after: Seen, aliases: dict[str, str]) -> None:
    """One change, written down once everywhere."""
    assert after.aliases == aliases
    steps = (after.changes - before.changes, after.audit - before.audit, after.events - before.events)
    assert steps == (1, 1, 1)


def now_champion(before: Seen) -> dict[str, str]:
    others = {alias: name for alias, name in before.aliases.items() if alias != "canary"}
    return {**others, "champion": SUBJECT, "previous": before.aliases["champion"]}


def pushed(repo: Any, cell: str) -> None:
    """What the Hub holds of the version; `main` is always the champion."""
    assert (json.loads(repo.files("main")["version.json"])["name"] == SUBJECT) == (cell == "on `main`")
    there = (f"{SUBJECT}.x" in repo.branches, SUBJECT in repo.tags)
    assert there == ((False, False) if cell == "left out" else (True, True))
    assert cell in ("on `main`", "on its branch", "left out")


def walk(way: Way, action: str, cell: str, on_hub: Any) -> None:
    settings = way.settings
    before = Seen.of(settings)
    do = getattr(way, action.replace("A/B test", "ab_test"))
    done = do()
    after = Seen.of(settings)
    canary = {**before.aliases, "canary": SUBJECT}
    if cell == "nothing changes":
        assert done and after == before
    elif cell == "refused":
        assert not done and after == before
        if action == "push":
            pushed(on_hub.repos[REPO], "left out")
    elif cell == "needs a reason":
        assert not done and after == before
        assert do(override=REASON)
        changed(before, Seen.of(settings), now_champion(before) if action == "promote" else canary)
        shown_everywhere(settings)
    elif cell == "champion":
        assert done
        changed(before, after, now_champion(before))
    elif cell in ("canary", "A/B test"):
        assert done
        changed(before, after, canary)
        trial = registry_of(settings).canary()
        assert trial and trials.kind_of(registry_of(settings), trial.started) == do.__name__
    elif action == "push":
        assert done and after == before
        pushed(on_hub.repos[REPO], cell)
    elif cell == "marked":
        assert done and after.aliases == before.aliases and after.changes == before.changes
        assert registry_of(settings).get(SUBJECT).erasures
    else:
        assert action == "rollback" and done
        swapped = {"champion": before.aliases["previous"], "previous": before.aliases["champion"]}
        others = {alias: name for alias, name in before.aliases.items() if alias != "canary"}
        changed(before, after, {**others, **swapped})
        if cell == "becomes `previous`":
            assert after.aliases["previous"] == SUBJECT
        elif cell == "its trial ends":
            assert before.aliases["canary"] == SUBJECT and "canary" not in after.aliases
        else:
            assert cell == "stays" and SUBJECT not in (after.aliases["champion"], after.aliases["previous"])


def shown_everywhere(settings: Config) -> None:
    """The reason stands in the history, the audit, the decisions, the event and what the API shows."""
    registry = registry_of(settings)
    assert registry.history()[-1]["override"] == REASON and registry.overrides()[SUBJECT] == REASON
    with registry.database.read() as connection:
        fields = connection.scalars(
            sa.select(audit.c.fields).where(audit.c.target == SUBJECT).order_by(audit.c.id.desc())
        ).first()
    assert fields and fields["override"] == REASON
    event = list(LocalStore(settings.events).find(ADMIN))[-1]
    assert event["llmops.override"] == REASON
    key = keys_of(settings).create("developer", "ben")[0]
    shown = TestClient(create_app(settings, environ={})).get("/admin/models", headers={"X-API-Key": key}).json()
    assert {v["name"]: v["override"] for v in shown["versions"]}[SUBJECT] == REASON
    assert shown["decisions"][-1]["why"] == REASON


def test_the_table_has_all_states_and_actions() -> None:
    assert {state for state, _ in TABLE} == set(STATES)
    assert {action for _, action in TABLE} == {*WAYS}


def cells() -> Iterator[Any]:
    """All cells by function; by command line and API each outcome of each action once."""
    seen = set[tuple[str, str, str]]()
    for (state, action), cell in TABLE.items():
        for way in WAYS[action]:
            if way == "function" or (action, cell, way) not in seen:
                seen.add((action, cell, way))
                yield pytest.param(state, action, cell, way, id=f"{state}-{action}-{way}")


@pytest.mark.parametrize(("settings", "action", "cell", "way"), cells(), indirect=["settings"])
def test_every_cell(settings: Config, action: str, cell: str, way: str, request: pytest.FixtureRequest) -> None:
    walk(Way(settings, way), action, cell, request.getfixturevalue("hub") if action == "push" else None)


def test_the_command_line_shows_reasons_and_decisions(settings: Config, capsys: pytest.CaptureFixture[str]) -> None:
    publish(settings, SUBJECT, "rejected")

    def run(*words: str) -> str:
        assert cli.main(["models", *words, "--set", f"home={settings.home}"]) == 0
        return capsys.readouterr().out

    run("promote", SUBJECT, "--override", REASON)
    assert re.search(rf"(?m)^v3 .*rejected .*override: {REASON}$", run("list"))
    assert {row["name"]: row["override"] for row in json.loads(run("list", "--json"))}["v3"] == REASON
    decided = json.loads(run("show", "v3"))["decisions"]
    assert [(d["kind"], d["outcome"]) for d in decided] == [("gate", "rejected"), ("override", "champion")]
    assert json.loads(run("decisions", "v3", "--json")) == decided
    lines = run("decisions").splitlines()
    assert len(lines) == 4 and lines[-1].endswith(f": {REASON}")

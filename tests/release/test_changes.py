"""The table of docs/changes.md: what may be done with a version in which state. Every cell is walked, in every way."""

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
from llmops.events.datasets import ADMIN
from llmops.events.shipping import drain_spool
from llmops.events.sinks.local import LocalStore
from llmops.frame.errors import LlmopsError
from llmops.privacy.retention.gc import collect_garbage
from llmops.release import rollout, trials
from llmops.release.registry.registry import Registry, registry_of
from llmops.release.registry.version import Version
from llmops.state.tables import audit
from serving.app import create_app

from .conftest import facts

Capture = pytest.CaptureFixture[str]
PAGE = Path(__file__).parents[2] / "docs" / "changes.md"
SUBJECT, SHARE, REASON = "v3", 0.25, "the largest customer waits for it"
ALL = ("command line", "api", "function")
WAYS = {action: ALL for action in ("promote", "canary", "A/B test", "rollback")}
WAYS |= {"forget": ("function",)}


def table() -> dict[tuple[str, str], str]:
    """(state, action) → what happens."""
    text = PAGE.read_text(encoding="utf-8").partition("| state of the version")[2].partition("\n\n")[0]
    actions, _, *rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines()]
    return {(state, action): cell for state, *cells in rows for action, cell in zip(actions, cells, strict=True)}


TABLE = table()


# --- the states


def publish(settings: Config, name: str, status: str = "promoted", canary: float = 0.0) -> Version:
    registry = registry_of(settings)
    champion = registry.aliases().get("champion", "base")
    known = facts(status=status, compared_with=champion, compress=f"made {name}")
    source = settings.home / "servable"
    source.mkdir(exist_ok=True)
    (source / "config.json").write_text("{}")
    stages = [{"artifact": "train/t1", "config": {"method": "lora"}}]
    lineage = {"base_model": {"model": "org/base", "revision": "main"}, "stages": stages}
    documents = {"README.md": "## Intended use\n\n## How to load\n", "lineage.json": json.dumps(lineage)}
    why = f"what the gate said of {name}"
    return registry.publish(known, {"servable": source}, lambda _: documents, by="gate", why=why, canary=canary)


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
    forget(settings)


def marked_champion(settings: Config) -> None:
    publish(settings, SUBJECT)
    forget(settings)


def marked_previous(settings: Config) -> None:
    previous(settings)
    forget(settings)


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
    collect_garbage(settings.model_copy(update={"retention": Retention(versions=1)}))
    assert registry_of(settings).get(SUBJECT).removed_at


STATES: dict[str, Callable[[Config], Any]] = {
    "champion": lambda s: publish(s, SUBJECT),
    "champion, not passed by the gate any more": judged_again,
    "previous champion": previous,
    "previous champion, rejected by the gate": previous_by_reason,
    "passed the gate": passed,
    "passed the gate, marked by forget": marked,
    "champion, marked by forget": marked_champion,
    "previous champion, marked by forget": marked_previous,
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
            settings = Config(home=made[state])
            publish(settings, "v1")
            publish(settings, "v2")
            STATES[state](settings)
        return made[state]

    return home_of


@pytest.fixture
def settings(home_of: Callable[[str], Path], tmp_path: Path, request: pytest.FixtureRequest) -> Config:
    """A copy of the home of a state; without a state v3 is not there."""
    shutil.copytree(home_of(getattr(request, "param", "not there")), tmp_path / "home")
    return Config(home=tmp_path / "home")


# --- the ways


@dataclass
class Way:
    """One way to do the actions; each says whether it was done."""

    settings: Config
    name: str

    def promote(self, override: str = "") -> bool:
        why = {"by": "ana", "why": "w", "override": override}
        words, body = ["promote", SUBJECT], {"version": SUBJECT, "override": override}
        words += ["--override", override] if override else []
        return self._do(words, ("promote", body), lambda r, e: rollout.promote(r, e, SUBJECT, **why))

    def canary(self, override: str = "", kind: Any = "canary") -> bool:
        why = {"by": "ana", "why": "w", "override": override, "kind": kind}
        words, body = [kind.removesuffix("_test"), SUBJECT], {"version": SUBJECT, "override": override, "share": SHARE}
        words += ["--share", str(SHARE), *(["--override", override] if override else [])]
        return self._do(words, (kind, body), lambda r, e: rollout.start(r, e, SUBJECT, SHARE, **why))

    def ab_test(self, override: str = "") -> bool:
        return self.canary(override, "ab_test")

    def rollback(self) -> bool:
        return self._do(["rollback"], ("rollback", {}), lambda r, e: rollout.rollback(r, e, by="ana", why="w"))

    def forget(self) -> bool:
        """Do what `llmops data forget` does with a version."""
        return _done(lambda: forget(self.settings))

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


def forget(settings: Config) -> None:
    erasure = {"time": "2026-01-31T00:00:00+00:00", "examples": 2, "receipt": 1}
    registry_of(settings).record_erasure(SUBJECT, erasure, lambda text, _: text)


def _done(action: Callable[[], Any]) -> bool:
    try:
        action()
    except LlmopsError:
        return False
    return True


# --- the cells


Seen = tuple[dict[str, str], tuple[int, int, int], int]


def look(settings: Config) -> Seen:
    """Return the aliases; how many changes, rows of audit and events there are; how many marks versions have."""
    registry = registry_of(settings)
    drain_spool(settings.events, Monitoring())
    with registry.database.read() as connection:
        rows = connection.scalars(sa.select(audit.c.id).where(audit.c.action.not_like("%key%"))).all()
    counts = (len(registry.history()), len(rows), len(list(LocalStore(settings.events).find(ADMIN))))
    return registry.aliases(), counts, sum(len(version.erasures) for version in registry.versions())


def changed(before: Seen, after: Seen, aliases: dict[str, str]) -> None:
    """Make sure that there was one change, written down once everywhere."""
    changes, rows, events = before[1]
    assert after[:2] == (aliases, (changes + 1, rows + 1, events + 1))


def switched(aliases: dict[str, str], champion: str) -> dict[str, str]:
    """Return the aliases after a switch to another champion, which ends every trial."""
    others = {alias: name for alias, name in aliases.items() if alias != "canary"}
    return {**others, "champion": champion, "previous": aliases["champion"]}


def shown_everywhere(settings: Config, capsys: Capture) -> None:
    """The reason stands in the history, the audit, the decisions, the event and what API and command line show."""
    registry = registry_of(settings)
    assert registry.history()[-1]["override"] == REASON and registry.overrides()[SUBJECT] == REASON
    with registry.database.read() as connection:
        rows = sa.select(audit.c.fields).where(audit.c.target == SUBJECT).order_by(audit.c.id)
        assert connection.scalars(rows).all()[-1]["override"] == REASON
    assert list(LocalStore(settings.events).find(ADMIN))[-1]["llmops.override"] == REASON
    key = keys_of(settings).create("developer", "ben")[0]
    shown = TestClient(create_app(settings, environ={})).get("/admin/models", headers={"X-API-Key": key}).json()
    assert {v["name"]: v["override"] for v in shown["versions"]}[SUBJECT] == REASON
    assert shown["decisions"][-1]["why"] == REASON
    for words, row in ((["list"], rf"{SUBJECT} .*override: {REASON}"), (["decisions", SUBJECT], rf".*: {REASON}")):
        assert cli.main(["models", *words, "--set", f"home={settings.home}"]) == 0
        assert re.search(rf"(?m)^{row}$", capsys.readouterr().out)


def cells() -> Iterator[Any]:
    """All cells by function; by command line and API each outcome of each action once."""
    seen = set[tuple[str, str, str]]()
    for (state, action), cell in TABLE.items():
        for way in WAYS[action]:
            if way == "function" or (action, cell, way) not in seen:
                seen.add((action, cell, way))
                yield pytest.param(state, action, cell, way, id=f"{state}-{action}-{way}")


def test_the_table_has_all_states_and_actions() -> None:
    assert {state for state, _ in TABLE} == set(STATES)
    assert {action for _, action in TABLE} == {*WAYS}


@pytest.mark.parametrize(("settings", "action", "cell", "way"), cells(), indirect=["settings"])
def test_every_cell(settings: Config, action: str, cell: str, way: str, capsys: Capture) -> None:
    before = look(settings)
    do = getattr(Way(settings, way), action.replace("A/B test", "ab_test"))
    done = do()
    after = look(settings)
    aliases, now = before[0], after[0]
    canary = {**aliases, "canary": SUBJECT}
    if cell == "nothing changes":
        assert done and after == before
    elif cell == "refused":
        assert not done and after == before
    elif cell == "needs a reason":
        assert not done and after == before
        assert do(override=REASON)
        changed(before, look(settings), switched(aliases, SUBJECT) if action == "promote" else canary)
        shown_everywhere(settings, capsys)
    elif cell == "champion":
        assert done
        changed(before, after, switched(aliases, SUBJECT))
    elif cell in ("canary", "A/B test"):
        assert done
        changed(before, after, canary)
        trial = registry_of(settings).canary()
        assert trial and trials.read_kind(registry_of(settings), trial.started) == do.__name__
    elif cell == "marked, its trial ends":
        assert done and {**now, "canary": SUBJECT} == aliases and registry_of(settings).get(SUBJECT).erasures
    elif cell == "marked":
        assert done and now == aliases and after[1][0] == before[1][0]
        assert registry_of(settings).get(SUBJECT).erasures
    else:
        assert action == "rollback" and done
        changed(before, after, switched(aliases, aliases["previous"]))
        if cell == "becomes `previous`":
            assert now["previous"] == SUBJECT
        elif cell == "its trial ends":
            assert aliases["canary"] == SUBJECT and "canary" not in now
        else:
            assert cell == "stays" and SUBJECT not in (now["champion"], now["previous"])

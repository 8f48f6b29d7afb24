"""What all replicas of the app have counted in a trial, in the database, and the looks at it.

A replica writes its own counts and reads those of the others in one transaction, which also notes the look that is due:
so each look at the counts of all is taken once, by one of them, and what a trial promises holds for all together.

What users say of an answer may come to any replica. So the id of a request carries a `mark`: trial, side and caller.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import sqlalchemy as sa

from llmops.monitoring.datasets import CANARY
from llmops.registry.aliases import Canary
from llmops.registry.registry import Registry
from llmops.release import ab_test, canary
from llmops.release.figures import Counts, Figures, group_of
from llmops.state import audit
from llmops.state.tables import trial_counts, trial_ratings, trials

AB_TEST = "ab_test"  #: the kind of a trial in which users decide

_SIDES = ("canary", "champion")


@dataclass(slots=True)
class Sides:
    """Both sides of a trial, and the champion before it."""

    canary: Figures = field(default_factory=Figures)
    champion: Figures = field(default_factory=Figures)
    before: Figures = field(default_factory=Figures)

    def __add__(self, other: Sides) -> Sides:
        return Sides(self.canary + other.canary, self.champion + other.champion, self.before + other.before)

    def document(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {name: getattr(self, name).document() for name in ("canary", "champion", "before")}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """What `document` gave."""
        return cls(**{name: Figures.of(document[name]) for name in ("canary", "champion", "before")})


@dataclass(frozen=True, slots=True)
class Written:
    """What a replica learns when it has written its counts."""

    others: Sides  #: what the other replicas have counted, and what was said of all answers
    look: int  #: the latest look at the canary that was taken or is taken now
    due: bool  #: whether it is taken now, by who learns of it
    ab_look: int = 0  #: the look at an A/B test that is to be taken now; 0: none


def write(registry: Registry, trial: Canary, replica: str, own: Sides) -> Written | None:
    """Write down what one replica has counted so far; None if the trial is over, and then nothing is written.

    Args:
        registry: of the model.
        trial: the trial it was counted in.
        replica: its name, which no other has.
        own: all that it has counted in this trial.
    """
    with registry.database.change() as connection:
        known = _trial(connection, registry, trial.started)
        if known is None or known.ended:
            return None
        mine = _counts(registry, trial.started) & (trial_counts.c.replica == replica)
        connection.execute(sa.delete(trial_counts).where(mine))
        row = {"model": registry.name, "started": trial.started, "replica": replica}
        connection.execute(sa.insert(trial_counts).values(row | {"counts": own.document(), "updated": audit.now()}))
        others = _pooled(connection, registry, trial.started, but=replica)
        asked = own.canary.requests + others.canary.requests
        smaller = min(asked, own.champion.requests + others.champion.requests)
        settings = dict(known.settings)
        look, ab_look = canary.looks(asked), ab_test.looks(smaller) if known.kind == AB_TEST else 0
        due, ab_due = look > settings.get("look", 0), ab_look > settings.get("ab_look", 0)
        if due or ab_due:
            noted = {"look": max(look, settings.get("look", 0)), "ab_look": max(ab_look, settings.get("ab_look", 0))}
            _set(connection, registry, trial.started, settings | noted)
    return Written(others, max(look, settings.get("look", 0)), due, ab_look if ab_due else 0)


def mark(trial: Canary, side: str, caller: str) -> str:
    """Which side of a trial has answered whom, as hex digits: the trial (8), the side (1), the group of callers (3).

    Args:
        trial: the trial.
        side: `canary` or `champion`.
        caller: the prefix of the key that asked.
    """
    return f"{_digest(trial.started, 8)}{_SIDES.index(side)}{int(group_of(caller)):03x}"


def rate(registry: Registry, mark: str, request: str, by: str, said: tuple[int, int, int]) -> str:
    """Write down what somebody says of an answer; a key's last rating of a request replaces the one before, and a
    correction stays beside it.

    Args:
        registry: of the model.
        mark: of the request.
        request: its id.
        by: the prefix of the key that says it.
        said: thumbs up, thumbs down, corrections; what is 0 takes nothing back, but the other thumb.

    Returns:
        The version that answered; empty if its trial is over, and then nothing is written.
    """
    going = registry.canary()
    if going is None or mark[:8] != _digest(going.started, 8):
        return ""
    side, group, rating = _SIDES[int(mark[8], 16)], str(int(mark[9:], 16)), _digest(f"{request} {by}", 32)
    up, down, corrected = said
    row = {"model": registry.name, "started": going.started, "rating": rating, "side": side, "caller": group}
    with registry.database.change() as connection:
        known = _trial(connection, registry, going.started)
        if known is None or known.ended:
            return ""
        same = _ratings(registry, going.started) & (trial_ratings.c.rating == rating)
        before = connection.execute(sa.select(trial_ratings).where(same)).first()
        if before and not (up or down):
            up, down = before.up, before.down
        words = {"up": up, "down": down, "corrected": max(corrected, before.corrected if before else 0)}
        connection.execute(sa.delete(trial_ratings).where(same))
        connection.execute(sa.insert(trial_ratings).values(row | words))
    return going.version if side == "canary" else registry.aliases()["champion"]


def counted(registry: Registry, started: str) -> Sides:
    """What all replicas together have counted in a trial, and what was said of the answers."""
    with registry.database.read() as connection:
        return _pooled(connection, registry, started)


def find(registry: Registry, started: str) -> Canary | None:
    """A trial, gone ones too."""
    with registry.database.read() as connection:
        known = _trial(connection, registry, started)
    return Canary(known.version, known.share, started) if known else None


def event_of(registry: Registry, trial: Canary, decision: Mapping[str, Any]) -> dict[str, Any]:
    """The event of the decision that ended a trial, its kind, outcome, why and numbers; stored once, by its id."""
    return {
        "event.id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{CANARY}|{registry.name}|{trial.started}")),
        "event.action": "decide",
        "event.outcome": "success" if decision["outcome"] in ("promoted", "won") else "failure",
        "event.reason": decision["why"],
        "llmops.model.version": trial.version,
        **{f"llmops.canary.{name}": decision[name] for name in ("kind", "outcome", "numbers")},
        "llmops.canary.share": trial.share,
        "llmops.canary.started": trial.started,
    }


def kind_of(registry: Registry, started: str) -> str:
    """`canary` or `ab_test`; empty if there was no such trial."""
    with registry.database.read() as connection:
        known = _trial(connection, registry, started)
    return known.kind if known else ""


def standing(registry: Registry, started: str) -> dict[str, ab_test.Found]:
    """How an A/B test stands after the looks so far."""
    with registry.database.read() as connection:
        known = _trial(connection, registry, started)
    return ab_test.standing_of(known.settings.get("standing", {})) if known else {}


def next_ab_look(registry: Registry, started: str) -> int:
    """The number of a look at an A/B test that is taken out of turn, as when it is concluded; nobody else takes it."""
    with registry.database.change() as connection:
        known = _trial(connection, registry, started)
        if known is None:
            return 1
        number = int(known.settings.get("ab_look", 0)) + 1
        _set(connection, registry, started, {**known.settings, "ab_look": number})
    return number


def look_at_ab_test(registry: Registry, trial: Canary, sides: Sides, number: int) -> dict[str, ab_test.Found]:
    """Take a look at an A/B test and write down how it stands then.

    Args:
        registry, trial: whose.
        sides: what all replicas have counted.
        number: of the look.
    """
    found = ab_test.look(sides.canary, sides.champion, number, share=trial.share, before=sides.before, last={})
    with registry.database.change() as connection:
        known = _trial(connection, registry, trial.started)
        earlier = ab_test.standing_of(known.settings.get("standing", {})) if known else {}
        found = ab_test.joined(found, earlier)
        if known:
            settings = {**known.settings, "standing": ab_test.document(found)}
            _set(connection, registry, trial.started, settings)
    return found


def _trial(connection: sa.Connection, registry: Registry, started: str) -> sa.Row[Any] | None:
    return connection.execute(sa.select(trials).where(_this(registry, started))).first()


def _set(connection: sa.Connection, registry: Registry, started: str, settings: Mapping[str, Any]) -> None:
    connection.execute(sa.update(trials).where(_this(registry, started)).values(settings=dict(settings)))


def _pooled(connection: sa.Connection, registry: Registry, started: str, but: str = "") -> Sides:
    rows = connection.execute(
        sa.select(trial_counts.c.counts).where(_counts(registry, started) & (trial_counts.c.replica != but))
    )
    pooled, said = sum((Sides.of(row.counts) for row in rows), Sides()), trial_ratings.c
    words = [sa.func.sum(said[name]).label(name) for name in ("up", "down", "corrected")]
    these = sa.select(said.side, said.caller, *words).where(_ratings(registry, started))
    for row in connection.execute(these.group_by(said.side, said.caller)):
        counts = getattr(pooled, row.side).callers.setdefault(row.caller, Counts())
        counts.up, counts.down, counts.corrected = row.up, row.down, row.corrected
    return pooled


def _this(registry: Registry, started: str) -> sa.ColumnElement[bool]:
    return (trials.c.model == registry.name) & (trials.c.started == started)


def _counts(registry: Registry, started: str) -> sa.ColumnElement[bool]:
    return (trial_counts.c.model == registry.name) & (trial_counts.c.started == started)


def _ratings(registry: Registry, started: str) -> sa.ColumnElement[bool]:
    return (trial_ratings.c.model == registry.name) & (trial_ratings.c.started == started)


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]

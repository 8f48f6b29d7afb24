"""Counts of a trial by all replicas of the app, in the database.

A replica writes its own counts and reads those of the others in one transaction, which also notes the look that is due:
so each look at the counts of all is taken once, by one of them.

A rating may come to any replica. So the id of a request carries a `mark`: trial, side and group of callers.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import sqlalchemy as sa

from llmops.frame.errors import RegistryError
from llmops.release.figures import Figures, group_of
from llmops.release.registry.aliases import Canary
from llmops.release.registry.registry import Registry
from llmops.release.verdict import looks
from llmops.state import audit
from llmops.state.tables import trial_counts, trial_ratings, trials

Kind = Literal["canary", "ab_test"]
AB_TEST: Literal["ab_test"] = "ab_test"  #: a trial that is judged by ratings, too

_SIDES = ("canary", "champion")
_RATINGS = ("up", "down", "corrected")


@dataclass(slots=True)
class Sides:
    """Both sides of a trial."""

    canary: Figures = field(default_factory=Figures)
    champion: Figures = field(default_factory=Figures)

    def __add__(self, other: Sides) -> Sides:
        return Sides(self.canary + other.canary, self.champion + other.champion)

    def document(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {name: getattr(self, name).document() for name in _SIDES}

    @classmethod
    def of(cls, document: dict[str, Any]) -> Self:
        """Return the sides that `document` gave."""
        return cls(**{name: Figures.of(document[name]) for name in _SIDES})


@dataclass(frozen=True, slots=True)
class Written:
    """The answer to a replica that has written its counts."""

    others: Sides  #: counts of the other replicas, and the ratings of all answers
    look: int  #: the latest look that was taken, or is taken now
    due: bool  #: this replica takes it now
    ratings: bool  #: the trial is an A/B test


def write(registry: Registry, trial: Canary, replica: str, own: Sides) -> Written | None:
    """Write all counts of one replica in a trial. If the trial is over, write nothing and return None."""
    with registry.database.change() as connection:
        known = _trial(connection, registry, trial.started)
        if known is None or known.ended:
            return None
        mine = _of(trial_counts, registry, trial.started) & (trial_counts.c.replica == replica)
        connection.execute(sa.delete(trial_counts).where(mine))
        row = {"model": registry.name, "started": trial.started, "replica": replica}
        connection.execute(sa.insert(trial_counts).values(row | {"counts": own.document(), "updated": audit.now()}))
        others = _pooled(connection, registry, trial.started, but=replica)
        look, taken = looks(own.canary.requests + others.canary.requests), known.settings.get("look", 0)
        if look > taken:
            settings = {**known.settings, "look": look}
            connection.execute(sa.update(trials).where(_of(trials, registry, trial.started)).values(settings=settings))
    return Written(others, max(look, taken), look > taken, known.kind == AB_TEST)


def mark(trial: Canary, side: str, caller: str) -> str:
    """Return the mark of a request: hex digits of the trial (8), the side (1) and the group of callers (3).

    `side` is `canary` or `champion`; `caller` is the prefix of the caller's key.
    """
    return f"{_digest(trial.started, 8)}{_SIDES.index(side)}{int(group_of(caller)):03x}"


def rate(registry: Registry, mark: str, request: str, by: str, said: tuple[int, int, int]) -> str:
    """Write the rating of an answer, and return the version that answered.

    If the trial is over, write nothing and return "". `by` is the prefix of a key; its last rating of a request
    replaces the one before. `said` is thumbs up, thumbs down and corrections. Two thumbs of 0 keep the earlier thumb.
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
        same = _of(trial_ratings, registry, going.started) & (trial_ratings.c.rating == rating)
        before = connection.execute(sa.select(trial_ratings).where(same)).first()
        if before and not (up or down):
            up, down = before.up, before.down
        words = {"up": up, "down": down, "corrected": max(corrected, before.corrected if before else 0)}
        connection.execute(sa.delete(trial_ratings).where(same))
        connection.execute(sa.insert(trial_ratings).values(row | words))
    return going.version if side == "canary" else registry.aliases()["champion"]


def ask(registry: Registry, started: str, **asked: float | None) -> None:
    """Write down what a run asks of a trial: `minutes` till its deadline, `requests` that it needs; None: nothing."""
    given = {name: value for name, value in asked.items() if value}
    with registry.database.change() as connection:
        if given and (known := _trial(connection, registry, started)):
            these = sa.update(trials).where(_of(trials, registry, started))
            connection.execute(these.values(settings={**known.settings, **given}))


def counted(registry: Registry, started: str) -> Sides:
    """Return the counts of all replicas in a trial, with the ratings of the answers.

    Raises:
        RegistryError: if they are damaged.
    """
    try:
        with registry.database.read() as connection:
            return _pooled(connection, registry, started)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        why = f"The counts of the trial that began at {started} are damaged ({type(error).__name__}: {error})"
        raise RegistryError(f"{why}; end it with --stop.") from error


def find(registry: Registry, started: str) -> sa.Row[Any] | None:
    """Return the row of a trial with its version, share, start and kind, gone ones too."""
    with registry.database.read() as connection:
        return _trial(connection, registry, started)


def kind_of(registry: Registry, started: str) -> Kind:
    """Return the kind of a trial; `canary` if there was none."""
    known = find(registry, started)
    return AB_TEST if known and known.kind == AB_TEST else "canary"


def _trial(connection: sa.Connection, registry: Registry, started: str) -> sa.Row[Any] | None:
    return connection.execute(sa.select(trials).where(_of(trials, registry, started))).first()


def _pooled(connection: sa.Connection, registry: Registry, started: str, but: str = "") -> Sides:
    written = _of(trial_counts, registry, started) & (trial_counts.c.replica != but)
    rows: Iterable[Any] = connection.execute(sa.select(trial_counts.c.counts).where(written))
    pooled, said = sum((Sides.of(row.counts) for row in rows), Sides()), trial_ratings.c
    words = [sa.func.sum(said[name]).label(name) for name in _RATINGS]
    these = sa.select(said.side, said.caller, *words).where(_of(trial_ratings, registry, started))
    for row in connection.execute(these.group_by(said.side, said.caller)):
        counts = getattr(pooled, row.side).callers.setdefault(row.caller, Counter())
        counts.update({name: int(getattr(row, name)) for name in _RATINGS})
    return pooled


def _of(table: sa.Table, registry: Registry, started: str) -> sa.ColumnElement[bool]:
    return (table.c.model == registry.name) & (table.c.started == started)


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]

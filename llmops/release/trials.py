"""Counts of a trial by all replicas of the app, in the database.

A replica writes its own counts and reads those of the others in one transaction. The same transaction records a look
that is due, so that one replica alone takes each look at the counts of all.

A rating may come to any replica. So the id of a request carries a mark: trial, side and group of callers.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import sqlalchemy as sa

from llmops.frame.errors import RegistryError
from llmops.release.counts import SideCounts, assign_group
from llmops.release.registry.aliases import Canary
from llmops.release.registry.registry import Registry
from llmops.release.verdict import count_looks
from llmops.state import audit
from llmops.state.tables import trial_counts, trial_ratings, trials

TrialKind = Literal["canary", "ab_test"]
AB_TEST: Literal["ab_test"] = "ab_test"  #: a trial that users' ratings judge, too

_SIDES = ("canary", "champion")
_RATINGS = ("up", "down", "corrected")


@dataclass(slots=True)
class TrialCounts:
    """The counts of both sides of a trial."""

    canary: SideCounts = field(default_factory=SideCounts)
    champion: SideCounts = field(default_factory=SideCounts)

    def __add__(self, other: TrialCounts) -> TrialCounts:
        return TrialCounts(self.canary + other.canary, self.champion + other.champion)

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {name: getattr(self, name).as_json() for name in _SIDES}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Return the counts that `as_json` gave."""
        return cls(**{name: SideCounts.from_json(document[name]) for name in _SIDES})


@dataclass(frozen=True, slots=True)
class WriteResult:
    """The answer to a replica that has written its counts."""

    others: TrialCounts  #: counts of the other replicas, and the ratings of all answers
    look: int  #: number of the latest look
    look_due: bool  #: this replica has to take it now
    is_ab_test: bool


def write_counts(registry: Registry, trial: Canary, replica: str, own: TrialCounts) -> WriteResult | None:
    """Write all counts of one replica in a trial. If the trial is over, write nothing and return None."""
    with registry.database.change() as connection:
        known = _select_trial(connection, registry, trial.started)
        if known is None or known.ended:
            return None
        where = _match_trial(trial_counts, registry, trial.started) & (trial_counts.c.replica == replica)
        connection.execute(sa.delete(trial_counts).where(where))
        row = {"model": registry.name, "started": trial.started, "replica": replica}
        connection.execute(sa.insert(trial_counts).values(row | {"counts": own.as_json(), "updated": audit.now()}))
        others = _sum_counts(connection, registry, trial.started, but=replica)
        look, taken = count_looks(own.canary.requests + others.canary.requests), known.settings.get("look", 0)
        if look > taken:
            update = sa.update(trials).where(_match_trial(trials, registry, trial.started))
            connection.execute(update.values(settings={**known.settings, "look": look}))
    return WriteResult(others, max(look, taken), look > taken, known.kind == AB_TEST)


def make_mark(trial: Canary, side: str, caller: str) -> str:
    """Return the mark of a request: hex digits of the trial (8), the side (1) and the group of callers (3).

    `side` is `canary` or `champion`; `caller` is its key's `answered_to`.
    """
    return f"{_hash(trial.started, 8)}{_SIDES.index(side)}{int(assign_group(caller)):03x}"


def rate(registry: Registry, mark: str, request: str, by: str, rating: tuple[int, int, int]) -> str:
    """Write the rating of an answer, and return the version that answered.

    If the trial is over, write nothing and return "". `by` is a key's `answered_to`; its last rating of a request
    replaces the one before. `rating` is thumbs up, thumbs down and corrections. Two thumbs of 0 keep the earlier thumb.
    """
    running = registry.canary()
    if running is None or mark[:8] != _hash(running.started, 8):
        return ""
    side, group, rating_id = _SIDES[int(mark[8], 16)], str(int(mark[9:], 16)), _hash(f"{request} {by}", 32)
    up, down, corrected = rating
    row = {"model": registry.name, "started": running.started, "rating": rating_id, "side": side, "caller": group}
    with registry.database.change() as connection:
        known = _select_trial(connection, registry, running.started)
        if known is None or known.ended:
            return ""
        where = _match_trial(trial_ratings, registry, running.started) & (trial_ratings.c.rating == rating_id)
        before = connection.execute(sa.select(trial_ratings).where(where)).first()
        if before and not (up or down):
            up, down = before.up, before.down
        counts = {"up": up, "down": down, "corrected": max(corrected, before.corrected if before else 0)}
        connection.execute(sa.delete(trial_ratings).where(where))
        connection.execute(sa.insert(trial_ratings).values(row | counts))
    return running.version if side == "canary" else registry.aliases()["champion"]


def set_conditions(registry: Registry, started: str, by: str, **conditions: float | None) -> None:
    """Write a run's conditions of a trial: `minutes` to its deadline, number of `requests`; None: as configured.

    Raises:
        RegistryError: if neither `by` nor the gate started the trial, because the run would end or promote it; or the
            gate did, and there are conditions: a near deadline would end it.
    """
    settings = {name: value for name, value in conditions.items() if value}
    if (starter := registry.find_starter(started)) != by and (settings or starter != "gate"):
        advice = f"leave {' and '.join(settings)} out" if starter == "gate" else "an admin can end it, no run"
        raise RegistryError(f"The trial that began at {started} was started by {starter}; {advice}.")
    with registry.database.change() as connection:
        if settings and (known := _select_trial(connection, registry, started)):
            update = sa.update(trials).where(_match_trial(trials, registry, started))
            connection.execute(update.values(settings={**known.settings, **settings}))


def read_counts(registry: Registry, started: str) -> TrialCounts:
    """Return the counts of all replicas in a trial, with the ratings of the answers.

    Raises:
        RegistryError: if they are damaged.
    """
    try:
        with registry.database.read() as connection:
            return _sum_counts(connection, registry, started)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        why = f"The counts of the trial that began at {started} are damaged ({type(error).__name__}: {error})"
        raise RegistryError(f"{why}; end it with --stop.") from error


def find_trial(registry: Registry, started: str) -> sa.Row[Any] | None:
    """Return the row of a trial, running or ended, with its version, share, start and kind."""
    with registry.database.read() as connection:
        return _select_trial(connection, registry, started)


def read_kind(registry: Registry, started: str) -> TrialKind:
    """Return the kind of a trial; `canary` if there is no such trial."""
    known = find_trial(registry, started)
    return AB_TEST if known and known.kind == AB_TEST else "canary"


def _select_trial(connection: sa.Connection, registry: Registry, started: str) -> sa.Row[Any] | None:
    return connection.execute(sa.select(trials).where(_match_trial(trials, registry, started))).first()


def _sum_counts(connection: sa.Connection, registry: Registry, started: str, but: str = "") -> TrialCounts:
    where = _match_trial(trial_counts, registry, started) & (trial_counts.c.replica != but)
    rows: Iterable[Any] = connection.execute(sa.select(trial_counts.c.counts).where(where))
    total, columns = sum((TrialCounts.from_json(row.counts) for row in rows), TrialCounts()), trial_ratings.c
    sums = [sa.func.sum(columns[name]).label(name) for name in _RATINGS]
    query = sa.select(columns.side, columns.caller, *sums).where(_match_trial(trial_ratings, registry, started))
    for row in connection.execute(query.group_by(columns.side, columns.caller)):
        counts = getattr(total, row.side).callers.setdefault(row.caller, Counter())
        counts.update({name: int(getattr(row, name)) for name in _RATINGS})
    return total


def _match_trial(table: sa.Table, registry: Registry, started: str) -> sa.ColumnElement[bool]:
    return (table.c.model == registry.name) & (table.c.started == started)


def _hash(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]

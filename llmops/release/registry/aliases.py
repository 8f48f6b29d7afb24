"""Aliases of a model and their history in the database. Each change is a row of `changes` and one of `audit`.

Entries map an alias to a version. The entry `canary` holds the running trial of either kind, a canary's or an A/B test.
It maps to an object with version, share and start, so that they are always read together. `trials` has a row for each
trial, which `move` begins and ends.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from llmops.state import audit
from llmops.state.tables import aliases, changes, trials

log = logging.getLogger(__name__)

CANARY = "canary"

Entries = Mapping[str, Any]  #: alias → version; `canary` → version, share and start


@dataclass(frozen=True, slots=True)
class Canary:
    """A version on trial: it answers a share of the callers, beside the champion, in a trial of either kind."""

    version: str
    share: float  #: of the callers, above 0 and below 1
    started: str  #: ISO time, UTC, with microseconds; identifies the trial


@dataclass(frozen=True, slots=True)
class AliasChange:
    """A change of aliases: who makes it, and why."""

    action: str  #: publish | promote | rollback | canary_start | canary_stop
    version: str
    by: str
    why: str
    numbers: Mapping[str, Any] | None = None  #: figures of the decision
    override: str = ""  #: reason for using a version that the gate did not pass
    outcome: str = ""  #: outcome of a trial that it ends
    kind: str = CANARY  #: kind of a trial that it begins: canary | ab_test


def read(connection: sa.Connection, model: str) -> dict[str, Any]:
    """Return the entries of a model; empty before anything is published."""
    table = aliases.c
    rows = connection.execute(sa.select(aliases).where(table.model == model).order_by(table.alias)).all()
    return {
        row.alias: asdict(Canary(row.version, row.share, row.started)) if row.alias == CANARY else row.version
        for row in rows
    }


def get_versions(entries: Entries) -> dict[str, str]:
    """Return alias → version."""
    return {alias: value["version"] if alias == CANARY else value for alias, value in entries.items()}


def get_canary(entries: Entries) -> Canary | None:
    """Return the canary, if there is one."""
    return Canary(**entries[CANARY]) if CANARY in entries else None


def replace_canary(entries: Entries, trial: Canary | None) -> dict[str, Any]:
    """Return the entries with this canary, or without any."""
    others = {alias: value for alias, value in entries.items() if alias != CANARY}
    return {**others, CANARY: asdict(trial)} if trial else others


def read_history(connection: sa.Connection, model: str) -> list[dict[str, Any]]:
    """Return all changes, oldest first: time, by, why, entries afterwards; optionally numbers and override."""
    table = changes.c
    rows = connection.execute(sa.select(changes).where(table.model == model).order_by(table.id)).all()
    always = ("time", "by", "why", "aliases")
    return [
        {name: getattr(row, name) for name in (*always, *(n for n in ("numbers", "override") if getattr(row, n)))}
        for row in rows
    ]


def move(connection: sa.Connection, model: str, after: Entries, change: AliasChange) -> None:
    """Replace the entries if they differ, and record the change. Begin and end trials in the table `trials`.

    A trial compares with one champion, so a new champion ends it.
    """
    before = read(connection, model)
    if before.get("champion") != after.get("champion"):
        after = replace_canary(after, None)
    if before == after:
        return
    write(connection, model, after)
    add_to_history(connection, model, after, change)
    old_trial, new_trial = get_canary(before), get_canary(after)
    if old_trial and old_trial != new_trial:
        won = old_trial.version == after.get("champion")
        outcome = change.outcome or ("promoted" if won else "stopped" if change.action == "canary_stop" else "over")
        where = (trials.c.model == model) & (trials.c.started == old_trial.started)
        connection.execute(sa.update(trials).where(where).values(ended=audit.now(), outcome=outcome))
    if new_trial and new_trial != old_trial:
        settings = {"override": change.override} if change.override else {}
        row = {"model": model, **asdict(new_trial), "kind": change.kind, "settings": settings}
        connection.execute(sa.insert(trials).values(row))
    _record_audit(connection, model, after, change)
    log.info("%s: aliases are now %s (%s, %s)", model, after, change.by, change.why)


def record_override(connection: sa.Connection, model: str, trial: Canary, change: AliasChange) -> None:
    """Record the override, a reason to use a version that the gate did not pass, of a trial that already runs.

    The aliases stay.
    """
    entries = read(connection, model)
    settings = {**read_trial_settings(connection, model, trial.started), "override": change.override}
    where = (trials.c.model == model) & (trials.c.started == trial.started)
    connection.execute(sa.update(trials).where(where).values(settings=settings))
    add_to_history(connection, model, entries, change)
    _record_audit(connection, model, entries, change)


def write(connection: sa.Connection, model: str, entries: Entries) -> None:
    """Replace the entries. The history and the audit are not written."""
    connection.execute(sa.delete(aliases).where(aliases.c.model == model))
    for alias, value in entries.items():
        row = {"model": model, "alias": alias, **(value if alias == CANARY else {"version": value})}
        connection.execute(sa.insert(aliases).values(row))


def add_to_history(connection: sa.Connection, model: str, after: Entries, change: AliasChange) -> None:
    """Add a change to the history."""
    row = {"model": model, "time": audit.now(), "by": change.by, "why": change.why, "aliases": dict(after)}
    optional = {"numbers": change.numbers or None, "override": change.override or None}
    connection.execute(sa.insert(changes).values(row | optional))


def read_trial_kind(connection: sa.Connection, model: str, started: str) -> str:
    """Return `canary` or `ab_test`; empty if there is no such trial."""
    where = (trials.c.model == model) & (trials.c.started == started)
    return str(connection.scalar(sa.select(trials.c.kind).where(where)) or "")


def read_trial_settings(connection: sa.Connection, model: str, started: str) -> dict[str, Any]:
    """Return the settings of a trial, such as its `override`; empty if there is none."""
    where = (trials.c.model == model) & (trials.c.started == started)
    return dict(connection.scalar(sa.select(trials.c.settings).where(where)) or {})


def was_tried(connection: sa.Connection, model: str, version: str) -> bool:
    """Return True if there was a trial of a version."""
    where = (trials.c.model == model) & (trials.c.version == version)
    return connection.execute(sa.select(trials.c.started).where(where).limit(1)).first() is not None


def replace_champion(entries: Entries, version: str) -> dict[str, Any]:
    """Return the entries with another champion. The old one becomes `previous`."""
    champion = entries.get("champion", "")
    return {**entries, "champion": version, **({"previous": champion} if champion else {})}


def _record_audit(connection: sa.Connection, model: str, after: Entries, change: AliasChange) -> None:
    fields = {"model": model, "why": change.why, "aliases": get_versions(after)}
    fields |= {"override": change.override} if change.override else {}
    audit.record(connection, change.action, by=change.by, target=change.version, fields=fields)

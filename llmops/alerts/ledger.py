"""The ledger of open and recent alerts in the database. Every change is one transaction.

An alert is identified by rule, subject and place. The transaction that raises or resolves it also stores the messages
to receivers, so that a kill in between loses nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from llmops.alerts.finding import Finding, document
from llmops.alerts.rules import RULES
from llmops.config import Config
from llmops.errors import ConfigError
from llmops.monitoring.events import timestamp
from llmops.state import audit, tables
from llmops.state.database import database_of

Row = Mapping[str, Any]

KEPT = timedelta(days=90)  #: retention of resolved alerts
GONE = timedelta(hours=1)  #: silence after which a machine counts as gone, with its alerts
JUDGED = "alerts"  #: name of the judge's heartbeat


def judged(
    config: Config, findings: Iterable[Finding], rules: Collection[str], now: datetime, place: str = ""
) -> list[dict[str, Any]]:
    """Raise new alerts, resolve those that have been fine for long enough, and return both.

    Alerts of other rules than `rules` are unchanged, and so are alerts that only other machines can judge, unless these
    are gone. `place` is the machine that judged.
    """
    moment = timestamp(now)
    told: list[dict[str, Any]] = []
    with database_of(config).change() as connection:
        open_rows = {_key(row): row for row in _open(connection)}
        for finding in findings:
            row = open_rows.pop((finding.rule, finding.subject, finding.place), None)
            if row is None:
                row = _insert(connection, finding, uuid.uuid4().hex, moment)
                told.append(document(config, row, "raised"))
            else:
                values = {"held": max(row["held"], moment), "finding": finding.kept()}
                _update(connection, row["id"], values)
        # other processes that could find it broken must have judged again, too
        hold = max(timedelta(minutes=config.alerts.resolve_minutes), timedelta(seconds=2 * config.alerts.every_s))
        fine, gone = timestamp(now - hold), timestamp(now - GONE)
        for row in open_rows.values():
            here = row["rule"] in rules and row["place"] in ("", place)
            if (here and row["held"] <= fine) or (row["place"] not in ("", place) and row["held"] <= gone):
                told.append(_resolve(connection, config, row, moment))
        _tell_open(connection, config, moment)
        if "latency_p95" in rules:  # otherwise this time is judged later, when its events can be read
            _beat(connection, JUDGED, moment)
        _prune(connection, timestamp(now - KEPT))
    return told


def raise_once(config: Config, finding: Finding, id: str, now: datetime) -> bool:
    """Raise an alert about a moment, such as a failed run. Return False if its id was raised before, open or not.

    `over` resolves it.
    """
    moment = timestamp(now)
    with database_of(config).change() as connection:
        if connection.scalar(sa.select(tables.alerts.c.id).where(tables.alerts.c.id == id)):
            return False
        _insert(connection, finding, id, moment)
        _tell_open(connection, config, moment)
    return True


def row_of(finding: Finding, id: str, moment: str) -> dict[str, Any]:
    """Return the database row of an alert that is raised now."""
    return {
        "id": id, "rule": finding.rule, "subject": finding.subject, "place": finding.place,
        "severity": RULES[finding.rule].severity, "finding": finding.kept(), "raised": moment, "held": moment,
        "told": "", "resolved": "",
    }  # fmt: skip


def over(config: Config, rules: Collection[str], subject: str, now: datetime) -> int:
    """Resolve the alerts of these rules about a subject. Return the number that were open."""
    with database_of(config).change() as connection:
        rows = [row for row in _open(connection) if row["rule"] in rules and row["subject"] == subject]
        for row in rows:
            _resolve(connection, config, row, timestamp(now))
    return len(rows)


def silence(
    config: Config, rule: str, subject: str, reason: str, by: str, now: datetime, until: datetime
) -> dict[str, Any]:
    """Notify nobody of a rule's alerts, about one subject or any, until a time.

    For alerts that were already sent, receivers still get the end.

    Raises:
        ConfigError: if there is no reason, or the end is in the past.
    """
    if not reason.strip():
        raise ConfigError("A silence needs a reason: --reason TEXT.")
    if until <= now:
        raise ConfigError(f"A silence has to end later than now, not at {timestamp(until)}.")
    row = {"rule": rule, "subject": subject, "reason": reason, "by": by}
    row |= {"created": timestamp(now), "until": timestamp(until)}
    with database_of(config).change() as connection:
        number = connection.execute(sa.insert(tables.alert_silences).values(row).returning(tables.alert_silences.c.id))
        made = {"id": number.scalar_one(), **row}
        audit.note(connection, "silence", by=by, target=rule, fields=made)
        for open_row in _open(connection):
            if _matches(made, open_row):
                _tell_silenced(connection, config, open_row, made)
    return made


def unsilence(config: Config, number: int, by: str, now: datetime) -> None:
    """End a silence. Receivers are then notified of open alerts.

    Raises:
        ConfigError: if there is no active silence with this number.
    """
    silences, moment = tables.alert_silences, timestamp(now)
    with database_of(config).change() as connection:
        ended = connection.execute(
            sa.update(silences).where(silences.c.id == number, silences.c.until > moment).values(until=moment)
        )
        if not ended.rowcount:
            raise ConfigError(f"No silence {number} goes on; `llmops alerts list` shows them.")
        audit.note(connection, "unsilence", by=by, target=str(number), fields={})
        _tell_open(connection, config, moment)


def listed(config: Config, now: datetime, days: float = 7.0) -> dict[str, list[dict[str, Any]]]:
    """Return `open` alerts, alerts `over` in the last days, active `silences`, and failed `deliveries`."""
    alerts, deliveries, silences = tables.alerts, tables.alert_deliveries, tables.alert_silences
    since = timestamp(now - timedelta(days=days))
    going = sa.select(silences).where(silences.c.until > timestamp(now)).order_by(silences.c.id)
    late = sa.or_(
        sa.and_(deliveries.c.ended == "", deliveries.c.error != ""),
        sa.and_(deliveries.c.outcome == "given_up", deliveries.c.ended >= since),
    )
    return {
        "open": _read(config, sa.select(alerts).where(alerts.c.resolved == "").order_by(alerts.c.raised)),
        "over": _read(config, sa.select(alerts).where(alerts.c.resolved >= since).order_by(alerts.c.raised)),
        "silences": _read(config, going),
        "deliveries": _read(config, sa.select(deliveries).where(late).order_by(deliveries.c.created)),
    }


def told_between(config: Config, rules: Collection[str], since: datetime, until: datetime) -> list[dict[str, Any]]:
    """Return the alerts of these rules whose notification was due from `since` until before `until`, open or not."""
    alerts = tables.alerts
    told = sa.and_(alerts.c.told >= timestamp(since), alerts.c.told < timestamp(until))
    return _read(config, sa.select(alerts).where(alerts.c.rule.in_(rules), told).order_by(alerts.c.told))


def open_between(config: Config, since: datetime, until: datetime) -> list[dict[str, Any]]:
    """Return the alerts that were open in `since < time <= until`, silenced ones included."""
    alerts = tables.alerts
    then = sa.or_(alerts.c.resolved == "", alerts.c.resolved > timestamp(since))
    return _read(config, sa.select(alerts).where(alerts.c.raised <= timestamp(until), then).order_by(alerts.c.raised))


def beat(config: Config, name: str, now: datetime) -> None:
    """Record that a scheduled job runs."""
    with database_of(config).change() as connection:
        _beat(connection, name, timestamp(now))


def _read(config: Config, select: sa.Select[Any]) -> list[dict[str, Any]]:
    with database_of(config).read() as connection:
        return [dict(row) for row in connection.execute(select).mappings()]


def _key(row: Row) -> tuple[str, str, str]:
    return row["rule"], row["subject"], row["place"]


def _open(connection: sa.Connection) -> list[Row]:
    select = sa.select(tables.alerts).where(tables.alerts.c.resolved == "").order_by(tables.alerts.c.raised)
    return [dict(row) for row in connection.execute(select).mappings()]


def _insert(connection: sa.Connection, finding: Finding, id: str, moment: str) -> Row:
    row = row_of(finding, id, moment)
    connection.execute(sa.insert(tables.alerts).values(row))
    return row


def _update(connection: sa.Connection, id: str, values: Mapping[str, Any]) -> None:
    connection.execute(sa.update(tables.alerts).where(tables.alerts.c.id == id).values(values))


def _resolve(connection: sa.Connection, config: Config, row: Row, moment: str) -> dict[str, Any]:
    row = {**row, "resolved": moment}
    _update(connection, row["id"], {"resolved": moment})
    told = document(config, row, "resolved")
    _queue(connection, config, told, everybody=bool(row["told"]))
    return told


def _tell_open(connection: sa.Connection, config: Config, moment: str) -> None:
    """Store messages about open alerts of which nobody was notified, unless they are silenced."""
    silences = connection.execute(
        sa.select(tables.alert_silences).where(tables.alert_silences.c.until > moment)
    ).mappings()
    going = [dict(row) for row in silences]
    for row in _open(connection):
        if row["told"]:
            continue
        if silenced := next((s for s in going if _matches(s, row)), None):
            _tell_silenced(connection, config, row, silenced)
            continue
        _queue(connection, config, document(config, row, "raised"))
        _update(connection, row["id"], {"told": moment})


def _tell_silenced(connection: sa.Connection, config: Config, row: Row, silenced: Row) -> None:
    told = document(config, row, "silenced")
    told |= {"id": f"{told['id']}.{silenced['id']}", "reason": silenced["reason"], "by": silenced["by"]}
    _queue(connection, config, told, everybody=False)


def _matches(silence: Row, alert: Row) -> bool:
    return silence["rule"] == alert["rule"] and silence["subject"] in ("", alert["subject"])


def _queue(connection: sa.Connection, config: Config, told: dict[str, Any], everybody: bool = True) -> None:
    """Store a message for each receiver; without `everybody` only for the log and the events."""
    names = ["log", "event"]
    if everybody:
        names += [r.name for r in config.alerts.receivers if told["severity"] in r.severities]
    table = tables.alert_deliveries
    there = set(connection.scalars(sa.select(table.c.id).where(table.c.alert == told["alert"])))
    created = timestamp()
    for name in names:
        if (id := f"{told['id']}.{name}") not in there:
            row = {"id": id, "alert": told["alert"], "receiver": name, "document": told, "created": created}
            row |= {"due": created, "tries": 0, "error": "", "ended": "", "outcome": "waiting"}
            connection.execute(sa.insert(table).values(row))


def _beat(connection: sa.Connection, name: str, moment: str) -> None:
    table = tables.heartbeats
    done = connection.execute(sa.update(table).where(table.c.name == name).values(time=moment))
    if not done.rowcount:
        connection.execute(sa.insert(table).values(name=name, time=moment))


def _prune(connection: sa.Connection, before: str) -> None:
    alerts, deliveries, silences = tables.alerts, tables.alert_deliveries, tables.alert_silences
    connection.execute(sa.delete(deliveries).where(deliveries.c.created < before))
    connection.execute(sa.delete(alerts).where(alerts.c.resolved != "", alerts.c.resolved < before))
    connection.execute(sa.delete(silences).where(silences.c.until < before))

"""The life cycle of alerts in the database: raised, silenced, resolved. Every change is one transaction.

An alert is identified by rule, subject and machine (column `place`). The transaction that raises or resolves it also
stores the messages to receivers, so that a kill in between loses nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from llmops.config import Config
from llmops.events.events import format_timestamp
from llmops.frame.errors import ConfigError
from llmops.monitoring.alerts.breach import Breach, build_message
from llmops.monitoring.alerts.rules import RULES
from llmops.state import audit, tables
from llmops.state.database import database_of

Row = Mapping[str, Any]

RETENTION = timedelta(days=90)  #: of resolved alerts
MACHINE_TIMEOUT = timedelta(hours=1)  #: silence after which a machine counts as gone, with its alerts


def update_alerts(
    config: Config, breaches: Iterable[Breach], rules: Collection[str], now: datetime, machine: str = ""
) -> list[dict[str, Any]]:
    """Raise new alerts, resolve those that have been fine for long enough, and return both.

    Alerts of other rules than `rules` are unchanged, and so are alerts that only other machines can check, unless these
    are gone. `machine` is the one that checked the rules.
    """
    moment = format_timestamp(now)
    changes: list[dict[str, Any]] = []
    with database_of(config).change() as connection:
        open_rows = {_get_key(row): row for row in _read_open_alerts(connection)}
        for breach in breaches:
            row = open_rows.pop((breach.rule, breach.subject, breach.machine), None)
            if row is None:
                row = _insert_alert(connection, breach, uuid.uuid4().hex, moment)
                changes.append(build_message(config, row, "raised"))
            else:
                values = {"held": max(row["held"], moment), "finding": breach.as_json()}
                _update_alert(connection, row["id"], values)
        # other processes that could find it broken must have checked it again, too
        hold = max(timedelta(minutes=config.alerts.resolve_minutes), timedelta(seconds=2 * config.alerts.every_s))
        fine_since, gone_since = format_timestamp(now - hold), format_timestamp(now - MACHINE_TIMEOUT)
        for row in open_rows.values():
            checkable = row["rule"] in rules and row["place"] in ("", machine)
            if (checkable and row["held"] <= fine_since) or (
                row["place"] not in ("", machine) and row["held"] <= gone_since
            ):
                changes.append(_resolve_alert(connection, config, row, moment))
        _notify_open(connection, config, moment)
        _delete_expired(connection, format_timestamp(now - RETENTION))
    return changes


def raise_alert_once(config: Config, breach: Breach, id: str, now: datetime) -> bool:
    """Raise an alert about a moment, such as a failed run. Return False if its id was raised before, open or not.

    `resolve` resolves it.
    """
    moment = format_timestamp(now)
    with database_of(config).change() as connection:
        if connection.scalar(sa.select(tables.alerts.c.id).where(tables.alerts.c.id == id)):
            return False
        _insert_alert(connection, breach, id, moment)
        _notify_open(connection, config, moment)
    return True


def build_row(breach: Breach, id: str, moment: str) -> dict[str, Any]:
    """Return the database row of an alert that is raised now."""
    return {
        "id": id, "rule": breach.rule, "subject": breach.subject, "place": breach.machine,
        "severity": RULES[breach.rule].severity, "finding": breach.as_json(), "raised": moment, "held": moment,
        "told": "", "resolved": "",
    }  # fmt: skip


def resolve_alerts(config: Config, rules: Collection[str], subject: str, now: datetime) -> int:
    """Resolve the alerts of these rules about a subject. Return the number that were open."""
    with database_of(config).change() as connection:
        rows = [row for row in _read_open_alerts(connection) if row["rule"] in rules and row["subject"] == subject]
        for row in rows:
            _resolve_alert(connection, config, row, format_timestamp(now))
    return len(rows)


def add_silence(
    config: Config, rule: str, subject: str, reason: str, by: str, now: datetime, until: datetime
) -> dict[str, Any]:
    """Notify nobody of a rule's alerts, about one subject or any, until a time.

    Receivers still get the resolution of alerts that were already sent.

    Raises:
        ConfigError: if there is no reason, or the end is in the past.
    """
    if not reason.strip():
        raise ConfigError("A silence needs a reason: --reason TEXT.")
    if until <= now:
        raise ConfigError(f"A silence has to end later than now, not at {format_timestamp(until)}.")
    row = {"rule": rule, "subject": subject, "reason": reason, "by": by}
    row |= {"created": format_timestamp(now), "until": format_timestamp(until)}
    with database_of(config).change() as connection:
        number = connection.execute(sa.insert(tables.alert_silences).values(row).returning(tables.alert_silences.c.id))
        silence_row = {"id": number.scalar_one(), **row}
        audit.record(connection, "silence", by=by, target=rule, fields=silence_row)
        for open_row in _read_open_alerts(connection):
            if _is_silenced_by(silence_row, open_row):
                _notify_silenced(connection, config, open_row, silence_row)
    return silence_row


def end_silence(config: Config, number: int, by: str, now: datetime) -> None:
    """End a silence. Receivers are then notified of open alerts.

    Raises:
        ConfigError: if there is no active silence with this number.
    """
    silences, moment = tables.alert_silences, format_timestamp(now)
    with database_of(config).change() as connection:
        ended = connection.execute(
            sa.update(silences).where(silences.c.id == number, silences.c.until > moment).values(until=moment)
        )
        if not ended.rowcount:
            raise ConfigError(f"There is no active silence {number}; `llmops alerts list` shows them.")
        audit.record(connection, "unsilence", by=by, target=str(number), fields={})
        _notify_open(connection, config, moment)


def list_alerts(config: Config, now: datetime, days: float = 7.0) -> dict[str, list[dict[str, Any]]]:
    """Return `open` alerts, alerts `over` in the last days, active `silences`, and failed `deliveries`."""
    alerts, deliveries, silences = tables.alerts, tables.alert_deliveries, tables.alert_silences
    since = format_timestamp(now - timedelta(days=days))
    active = sa.select(silences).where(silences.c.until > format_timestamp(now)).order_by(silences.c.id)
    failed = sa.or_(
        sa.and_(deliveries.c.ended == "", deliveries.c.error != ""),
        sa.and_(deliveries.c.outcome == "given_up", deliveries.c.ended >= since),
    )
    return {
        "open": _read_rows(config, sa.select(alerts).where(alerts.c.resolved == "").order_by(alerts.c.raised)),
        "over": _read_rows(config, sa.select(alerts).where(alerts.c.resolved >= since).order_by(alerts.c.raised)),
        "silences": _read_rows(config, active),
        "deliveries": _read_rows(config, sa.select(deliveries).where(failed).order_by(deliveries.c.created)),
    }


def read_notified_alerts(
    config: Config, rules: Collection[str], since: datetime, until: datetime
) -> list[dict[str, Any]]:
    """Return the alerts of these rules whose notification was due from `since` until before `until`, open or not."""
    alerts = tables.alerts
    notified = sa.and_(alerts.c.told >= format_timestamp(since), alerts.c.told < format_timestamp(until))
    return _read_rows(config, sa.select(alerts).where(alerts.c.rule.in_(rules), notified).order_by(alerts.c.told))


def read_alerts_between(config: Config, since: datetime, until: datetime) -> list[dict[str, Any]]:
    """Return the alerts that were open in `since < time <= until`, silenced ones included."""
    alerts = tables.alerts
    still_open = sa.or_(alerts.c.resolved == "", alerts.c.resolved > format_timestamp(since))
    return _read_rows(
        config,
        sa.select(alerts).where(alerts.c.raised <= format_timestamp(until), still_open).order_by(alerts.c.raised),
    )


def record_heartbeat(config: Config, name: str, now: datetime) -> None:
    """Record that a scheduled job runs."""
    with database_of(config).change() as connection:
        table = tables.heartbeats
        updated = connection.execute(sa.update(table).where(table.c.name == name).values(time=format_timestamp(now)))
        if not updated.rowcount:
            connection.execute(sa.insert(table).values(name=name, time=format_timestamp(now)))


def _read_rows(config: Config, select: sa.Select[Any]) -> list[dict[str, Any]]:
    with database_of(config).read() as connection:
        return [dict(row) for row in connection.execute(select).mappings()]


def _get_key(row: Row) -> tuple[str, str, str]:
    return row["rule"], row["subject"], row["place"]


def _read_open_alerts(connection: sa.Connection) -> list[Row]:
    select = sa.select(tables.alerts).where(tables.alerts.c.resolved == "").order_by(tables.alerts.c.raised)
    return [dict(row) for row in connection.execute(select).mappings()]


def _insert_alert(connection: sa.Connection, breach: Breach, id: str, moment: str) -> Row:
    row = build_row(breach, id, moment)
    connection.execute(sa.insert(tables.alerts).values(row))
    return row


def _update_alert(connection: sa.Connection, id: str, values: Mapping[str, Any]) -> None:
    connection.execute(sa.update(tables.alerts).where(tables.alerts.c.id == id).values(values))


def _resolve_alert(connection: sa.Connection, config: Config, row: Row, moment: str) -> dict[str, Any]:
    row = {**row, "resolved": moment}
    _update_alert(connection, row["id"], {"resolved": moment})
    message = build_message(config, row, "resolved")
    _queue_message(connection, config, message, notify=bool(row["told"]))
    return message


def _notify_open(connection: sa.Connection, config: Config, moment: str) -> None:
    """Store messages about open alerts of which nobody was notified, unless they are silenced."""
    silences = connection.execute(
        sa.select(tables.alert_silences).where(tables.alert_silences.c.until > moment)
    ).mappings()
    active = [dict(row) for row in silences]
    for row in _read_open_alerts(connection):
        if row["told"]:
            continue
        if silence := next((s for s in active if _is_silenced_by(s, row)), None):
            _notify_silenced(connection, config, row, silence)
            continue
        _queue_message(connection, config, build_message(config, row, "raised"))
        _update_alert(connection, row["id"], {"told": moment})


def _notify_silenced(connection: sa.Connection, config: Config, row: Row, silence: Row) -> None:
    message = build_message(config, row, "silenced")
    message |= {"id": f"{message['id']}.{silence['id']}", "reason": silence["reason"], "by": silence["by"]}
    _queue_message(connection, config, message, notify=False)


def _is_silenced_by(silence: Row, alert: Row) -> bool:
    return silence["rule"] == alert["rule"] and silence["subject"] in ("", alert["subject"])


def _queue_message(connection: sa.Connection, config: Config, message: dict[str, Any], notify: bool = True) -> None:
    """Store a message for each receiver; without `notify` only for the log and the events."""
    names = ["log", "event"]
    if notify:
        names += [r.name for r in config.alerts.receivers if message["severity"] in r.severities]
    table = tables.alert_deliveries
    queued = set(connection.scalars(sa.select(table.c.id).where(table.c.alert == message["alert"])))
    created = format_timestamp()
    for name in names:
        if (id := f"{message['id']}.{name}") not in queued:
            row = {"id": id, "alert": message["alert"], "receiver": name, "document": message, "created": created}
            row |= {"due": created, "tries": 0, "error": "", "ended": "", "outcome": "waiting"}
            connection.execute(sa.insert(table).values(row))


def _delete_expired(connection: sa.Connection, before: str) -> None:
    alerts, deliveries, silences = tables.alerts, tables.alert_deliveries, tables.alert_silences
    connection.execute(sa.delete(deliveries).where(deliveries.c.created < before))
    connection.execute(sa.delete(alerts).where(alerts.c.resolved != "", alerts.c.resolved < before))
    connection.execute(sa.delete(silences).where(silences.c.until < before))

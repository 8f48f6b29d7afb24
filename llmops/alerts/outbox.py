"""Telling receivers: at least once, in the order of an alert's states, and again while a receiver is down.

What has to be told waits in the database. Whoever sends takes it for a while; if it dies, the next takes it after that.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from llmops.alerts.receivers import SERVICE_S, Receiver
from llmops.errors import said
from llmops.monitoring.events import timestamp
from llmops.state import tables
from llmops.state.database import Database

log = logging.getLogger(__name__)

TAKEN_S = 30.0 + 2 * SERVICE_S  #: how long a message is left to the process that sends it
FIRST_S, LONGEST_S = 5.0, 300.0  #: pauses between tries, doubled each time
GIVE_UP = timedelta(hours=24)  #: nobody is helped by an alert of yesterday


def deliver(database: Database, receiver: Receiver) -> int:
    """Tell a receiver what waits for it, until something fails or nothing is left; returns how much it took."""
    sent = 0
    while row := _take(database, receiver):
        error = ""
        try:
            receiver.send(row["document"])
            sent += 1
        except Exception as failure:  # whatever is wrong with one receiver
            error = f"{type(failure).__name__}: {said(failure)}"[:1000]
        _note(database, row, error)
        if error:
            break
    return sent


def deliver_all(database: Database, receivers: Sequence[Receiver]) -> dict[str, int]:
    """`deliver` to several at a time; one that hangs holds no other up."""
    with ThreadPoolExecutor(max(1, len(receivers)), "alerts") as pool:
        counts = pool.map(lambda receiver: deliver(database, receiver), receivers)
        return dict(zip([receiver.name for receiver in receivers], counts, strict=True))


def _take(database: Database, receiver: Receiver) -> Mapping[str, Any] | None:
    """The oldest that is due, marked as being sent; not one whose alert has an earlier message that still waits."""
    table = tables.alert_deliveries
    earlier = table.alias()
    now = datetime.now(UTC)
    before = sa.exists().where(
        earlier.c.receiver == table.c.receiver,
        earlier.c.alert == table.c.alert,
        earlier.c.ended == "",
        earlier.c.created < table.c.created,
    )
    select = (
        sa.select(table)
        .where(table.c.receiver == receiver.name, table.c.ended == "", table.c.due <= timestamp(now), ~before)
        .order_by(table.c.created)
        .limit(1)
    )
    with database.read() as connection:  # so that nobody has to wait while nothing is due
        if connection.execute(select).first() is None:
            return None
    with database.change() as connection:
        row = connection.execute(select).mappings().first()
        if row is None:
            return None
        until = timestamp(now + timedelta(seconds=TAKEN_S))
        values = {"due": until, "tries": row["tries"] + 1}
        connection.execute(sa.update(table).where(table.c.id == row["id"]).values(values))
        return {**row, **values}


def _note(database: Database, row: Mapping[str, Any], error: str) -> None:
    now = datetime.now(UTC)
    values = {"ended": timestamp(now), "outcome": "sent", "error": ""}
    if error and now - datetime.fromisoformat(row["created"]) >= GIVE_UP:
        values |= {"outcome": "given_up", "error": error}
        log.error("The receiver %s was not told of %s: %s", row["receiver"], row["id"], error)
    elif error:
        pause_s = min(LONGEST_S, FIRST_S * 2 ** min(row["tries"] - 1, 16))
        values = {"due": timestamp(now + timedelta(seconds=pause_s)), "error": error}
        log.warning(
            "The receiver %s does not take %s (%s); next try in %.0f s", row["receiver"], row["id"], error, pause_s
        )
    table = tables.alert_deliveries
    with database.change() as connection:
        connection.execute(sa.update(table).where(table.c.id == row["id"]).values(values))

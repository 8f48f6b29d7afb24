"""Delivery of messages to receivers: at least once, in the order of an alert's states, with retries.

Messages wait in the database. A sending process reserves a message for a while; if it dies, another one takes over.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from llmops.events.events import format_timestamp
from llmops.frame.errors import describe_error
from llmops.monitoring.alerts.receivers import SERVICE_TIMEOUT_S, Receiver
from llmops.state import tables
from llmops.state.database import Database

log = logging.getLogger(__name__)

RESERVATION_S = 30.0 + 2 * SERVICE_TIMEOUT_S  #: how long a message is reserved for the process that sends it
MIN_PAUSE_S, MAX_PAUSE_S = 5.0, 300.0  #: pauses between tries, doubled each time
GIVE_UP_AFTER = timedelta(hours=24)  #: age at which a message is given up: an alert of yesterday helps nobody


def deliver_messages(database: Database, receiver: Receiver) -> int:
    """Send a receiver's waiting messages until one fails or none is left. Return the number sent."""
    sent = 0
    while row := _reserve_message(database, receiver):
        error = ""
        try:
            receiver.send(row["document"])
            sent += 1
        except Exception as failure:  # any failure of one receiver
            error = f"{type(failure).__name__}: {describe_error(failure)}"[:1000]
        _record_result(database, row, error)
        if error:
            break
    return sent


def deliver_to_all(database: Database, receivers: Sequence[Receiver]) -> dict[str, int]:
    """Deliver to several receivers in parallel, so that none waits for another. Return name → number sent."""
    with ThreadPoolExecutor(max(1, len(receivers)), "alerts") as pool:
        counts = pool.map(lambda receiver: deliver_messages(database, receiver), receivers)
        return dict(zip([receiver.name for receiver in receivers], counts, strict=True))


def _reserve_message(database: Database, receiver: Receiver) -> Mapping[str, Any] | None:
    """Return the oldest due message, reserved, unless an earlier message of its alert still waits."""
    table = tables.alert_deliveries
    earlier = table.alias()
    now = datetime.now(UTC)
    has_earlier = sa.exists().where(
        earlier.c.receiver == table.c.receiver,
        earlier.c.alert == table.c.alert,
        earlier.c.ended == "",
        earlier.c.created < table.c.created,
    )
    select = (
        sa.select(table)
        .where(
            table.c.receiver == receiver.name, table.c.ended == "", table.c.due <= format_timestamp(now), ~has_earlier
        )
        .order_by(table.c.created)
        .limit(1)
    )
    with database.read() as connection:  # avoids the writers' lock while nothing is due
        if connection.execute(select).first() is None:
            return None
    with database.change() as connection:
        row = connection.execute(select).mappings().first()
        if row is None:
            return None
        until = format_timestamp(now + timedelta(seconds=RESERVATION_S))
        values = {"due": until, "tries": row["tries"] + 1}
        connection.execute(sa.update(table).where(table.c.id == row["id"]).values(values))
        return {**row, **values}


def _record_result(database: Database, row: Mapping[str, Any], error: str) -> None:
    now = datetime.now(UTC)
    values = {"ended": format_timestamp(now), "outcome": "sent", "error": ""}
    if error and now - datetime.fromisoformat(row["created"]) >= GIVE_UP_AFTER:
        values |= {"outcome": "given_up", "error": error}
        log.error("The receiver %s did not get %s: %s", row["receiver"], row["id"], error)
    elif error:
        pause_s = min(MAX_PAUSE_S, MIN_PAUSE_S * 2 ** min(row["tries"] - 1, 16))
        values = {"due": format_timestamp(now + timedelta(seconds=pause_s)), "error": error}
        log.warning(
            "The receiver %s does not take %s (%s); next try in %.0f s", row["receiver"], row["id"], error, pause_s
        )
    table = tables.alert_deliveries
    with database.change() as connection:
        connection.execute(sa.update(table).where(table.c.id == row["id"]).values(values))

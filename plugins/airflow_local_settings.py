"""The module that Airflow imports before it opens its database: it keeps SQLite's writers from blocking each other.

SQLite has one writer at a time; the others wait as long as `build_airflow_environment` says. Other databases are left
alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import Session

__all__: list[str] = []  # nothing of this belongs to `airflow.settings`

log = logging.getLogger(__name__)
audit_writer = ThreadPoolExecutor(1, "audit-log")  # its thread begins with the first row, in the API server only


@event.listens_for(Engine, "savepoint")
def begin_to_write(connection: Connection, name: str) -> None:
    """Begin the transaction of a savepoint as one that writes, so that it waits its turn.

    Begun as a reader, its first write fails at once as "database is locked" if somebody else has written meanwhile.
    `airflow backfill create` and the scheduler did so to each other.
    """
    here: Any = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite" and not here.in_transaction:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


@event.listens_for(Session, "before_flush")
def hand_over_audit_log(session: Session, *_: object) -> None:
    """Hand new rows of the audit log to a thread, if they come from the event loop of Airflow's API server.

    Airflow's `action_logging` commits such a row in the event loop before each `POST` and `PATCH`. There it waits for
    a request that has written in a thread, and that request waits for the event loop to commit: neither ends before
    SQLite's time is over.
    """
    dialect = session.get_bind().dialect
    if dialect.name != "sqlite" or dialect.is_async or not _is_event_loop():
        return
    from airflow.models.log import Log

    rows = [row for row in session.new if isinstance(row, Log)]
    for row in rows:
        session.expunge(row)
    if rows:
        audit_writer.submit(_write_audit_log, rows)


def _write_audit_log(rows: Sequence[Any]) -> None:
    from airflow.utils.session import create_session

    try:
        with create_session(scoped=False) as session:
            session.add_all(rows)
    except Exception:
        log.exception("the audit log lacks %s", ", ".join(row.event for row in rows))


def _is_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True

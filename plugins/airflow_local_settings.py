"""What Airflow imports before it opens its database: on SQLite a savepoint takes the right to write at once.

A savepoint begins a transaction that reads; its first write then fails at once as "database is locked" where somebody
else has written meanwhile, since SQLite cannot wait for a newer state than was read. `airflow backfill create` and the
scheduler did so to each other. Begun as one that writes, the transaction waits its turn for as long as
`build_airflow_environment` says. Other databases are left alone.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, event

__all__: list[str] = []  # nothing of this belongs to `airflow.settings`


@event.listens_for(Engine, "savepoint")
def begin_to_write(connection: Connection, name: str) -> None:
    """Called before each savepoint."""
    here: Any = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite" and not here.in_transaction:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

"""Erasures in the database: their plans until they are done, then their receipts, which hold no personal data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from llmops.config import Config
from llmops.data.collect import forgotten
from llmops.erasure.plan import Plan
from llmops.erasure.subject import Subject
from llmops.errors import LlmopsError
from llmops.sameness import check_erased
from llmops.state import audit
from llmops.state.database import Database, database_of
from llmops.state.tables import erasures as table


def begin(database: Database, plan: Plan, subject: Subject) -> int:
    """Write down a plan, and whom collect keeps out from now on: the erasure can only be finished from here on.

    Returns the number of its receipt.
    """
    known = forgotten.keyed(database)
    values = {"subject": known.person(subject.plain), "begun": plan.time, "ended": "", "plan": asdict(plan)}
    with database.change() as connection:
        rows = {(place["source"], place["position"]) for place in plan.documents}
        forgotten.add(connection, subject.shape, subject.plain, rows)
        return int(connection.scalar(sa.insert(table).values(values).returning(table.c.number)) or 0)


def interrupted(config: Config, subject: Subject) -> tuple[int, Plan] | None:
    """The erasure that was interrupted, if there is one.

    Raises:
        LlmopsError: if it was of somebody else.
    """
    database = database_of(config)
    if database.absent:
        return None
    with database.read() as connection:
        row = connection.execute(sa.select(table).where(table.c.ended == "")).first()
    if row and row.subject != forgotten.load(database).person(subject.plain):
        check_erased(config)
    return (row.number, Plan(**row.plan)) if row else None


def end(database: Database, number: int, receipt: Mapping[str, Any], by: str) -> None:
    """Write down the receipt of an erasure that is done; its plan goes."""
    with database.change() as connection:
        this = sa.update(table).where(table.c.number == number)
        connection.execute(this.values(ended=audit.now(), plan=None, receipt=dict(receipt)))
        audit.note(connection, "erase", by=by, target=f"receipt {number}", fields={"left": len(receipt["remaining"])})
    database.purge()


def read(config: Config, number: int) -> dict[str, Any]:
    """The receipt with a number.

    Raises:
        LlmopsError: if there is none.
    """
    database = database_of(config)
    with database.read() as connection:
        receipt = connection.scalar(sa.select(table.c.receipt).where(table.c.number == number))
    if receipt is None:
        raise LlmopsError(f"There is no receipt {number} in {database.name}.")
    return dict(receipt)

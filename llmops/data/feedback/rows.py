"""The database rows of feedback: waiting, accepted for training, and decided by reviewers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from llmops.events.events import format_timestamp
from llmops.frame.errors import ReviewError
from llmops.state import audit, tables
from llmops.state.database import Database
from llmops.state.tables import reviews

FORGOTTEN = "forgotten"  #: state of an erased row: only its id is left
MAX_CORRECTION_CHARS = 8000  #: longest edited correction
_UNDECIDED = {"state": "waiting", "joined": "", "decided": "", "by": "", "why": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """A correction, or an answer with a good rating, and the decision on it. See `state.tables`."""

    id: str
    kind: str
    time: str
    key: str
    role: str
    version: str = ""
    question: str
    context: str = ""
    answer: str = ""
    correction: str
    comment: str = ""
    state: str = "waiting"
    joined: str = ""
    decided: str = ""
    by: str = ""
    why: str = ""
    edited: str = ""

    @property
    def text(self) -> str:
        """Return the right answer."""
        return self.edited or self.correction

    @property
    def reviewed(self) -> bool:
        """Return True if a person has decided."""
        return bool(self.by) and self.by != "policy"


def select(connection: sa.Connection, *where: sa.ColumnElement[bool]) -> list[Review]:
    """Return the rows, oldest first."""
    query = sa.select(reviews).where(*where).order_by(reviews.c.time, reviews.c.id)
    return [Review(**row._mapping) for row in connection.execute(query)]


def select_remaining(connection: sa.Connection) -> list[Review]:
    """Return all rows except forgotten ones, oldest first."""
    return select(connection, reviews.c.state != FORGOTTEN)


def read(database: Database, *states: str) -> list[Review]:
    """Return the rows in these states (default: all except forgotten ones), oldest first."""
    if not database.exists:
        return []
    with database.read() as connection:
        return select(connection, reviews.c.state.in_(states)) if states else select_remaining(connection)


def add(connection: sa.Connection, rows: Iterable[Review]) -> int:
    """Add new rows, and return their number."""
    known = set(connection.execute(sa.select(reviews.c.id)).scalars())
    new = {row.id: asdict(row) for row in rows if row.id not in known}
    if new:
        connection.execute(sa.insert(reviews), list(new.values()))
    return len(new)


def withdraw(connection: sa.Connection, ids: Collection[str]) -> None:
    """Remove the answers of these withdrawn ratings, except reviewed ones."""
    for row in select(connection, reviews.c.kind == "answer") if ids else ():
        if row.id in ids and not row.reviewed and row.state != FORGOTTEN:
            connection.execute(sa.delete(reviews).where(reviews.c.id == row.id))


def read_forgotten(connection: sa.Connection) -> dict[str, str]:
    """Return key prefix → time when its owner was erased, from the audit of erasures."""
    table = tables.audit
    query = (
        sa.select(table.c.fields).where(table.c.action == "forget", table.c.target == "reviews").order_by(table.c.id)
    )
    return {key: fields["until"] for fields in connection.execute(query).scalars() for key in fields.get("keys", ())}


def delete_reasons(connection: sa.Connection, ids: Collection[str]) -> None:
    """Remove reasons and keys of decisions on these rows from the audit."""
    table = tables.audit
    for id, target, fields in connection.execute(
        sa.select(table.c.id, table.c.target, table.c.fields).where(table.c.action.endswith("_feedback"))
    ).all():
        if target in ids:
            remaining = {name: value for name, value in fields.items() if name not in ("reason", "key")}
            connection.execute(sa.update(table).where(table.c.id == id).values(fields=remaining))


def update(connection: sa.Connection, id: str, **values: str) -> None:
    """Change a row."""
    connection.execute(sa.update(reviews).where(reviews.c.id == id).values(values))


def read_accepted(database: Database, until: str) -> list[Review]:
    """Return feedback accepted before a moment, one row for all that say the same, oldest decision first."""
    if not database.exists:
        return []
    with database.read() as connection:
        found = select(connection, reviews.c.state == "accepted", reviews.c.joined == "", reviews.c.decided < until)
    return sorted(found, key=lambda row: (row.decided, row.id))


def read_joined(database: Database, ids: Sequence[str]) -> dict[str, list[Review]]:
    """Return id → the rows that say the same."""
    found: dict[str, list[Review]] = {id: [] for id in ids}
    if database.exists:
        with database.read() as connection:
            for row in select(connection, reviews.c.joined != ""):
                if row.joined in found:
                    found[row.joined].append(row)
    return found


def count_states(database: Database) -> dict[str, int]:
    """Return state → number of rows; rows that say the same count once."""
    if not database.exists:
        return {}
    query = sa.select(reviews.c.state, sa.func.count()).where(reviews.c.joined == "").group_by(reviews.c.state)
    with database.read() as connection:
        return {str(state): int(number) for state, number in connection.execute(query)}


def decide(
    database: Database, id: str, state: str, *, by: str, why: str = "", edited: str = "", who: Mapping[str, Any]
) -> Review:
    """Record a person's decision on a row, with its audit row in the same transaction.

    The beginning of an id is enough if it is unique. `edited` is the answer to train on; empty: unchanged.

    Raises:
        ReviewError: if there is no such row, or it cannot be decided.
    """
    if len(edited) > MAX_CORRECTION_CHARS:
        raise ReviewError(f"A correction has at most {MAX_CORRECTION_CHARS} characters, not {len(edited)}.")
    with database.change() as connection:
        row = _find(connection, id)
        values = {"state": state, "joined": "", "decided": format_timestamp(), "by": by, "why": why, "edited": edited}
        update(connection, row.id, **values)
        # If it was refused, so are the rows it represents, which stay refused when this row is erased.
        joined_values = {**values, "joined": row.id} if state == "refused" else dict(_UNDECIDED)
        for other in select(connection, reviews.c.joined == row.id):
            update(connection, other.id, **joined_values)
        action = "edit_feedback" if edited else {"accepted": "accept_feedback", "refused": "refuse_feedback"}[state]
        fields = {"was": row.state, "reason": why, "key": row.key, **who}
        audit.record(connection, action, by=by, target=row.id, fields=fields)
        return Review(**asdict(row) | values)


def _find(connection: sa.Connection, id: str) -> Review:
    # not LIKE, because `_` and `%` are wildcards there
    found = select(connection, sa.func.substr(reviews.c.id, 1, len(id)) == id) if len(id) >= 6 else []
    if len(found) != 1 or found[0].state == FORGOTTEN:
        raise ReviewNotFoundError(
            f"There is {'more than one' if len(found) > 1 else 'no'} correction {id!r}; `llmops feedback list` has "
            "those that wait."
        )
    return found[0]


class ReviewNotFoundError(ReviewError):
    """No row has this id."""

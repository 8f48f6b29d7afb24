"""The rows of the database about what users have said: what is waiting, what may train, and what a person decided."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from llmops.errors import ReviewError
from llmops.monitoring.events import timestamp
from llmops.state import audit, tables
from llmops.state.database import Database
from llmops.state.tables import reviews

FORGOTTEN = "forgotten"  #: state of what nothing but its id is left of
MOST_CHARS = 8000  #: of an edited correction
OPEN = ("waiting", "held")  #: states that a person is asked about
_UNDECIDED = {"state": "waiting", "joined": "", "decided": "", "by": "", "why": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """One correction, or an answer that somebody found good, and what was decided on it; see `state.tables`."""

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
        """What the answer should be."""
        return self.edited or self.correction

    @property
    def reviewed(self) -> bool:
        """Whether a person has decided."""
        return bool(self.by) and self.by != "policy"


def every(connection: sa.Connection, *where: sa.ColumnElement[bool]) -> list[Review]:
    """The rows, oldest first."""
    query = sa.select(reviews).where(*where).order_by(reviews.c.time, reviews.c.id)
    return [Review(**row._mapping) for row in connection.execute(query)]


def kept(connection: sa.Connection) -> list[Review]:
    """All rows but those that are forgotten, oldest first."""
    return every(connection, reviews.c.state != FORGOTTEN)


def read(database: Database, *states: str) -> list[Review]:
    """The rows in these states, or all but those that are forgotten, oldest first."""
    if database.absent:
        return []
    with database.read() as connection:
        return every(connection, reviews.c.state.in_(states)) if states else kept(connection)


def add(connection: sa.Connection, rows: Iterable[Review]) -> int:
    """Add rows that are not there yet; returns how many."""
    known = set(connection.execute(sa.select(reviews.c.id)).scalars())
    new = {row.id: asdict(row) for row in rows if row.id not in known}
    if new:
        connection.execute(sa.insert(reviews), list(new.values()))
    return len(new)


def withdraw(connection: sa.Connection, ids: Collection[str]) -> None:
    """Remove the answers that these ratings found good, but those that a person has decided on."""
    for row in every(connection, reviews.c.kind == "answer") if ids else ():
        if row.id in ids and not row.reviewed and row.state != FORGOTTEN:
            connection.execute(sa.delete(reviews).where(reviews.c.id == row.id))


def forgotten(connection: sa.Connection) -> dict[str, str]:
    """Prefix of a key → when its owner was forgotten, as its erasure has written it down."""
    table = tables.audit
    query = (
        sa.select(table.c.fields).where(table.c.action == "forget", table.c.target == "reviews").order_by(table.c.id)
    )
    return {key: said["until"] for said in connection.execute(query).scalars() for key in said.get("keys", ())}


def forgotten_keys(database: Database) -> dict[str, str]:
    """Prefix of a key → when its owner was forgotten."""
    if database.absent:
        return {}
    with database.read() as connection:
        return forgotten(connection)


def forget_reasons(connection: sa.Connection, ids: Collection[str]) -> None:
    """Take out of the audit why somebody decided on these rows, and whose they were."""
    table = tables.audit
    for id, target, said in connection.execute(
        sa.select(table.c.id, table.c.target, table.c.fields).where(table.c.action.endswith("_feedback"))
    ).all():
        if target in ids:
            left = {name: value for name, value in said.items() if name not in ("reason", "key")}
            connection.execute(sa.update(table).where(table.c.id == id).values(fields=left))


def put(connection: sa.Connection, id: str, **values: str) -> None:
    """Change a row."""
    connection.execute(sa.update(reviews).where(reviews.c.id == id).values(values))


def trained(database: Database, until: str) -> list[Review]:
    """What may train of what was decided before a moment: one row for all that say the same, oldest decision first."""
    if database.absent:
        return []
    with database.read() as connection:
        found = every(connection, reviews.c.state == "accepted", reviews.c.joined == "", reviews.c.decided < until)
    return sorted(found, key=lambda row: (row.decided, row.id))


def joined(database: Database, ids: Sequence[str]) -> dict[str, list[Review]]:
    """Id → the rows that say the same as it."""
    found: dict[str, list[Review]] = {id: [] for id in ids}
    if not database.absent:
        with database.read() as connection:
            for row in every(connection, reviews.c.joined != ""):
                if row.joined in found:
                    found[row.joined].append(row)
    return found


def counts(database: Database) -> dict[str, int]:
    """State → how many there are, those that say the same counted once."""
    if database.absent:
        return {}
    query = sa.select(reviews.c.state, sa.func.count()).where(reviews.c.joined == "").group_by(reviews.c.state)
    with database.read() as connection:
        return {str(state): int(number) for state, number in connection.execute(query)}


def decide(
    database: Database, id: str, state: str, *, by: str, why: str = "", edited: str = "", who: Mapping[str, Any]
) -> Review:
    """A person's decision on a row, with its audit line in the same transaction.

    Args:
        database: where it is.
        id: of the row; the start of it is enough, if no other begins so.
        state: `accepted` or `refused`.
        by: who decides.
        why: the reason, if there is one.
        edited: the correction as it is to be trained on; empty: as it was said.
        who: fields about them, for the audit.

    Raises:
        ReviewError: if there is no such row, or it cannot be decided on.
    """
    if len(edited) > MOST_CHARS:
        raise ReviewError(f"A correction has at most {MOST_CHARS} characters, not {len(edited)}.")
    with database.change() as connection:
        row = _named(connection, id)
        done = {"state": state, "joined": "", "decided": timestamp(), "by": by, "why": why, "edited": edited}
        put(connection, row.id, **done)
        # What it stood for was refused with it, however little of that says the same as the others.
        theirs = {**done, "joined": row.id} if state == "refused" else dict(_UNDECIDED)
        for other in every(connection, reviews.c.joined == row.id):
            put(connection, other.id, **theirs)
        action = "edit_feedback" if edited else {"accepted": "accept_feedback", "refused": "refuse_feedback"}[state]
        fields = {"was": row.state, "reason": why, "key": row.key, **who}
        audit.note(connection, action, by=by, target=row.id, fields=fields)
        return Review(**asdict(row) | done)


def _named(connection: sa.Connection, id: str) -> Review:
    # not LIKE, in which `_` and `%` stand for others
    found = every(connection, sa.func.substr(reviews.c.id, 1, len(id)) == id) if len(id) >= 6 else []
    if len(found) != 1 or found[0].state == FORGOTTEN:
        raise NoSuchReview(
            f"There is {'more than one' if len(found) > 1 else 'no'} correction {id!r}; `llmops feedback list` has "
            "those that wait."
        )
    return found[0]


class NoSuchReview(ReviewError):
    """No row has the id that was named."""

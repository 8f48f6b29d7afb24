"""The usage of each key: answered requests and tokens, by day (UTC) and model.

Serving apps add what they have counted to the table `usage`, so that it has the sum over all processes. It does not
depend on events, which expire.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from llmops.frame.errors import LlmopsError
from llmops.state.database import Database
from llmops.state.tables import keys, usage

FIGURES = ("requests", "input_tokens", "output_tokens")
_MONTH = re.compile(r"2[0-9]{3}-(0[1-9]|1[0-2])")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  #: a cell that begins so is a formula for a spreadsheet


class MonthRefused(LlmopsError):
    """The text is no month."""


class UsageCell(NamedTuple):
    """A row of the table `usage`."""

    key: str  #: prefix
    day: str  #: YYYY-MM-DD, UTC
    model: str


@dataclass(frozen=True, slots=True)
class DayUsage:
    """The usage of a key on a day, by one model."""

    day: str
    key: str
    owner: str
    model: str
    requests: int
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """The usage of a key in a month."""

    key: str
    owner: str
    requests: int
    input_tokens: int
    output_tokens: int
    tokens_per_month: int | None  #: the budget; None or 0: none


@dataclass(frozen=True, slots=True)
class MonthUsage:
    """The usage of all keys, or of one, in a month."""

    month: str  #: YYYY-MM
    until: str  #: ISO time at which the month ends and budgets begin anew
    keys: list[KeyUsage]
    days: list[DayUsage]


def parse_month(text: str) -> str:
    """Return the month, if the text is one.

    Raises:
        MonthRefused: if it is not.
    """
    if not _MONTH.fullmatch(text):
        raise MonthRefused(f"{text[:20]!r} is no month; write it as 2026-01.")
    return text


def format_month(moment: datetime) -> str:
    """Return the month of a moment, in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m")


def find_month_end(month: str) -> datetime:
    """Return the first moment after a month."""
    year, number = map(int, month.split("-"))
    return datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)


def add_usage(database: Database, counts: Mapping[UsageCell, Counter[str]]) -> None:
    """Add counts of `FIGURES` to the table. Counts of a key that an erasure has deleted meanwhile are dropped."""
    with database.change() as connection:
        # Locked, so that an erasure waits: it deletes the key first and its usage then.
        known = (
            sa.select(keys.c.prefix).where(keys.c.prefix.in_({cell.key for cell in counts})).with_for_update(read=True)
        )
        prefixes = set(connection.scalars(known))
        insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(usage)
        sums = {name: usage.c[name] + insert.excluded[name] for name in FIGURES}
        statement = insert.on_conflict_do_update(index_elements=list(usage.primary_key), set_=sums)
        rows = [
            {**cell._asdict(), **{name: count[name] for name in FIGURES}}
            for cell, count in counts.items()
            if cell.key in prefixes
        ]
        if rows:
            connection.execute(statement, rows)


def sum_budgeted_tokens(database: Database, month: str) -> Counter[str]:
    """Return the used tokens of each key that has a budget, by prefix."""
    tokens = sa.func.sum(usage.c.input_tokens + usage.c.output_tokens)
    select = sa.select(keys.c.prefix, tokens).join(usage, usage.c.key == keys.c.prefix).group_by(keys.c.prefix)
    with database.read() as connection:
        rows = connection.execute(select.where(keys.c.tokens_per_month > 0, *_in_month(month))).all()
    return Counter({prefix: int(used) for prefix, used in rows})


def read_usage(database: Database, month: str, prefix: str = "") -> MonthUsage:
    """Return the usage of all keys in a month, or of the one with this prefix, in order of days and keys."""
    owner, budget = sa.func.coalesce(keys.c.owner, "").label("owner"), keys.c.tokens_per_month
    select = sa.select(usage, owner, budget).outerjoin(keys, usage.c.key == keys.c.prefix).where(*_in_month(month))
    if prefix:
        select = select.where(usage.c.key == prefix)
    with database.read() as connection:
        rows = connection.execute(select.order_by(usage.c.day, usage.c.key, usage.c.model)).mappings().all()
    names = [field.name for field in fields(DayUsage)]
    days = [DayUsage(**{name: row[name] for name in names}) for row in rows]
    budgets = {row["key"]: row["tokens_per_month"] for row in rows}
    return MonthUsage(month, find_month_end(month).isoformat(), _sum_by_key(days, budgets), days)


def format_csv(days: Sequence[DayUsage]) -> str:
    """Return usage by day as CSV, with a header. A text that a spreadsheet would compute begins with an apostrophe."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(field.name for field in fields(DayUsage))
    for day in days:
        values = asdict(day).values()
        rows.writerow(f"'{value}" if str(value).startswith(_FORMULA) else value for value in values)
    return text.getvalue()


def _in_month(month: str) -> tuple[sa.ColumnElement[bool], ...]:
    return usage.c.day >= f"{month}-01", usage.c.day <= f"{month}-31"


def _sum_by_key(days: Iterable[DayUsage], budgets: Mapping[str, int | None]) -> list[KeyUsage]:
    """Return the sums of each key, the largest users first."""
    sums: dict[tuple[str, str], Counter[str]] = {}
    for day in days:
        sums.setdefault((day.key, day.owner), Counter()).update({name: getattr(day, name) for name in FIGURES})
    found = [
        KeyUsage(key, owner, total["requests"], total["input_tokens"], total["output_tokens"], budgets[key])
        for (key, owner), total in sums.items()
    ]
    return sorted(found, key=lambda one: (-one.input_tokens - one.output_tokens, one.key))

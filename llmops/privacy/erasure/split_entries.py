"""Delete a person's examples from the split ledger."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import polars as pl
import sqlalchemy as sa

from llmops.frame.records import is_row_key
from llmops.privacy.erasure.subject import Subject
from llmops.state import audit
from llmops.state.database import Database
from llmops.state.tables import split_entries as table
from llmops.state.tables import split_runs

EntryKey = Sequence[Any]  #: scope, number of the run and id of an entry

BATCH = 20_000  #: entries
_KEY = (table.c.scope, table.c.number, table.c.id)


def find_entries(
    database: Database, subject: Subject, find_ids: Callable[[str], set[str]], examples: Collection[str]
) -> set[tuple[str, int, str]]:
    """Return the entries that name the person, are of these examples, or were made of the person's documents.

    Earlier entries of a tested question of the person are returned, too, because the test would go back to them.
    `find_ids` returns the ids of the person's documents in the run with a fingerprint.
    """
    found = set[tuple[str, int, str]]()
    if not database.exists:
        return found
    tested, asked = list[tuple[Any, tuple[str, int]]](), dict[tuple[str, str], tuple[str, int]]()
    with database.read() as connection:
        runs = {(run.scope, run.number): run for run in connection.execute(sa.select(split_runs))}
    ids = {key: find_ids(run.fingerprint) for key, run in runs.items()}
    for rows in _read_batches(database):
        texts = pl.Series([f"{row.compared}\n{_join_texts(row.example or {})}" for row in rows], dtype=pl.String)
        named = set(subject.find_rows(texts))
        for at, row in enumerate(rows):
            run, question = (row.scope, row.number), (row.scope, row.wording)
            when = (runs[run].interval, row.number)
            if row.split == "test":
                tested.append((row, when))
            if at in named or row.id in examples or not ids[run].isdisjoint(row.documents.split()):
                found.add((row.scope, row.number, row.id))
                if row.split == "test":
                    asked[question] = max(asked.get(question, when), when)
    before = [row for row, when in tested if when < asked.get((row.scope, row.wording), ("", 0))]
    return found | {(row.scope, row.number, row.id) for row in before}


def forget_entries(database: Database, keys: Iterable[EntryKey]) -> None:
    """Delete entries."""
    labels = [f"key_{column.name}" for column in _KEY]
    rows = [dict(zip(labels, key, strict=True)) for key in keys]
    if rows:
        with database.change() as connection:
            where = [column == sa.bindparam(name) for column, name in zip(_KEY, labels, strict=True)]
            connection.execute(sa.delete(table).where(*where), rows)
            audit.record(connection, "forget", by="erasure", target="split ledger", fields={"entries": len(rows)})


def _read_batches(database: Database) -> Iterator[Sequence[Any]]:
    last: tuple[Any, ...] = ("", 0, "")
    query = sa.select(*_KEY, table.c.wording, table.c.split, table.c.compared, table.c.example, table.c.documents)
    while True:
        with database.read() as connection:
            batch = query.where(sa.tuple_(*_KEY) > sa.tuple_(*map(sa.literal, last))).order_by(*_KEY).limit(BATCH)
            rows = connection.execute(batch).all()
        if not rows:
            return
        last = tuple(rows[-1][:3])
        yield rows


def _join_texts(example: dict[str, str]) -> str:
    """Return the texts of a tested example without the number of its row, which names nobody."""
    position = example.get("position", "")
    texts = [example.get(name, "") for name in ("question", "answer", "context", "group", "location")]
    return "\n".join([*texts, position if is_row_key(position) else ""])

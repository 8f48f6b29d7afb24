"""Take a person's examples out of the split ledger."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl
import sqlalchemy as sa

from llmops.data.annotate import names
from llmops.data.annotate.past import TEST
from llmops.erasure.subject import Subject
from llmops.erasure.trace import Found, Known
from llmops.state import audit
from llmops.state.database import Database
from llmops.state.tables import split_entries, split_runs

Key = Sequence[str | int]  #: scope, number of the run and id of an entry

BATCH = 20_000  #: entries that are looked at together
_WORDINGS = 500  # wordings that are asked for together
_KEY = (split_entries.c.scope, split_entries.c.number, split_entries.c.id)
_SAID = (split_entries.c.wording, split_entries.c.compared, split_entries.c.example, split_entries.c.names)


def named(database: Database, subject: Subject) -> set[str]:
    """The ids of the examples whose entries name the person, or were made of documents that did."""
    return {row.id for rows, theirs in _read(database, subject) for row in (rows[at] for at in theirs)}


def find(database: Database, subject: Subject, found: Found) -> list[Key]:
    """The entries that name the person or were made of documents that did, that are of an example made of their rows,
    or that come from the place of one in the artifact of the run that wrote them; and what such a tested question was
    before, since the test would carry that in its place."""
    known = {ref: one for ref, one in found.known.items() if ref.startswith("annotate/")}
    ids = set[str]().union(*(one.ids for one in known.values()))
    keys: list[tuple[str, int, str]] = []
    asked: defaultdict[tuple[str, str], set[int]] = defaultdict(set)  #: (scope, wording) tested → its runs
    runs = _runs(database)
    of = {(run.scope, run.number): known.get(f"annotate/{run.fingerprint}", Known()) for run in runs}
    when = {(run.scope, run.number): (run.interval, run.number) for run in runs}
    for rows, theirs in _read(database, subject):
        theirs |= {at for at, row in enumerate(rows) if row.id in ids}
        theirs |= _by_place(rows, of)
        keys += [(rows[at].scope, rows[at].number, rows[at].id) for at in theirs]
        for row in (rows[at] for at in theirs if rows[at].example):
            asked[row.scope, row.wording].add(row.number)
    last_of = {question: max(when[question[0], number] for number in some) for question, some in asked.items()}
    older = [row for row in _tested(database, asked) if when[row.scope, row.number] < last_of[row.scope, row.wording]]
    return list[Key](sorted({*keys, *((row.scope, row.number, row.id) for row in older)}))


def _read(database: Database, subject: Subject) -> Iterator[tuple[Sequence[Any], set[int]]]:
    """All entries, some at a time, and the positions of those that name the person or were made of what did."""
    salts = {run.scope: run.salt for run in _runs(database) if run.salt}
    finders = {scope: names.finder(subject.shape, subject.plain, salt) for scope, salt in salts.items()}
    last: tuple[str, int, str] = ("", 0, "")
    while not database.absent:
        query = sa.select(*_KEY, *_SAID).limit(BATCH).order_by(*_KEY)
        with database.read() as connection:
            rows = connection.execute(query.where(sa.tuple_(*_KEY) > sa.tuple_(*map(sa.literal, last)))).all()
        if not rows:
            return
        last = rows[-1][0], rows[-1][1], rows[-1][2]
        texts = [names.said(row.compared, row.example) for row in rows]
        theirs = set(subject.rows(pl.Series(texts, dtype=pl.String)))
        theirs |= {at for at, row in enumerate(rows) if row.names and finders[row.scope](row.names, texts[at])}
        yield rows, theirs


def _runs(database: Database) -> Sequence[Any]:
    if database.absent:
        return []
    with database.read() as connection:
        return connection.execute(sa.select(split_runs)).all()


def _tested(database: Database, asked: Collection[tuple[str, str]]) -> Iterator[Any]:
    """The tested entries of some questions, given by scope and wording."""
    wordings = sorted({wording for _, wording in asked})
    with database.read() as connection:
        for start in range(0, len(wordings), _WORDINGS):
            some = split_entries.c.wording.in_(wordings[start : start + _WORDINGS])
            query = sa.select(*_KEY, split_entries.c.wording).where(some, split_entries.c.split == TEST)
            yield from (row for row in connection.execute(query) if (row.scope, row.wording) in asked)


def _by_place(rows: Sequence[Any], of: Mapping[tuple[str, int], Known]) -> set[int]:
    """The positions of the tested examples that come from a known place of their run."""
    tested: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for at, row in enumerate(rows):
        if row.example:
            tested[row.scope, row.number].append(at)
    hits: set[int] = set()
    for run, some in tested.items():
        columns = {name: [(rows[at].example or {})[name] for at in some] for name in ("source", "location", "position")}
        hits |= {some[number] for number in of[run].rows(columns)}
    return hits


def erase(database: Database, keys: Iterable[Key]) -> None:
    """Delete entries, and leave nothing of them in the tables."""
    labels = [f"key_{column.name}" for column in _KEY]
    rows = [dict(zip(labels, key, strict=True)) for key in keys]
    if not rows:
        return
    with database.change() as connection:
        where = [column == sa.bindparam(name) for column, name in zip(_KEY, labels, strict=True)]
        connection.execute(sa.delete(split_entries).where(*where), rows)
        audit.note(connection, "forget", by="erasure", target="split ledger", fields={"entries": len(rows)})
    database.purge()

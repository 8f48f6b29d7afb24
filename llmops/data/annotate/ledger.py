"""The split ledger in the database: the examples that each run of annotate was the first to test or to train with.

A scope is the settings that define a frozen test. Each run of a scope gets the next number and reads the entries of the
runs with smaller numbers. So a repeated run reads the same entries and writes the same bytes, whatever ran since. Rows
are only added, in one transaction with the run's number. Only an erasure deletes rows, by the ids of documents.

A run with the same inputs as an earlier one reuses that run and its artifact. So a day without changes makes nothing.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from llmops.config import Annotate
from llmops.data.annotate.past import SHOWN, TEST, Entry
from llmops.data.worktables import batched
from llmops.frame.errors import StateError, TransientError
from llmops.frame.records import Example, content_id
from llmops.state import audit
from llmops.state.database import Database, database_at
from llmops.state.tables import split_entries, split_runs

BATCH = 20_000  #: rows that are read or written at once: bounds memory, not the result
_DECIDES = ("split_by", "seed", "test", "validation", "test_sources")  #: fields of annotate


class Run(NamedTuple):
    """A run that wrote to the ledger."""

    number: int
    interval: str
    fingerprint: str
    read: str  #: hash of the entries that it read


@dataclass(frozen=True, slots=True)
class SplitLedger:
    """The ledger as one run reads and writes it; a `Ledger` of `past`."""

    database: str
    scope: str
    interval: str
    read: str  #: hash of the runs that it reads
    fingerprint: str  #: of the annotate artifact that it makes

    @property
    def written(self) -> bool:
        """Return whether the run has written. A restored backup does not know later runs."""
        return any(run.fingerprint == self.fingerprint for run in _runs_of(database_at(self.database), self.scope))

    def entries(self) -> Iterator[Entry]:
        """Yield the entries of earlier runs, see `Ledger`.

        Raises:
            StateError: if a run to read is missing.
        """
        known, runs = self._runs()
        if not runs:
            return
        where = (split_entries.c.scope == self.scope) & (split_entries.c.number <= len(runs))
        columns = [column for column in split_entries.c if column.name not in ("scope", "compared")]
        compared = sa.case((split_entries.c.split == TEST, split_entries.c.compared), else_="").label("compared")
        when = {run.number: (run.interval, run.number) for run in runs}
        for number in sorted(when, key=lambda number: when[number]):
            query = sa.select(*columns, compared).where(where, split_entries.c.number == number)
            for rows in _pages(known, query):
                for row in rows:
                    example = Example(**row.example) if row.example else None
                    yield Entry(
                        number, when[number][0], row.id, row.wording, row.group, row.split, row.compared, example,
                        row.documents,
                    )  # fmt: skip

    def trained(self) -> Iterator[Sequence[str]]:
        """Yield the texts of earlier trainings, see `Ledger`. The errors are those of `entries`."""
        known, runs = self._runs()
        if not runs:
            return
        where = (split_entries.c.scope == self.scope) & (split_entries.c.number <= len(runs))
        query = sa.select(split_entries.c.number, split_entries.c.id, split_entries.c.compared)
        for rows in _pages(known, query.where(where, split_entries.c.split != TEST)):
            yield [text for row in rows for text in row.compared.split(SHOWN)]

    def write(self, entries: Iterable[Entry]) -> None:
        """Write the new entries of this run, see `Ledger`. Do nothing if the run has written already.

        Raises:
            TransientError: if another run has written since this one's plan.
        """
        with database_at(self.database).change() as connection:
            runs = _read(connection, self.scope)
            if any(run.fingerprint == self.fingerprint for run in runs):
                return
            if _digest(self.scope, runs) != self.read:
                raise TransientError(
                    "Another run of annotate has decided on tested items meanwhile; run annotate again, so that it "
                    "honours them."
                )
            run = Run(len(runs) + 1, self.interval, self.fingerprint, self.read)
            _insert(connection, self.scope, run, entries)

    def _runs(self) -> tuple[Database, list[Run]]:
        """Return the database and the runs whose entries are read."""
        known = database_at(self.database)
        runs = _runs_of(known, self.scope)
        for count in range(len(runs) + 1):
            if _digest(self.scope, runs[:count]) == self.read:
                return known, runs[:count]
        raise StateError(
            f"The split ledger in {known.name} lacks runs that were there when the stage was planned; was another copy "
            "of the database put in its place? Run the stage again."
        )


def planned(
    database: str, model: str, config: Annotate, interval: str, fingerprint: Callable[[str], str]
) -> SplitLedger:
    """Return the ledger as a run of an interval reads it and writes to it.

    Reuse an earlier run if its inputs were identical: a run of the same interval first, then the last run up to this
    interval, if it is of the latest of these intervals. (A backfill does not know the tests of the days after it.)
    Otherwise the run is new. A reused run keeps its date.

    `model` is the name of the tested model. `fingerprint` returns the artifact's fingerprint for the hash of the ledger
    entries that it reads.
    """
    scope = _scope_of(model, config)
    runs = _runs_of(database_at(database), scope)
    own = [run for run in reversed(runs) if run.interval == interval]
    before = [run for run in runs if run.interval <= interval]
    last = [run for run in before[-1:] if run.interval == max(one.interval for one in before)]
    for run in [*own, *last]:
        if fingerprint(run.read) == run.fingerprint:
            return SplitLedger(database, scope, run.interval, run.read, run.fingerprint)
    read = _digest(scope, runs)
    return SplitLedger(database, scope, interval, read, fingerprint(read))


def _scope_of(model: str, config: Annotate) -> str:
    """Return a hash of the settings that define a frozen test."""
    decides = config.model_dump(mode="json", include=set(_DECIDES))
    decides["test_sources"] = sorted(set(decides["test_sources"]))  # their order has no meaning
    return content_id(model, json.dumps(decides, sort_keys=True))


def _runs_of(database: Database, scope: str) -> list[Run]:
    if not database.exists:
        return []
    with database.read() as connection:
        return _read(connection, scope)


def _pages(database: Database, query: sa.Select[Any]) -> Iterator[Sequence[sa.Row[Any]]]:
    """Yield the rows of a query of entries page by page, by number and id. Each page is read in one transaction."""
    last: tuple[int, str] = (0, "")
    place = (split_entries.c.number, split_entries.c.id)
    while True:
        page = query.where(sa.tuple_(*place) > sa.tuple_(*map(sa.literal, last))).order_by(*place).limit(BATCH)
        with database.read() as connection:
            rows = connection.execute(page).all()
        if not rows:
            return
        last = (rows[-1].number, rows[-1].id)
        yield rows


def _read(connection: sa.Connection, scope: str) -> list[Run]:
    query = sa.select(split_runs).where(split_runs.c.scope == scope).order_by(split_runs.c.number)
    runs: list[Run] = []
    read = _digest(scope, ())
    for row in connection.execute(query):
        runs.append(Run(row.number, row.interval, row.fingerprint, read))
        read = content_id(read, row.interval, row.fingerprint)
    return runs


def _digest(scope: str, runs: Iterable[Run]) -> str:
    """Return the hash of the entries that a run after `runs` reads."""
    last = list(runs)[-1:]
    return content_id(last[0].read, last[0].interval, last[0].fingerprint) if last else content_id(scope)


def _insert(connection: sa.Connection, scope: str, run: Run, entries: Iterable[Entry]) -> None:
    key = {"scope": scope, "number": run.number}
    row = {**key, "interval": run.interval, "fingerprint": run.fingerprint}
    connection.execute(sa.insert(split_runs).values(row))
    counts = Counter[str]()
    for some in batched(entries, BATCH):
        connection.execute(sa.insert(split_entries), [key | _row(entry) for entry in some])
        counts.update(entry.split for entry in some)
    fields = {"scope": scope, "interval": run.interval, **counts}
    audit.record(connection, "split", by="annotate", target=run.fingerprint, fields=fields)


def _row(entry: Entry) -> dict[str, Any]:
    row = {name: value for name, value in entry._asdict().items() if name not in ("run", "interval")}
    return row | {"example": asdict(entry.example) if entry.example else None}

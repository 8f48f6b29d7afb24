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
from llmops.data.annotate.split_history import TEST, TEXT_SEPARATOR, SplitEntry
from llmops.data.work_tables import make_batches
from llmops.frame.errors import StateError, TransientError
from llmops.frame.records import Example, make_content_id
from llmops.state import audit
from llmops.state.database import Database, database_at
from llmops.state.tables import split_entries, split_runs

BATCH = 20_000  #: rows that are read or written at once: bounds memory, not the result
_SCOPE_FIELDS = ("split_by", "seed", "test", "validation", "test_sources")  #: fields of annotate


class LedgerRun(NamedTuple):
    """A run that wrote to the ledger."""

    number: int
    interval: str
    fingerprint: str
    earlier_hash: str  #: hash of the earlier runs, whose entries it read


@dataclass(frozen=True, slots=True)
class SplitLedger:
    """The ledger as one run reads and writes it. It implements `split_history.Ledger`."""

    database: str
    scope: str
    interval: str
    earlier_hash: str  #: hash of the earlier runs, whose entries it reads
    fingerprint: str  #: of the annotate artifact that it makes

    @property
    def written(self) -> bool:
        """Return True if the run has written. A restored backup does not know later runs."""
        return any(run.fingerprint == self.fingerprint for run in _read_runs(database_at(self.database), self.scope))

    def read_entries(self) -> Iterator[SplitEntry]:
        """Yield the entries of earlier runs, see `Ledger`.

        Raises:
            StateError: if a run to read is missing.
        """
        database, runs = self._read_earlier_runs()
        if not runs:
            return
        where = (split_entries.c.scope == self.scope) & (split_entries.c.number <= len(runs))
        columns = [column for column in split_entries.c if column.name not in ("scope", "compared")]
        compared = sa.case((split_entries.c.split == TEST, split_entries.c.compared), else_="").label("compared")
        intervals = {run.number: run.interval for run in runs}
        for number in sorted(intervals, key=lambda number: (intervals[number], number)):
            query = sa.select(*columns, compared).where(where, split_entries.c.number == number)
            for rows in _read_pages(database, query):
                for row in rows:
                    example = Example(**row.example) if row.example else None
                    yield SplitEntry(
                        number, intervals[number], row.id, row.wording, row.group, row.split, row.compared, example,
                        row.documents,
                    )  # fmt: skip

    def read_trained_texts(self) -> Iterator[Sequence[str]]:
        """Yield the texts of earlier trainings, see `Ledger`. The errors are those of `read_entries`."""
        database, runs = self._read_earlier_runs()
        if not runs:
            return
        where = (split_entries.c.scope == self.scope) & (split_entries.c.number <= len(runs))
        query = sa.select(split_entries.c.number, split_entries.c.id, split_entries.c.compared)
        for rows in _read_pages(database, query.where(where, split_entries.c.split != TEST)):
            yield [text for row in rows for text in row.compared.split(TEXT_SEPARATOR)]

    def write(self, entries: Iterable[SplitEntry]) -> None:
        """Write the new entries of this run, see `Ledger`. Do nothing if the run has written already.

        Raises:
            TransientError: if another run has written since this one was planned.
        """
        with database_at(self.database).change() as connection:
            runs = _select_runs(connection, self.scope)
            if any(run.fingerprint == self.fingerprint for run in runs):
                return
            if _hash_runs(self.scope, runs) != self.earlier_hash:
                raise TransientError(
                    "Another run of annotate has decided on tested items meanwhile; run annotate again, so that it "
                    "honours them."
                )
            run = LedgerRun(len(runs) + 1, self.interval, self.fingerprint, self.earlier_hash)
            _insert_run(connection, self.scope, run, entries)

    def _read_earlier_runs(self) -> tuple[Database, list[LedgerRun]]:
        """Return the database and the runs whose entries are read."""
        database = database_at(self.database)
        runs = _read_runs(database, self.scope)
        for count in range(len(runs) + 1):
            if _hash_runs(self.scope, runs[:count]) == self.earlier_hash:
                return database, runs[:count]
        raise StateError(
            f"The split ledger in {database.name} lacks runs that were there when the stage was planned; was another "
            "copy of the database put in its place? Run the stage again."
        )


def open_split_ledger(
    database: str, model: str, config: Annotate, interval: str, fingerprint: Callable[[str], str]
) -> SplitLedger:
    """Return the ledger as a run of an interval reads it and writes to it.

    Reuse an earlier run if its inputs were identical: a run of the same interval first, then the last run up to this
    interval, if it is of the latest of these intervals. (A backfill does not know the tests of the days after it.)
    Otherwise the run is new. A reused run keeps its date.

    `model` is the name of the tested model. `fingerprint` returns the artifact's fingerprint for the hash of the
    earlier runs, whose entries it reads.
    """
    scope = _hash_scope(model, config)
    runs = _read_runs(database_at(database), scope)
    same_interval = [run for run in reversed(runs) if run.interval == interval]
    before = [run for run in runs if run.interval <= interval]
    last = [run for run in before[-1:] if run.interval == max(one.interval for one in before)]
    for run in [*same_interval, *last]:
        if fingerprint(run.earlier_hash) == run.fingerprint:
            return SplitLedger(database, scope, run.interval, run.earlier_hash, run.fingerprint)
    earlier_hash = _hash_runs(scope, runs)
    return SplitLedger(database, scope, interval, earlier_hash, fingerprint(earlier_hash))


def _hash_scope(model: str, config: Annotate) -> str:
    """Return a hash of the settings that define a frozen test."""
    fields = config.model_dump(mode="json", include=set(_SCOPE_FIELDS))
    fields["test_sources"] = sorted(set(fields["test_sources"]))  # their order has no meaning
    return make_content_id(model, json.dumps(fields, sort_keys=True))


def _read_runs(database: Database, scope: str) -> list[LedgerRun]:
    if not database.exists:
        return []
    with database.read() as connection:
        return _select_runs(connection, scope)


def _read_pages(database: Database, query: sa.Select[Any]) -> Iterator[Sequence[sa.Row[Any]]]:
    """Yield the rows of a query of entries page by page, by number and id. Each page is read in one transaction."""
    last: tuple[int, str] = (0, "")
    position = (split_entries.c.number, split_entries.c.id)
    while True:
        page = query.where(sa.tuple_(*position) > sa.tuple_(*map(sa.literal, last))).order_by(*position).limit(BATCH)
        with database.read() as connection:
            rows = connection.execute(page).all()
        if not rows:
            return
        last = (rows[-1].number, rows[-1].id)
        yield rows


def _select_runs(connection: sa.Connection, scope: str) -> list[LedgerRun]:
    query = sa.select(split_runs).where(split_runs.c.scope == scope).order_by(split_runs.c.number)
    runs: list[LedgerRun] = []
    earlier_hash = _hash_runs(scope, ())
    for row in connection.execute(query):
        runs.append(LedgerRun(row.number, row.interval, row.fingerprint, earlier_hash))
        earlier_hash = make_content_id(earlier_hash, row.interval, row.fingerprint)
    return runs


def _hash_runs(scope: str, runs: Iterable[LedgerRun]) -> str:
    """Return a hash of `runs`, whose entries the next run reads."""
    last = list(runs)[-1:]
    return (
        make_content_id(last[0].earlier_hash, last[0].interval, last[0].fingerprint) if last else make_content_id(scope)
    )


def _insert_run(connection: sa.Connection, scope: str, run: LedgerRun, entries: Iterable[SplitEntry]) -> None:
    key = {"scope": scope, "number": run.number}
    row = {**key, "interval": run.interval, "fingerprint": run.fingerprint}
    connection.execute(sa.insert(split_runs).values(row))
    counts = Counter[str]()
    for batch in make_batches(entries, BATCH):
        connection.execute(sa.insert(split_entries), [key | _make_row(entry) for entry in batch])
        counts.update(entry.split for entry in batch)
    fields = {"scope": scope, "interval": run.interval, **counts}
    audit.record(connection, "split", by="annotate", target=run.fingerprint, fields=fields)


def _make_row(entry: SplitEntry) -> dict[str, Any]:
    row = {name: value for name, value in entry._asdict().items() if name not in ("run", "interval")}
    return row | {"example": asdict(entry.example) if entry.example else None}

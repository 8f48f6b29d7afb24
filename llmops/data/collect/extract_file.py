"""The rows of an extract (of one source and interval) in one Parquet file: documents, quarantined and left-out rows."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from itertools import islice
from operator import attrgetter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from llmops.data.collect.forgotten_list import ForgottenList
from llmops.data.collect.readers.origin import Item, Items, Origin
from llmops.data.row_file import RowFile
from llmops.frame.records import Document, DroppedRow

LEFT_OUT = "left_out"  #: rule of a row excluded by the source's `where`
BATCH = 1000  #: rows held as Python objects at a time,
BATCH_CHARS = 4_000_000  #: or fewer, with so many characters
ARROW_BATCH = 10_000  #: rows held as Arrow columns at a time

_DOCUMENT_FIELDS = [f.name for f in fields(Document)]
_DROPPED_FIELDS = [f.name for f in fields(DroppedRow)]
_COLUMNS = list(dict.fromkeys(_DOCUMENT_FIELDS + _DROPPED_FIELDS))
SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in _COLUMNS])

_NO_PROBLEM = ("",) * (len(_COLUMNS) - len(_DOCUMENT_FIELDS))  #: rule, detail, content
_get_document_values, _get_dropped_values = attrgetter(*_DOCUMENT_FIELDS), attrgetter(*_DROPPED_FIELDS)


def write_extract(path: Path, items: Iterable[Item]) -> None:
    """Write rows to `path`, atomically."""
    rows = iter(items)
    with RowFile(path, SCHEMA) as out:
        while batch := list(_take_batch(rows)):
            columns = zip(*batch, strict=True)
            out.add(pa.table([pa.array(column, pa.string()) for column in columns], schema=SCHEMA))


def write_items(path: Path, read_items: Callable[[], Items], origin: Origin, forgotten: ForgottenList) -> bool:
    """Write a reader's rows to `path`. Return True if the reader reached the end."""
    errors: list[OSError] = []

    def yield_items() -> Items:
        try:
            yield from read_items()
        except OSError as error:
            errors.append(error)
            yield origin.make_dropped("file", "unreadable", error.strerror or str(error))

    write_extract(path, forgotten.quarantine_rows(yield_items()))
    return not errors


def read_extract(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the rows of one extract, in its order."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):  # one at a time, because its text is limited; a batch spans several
            yield from file.iter_batches(ARROW_BATCH, row_groups=[group])


def parse_row(values: dict[str, str]) -> Document | DroppedRow:
    """Return the record of one row of an extract, or of collect's output.

    A row excluded by `where` is a `DroppedRow` with the rule `left_out`.
    """
    record_type, names = (DroppedRow, _DROPPED_FIELDS) if values.get("rule") else (Document, _DOCUMENT_FIELDS)
    return record_type(**{name: values[name] for name in names if name in values})


def erase_persons(path: Path, forgotten: ForgottenList) -> None:
    """Rewrite an extract so that quarantined rows without content replace the rows of forgotten persons."""
    # Reading while writing is safe: the old file is replaced at the end.
    items = (parse_row(values) for batch in read_extract(path) for values in batch.to_pylist())
    write_extract(path, forgotten.quarantine_rows(items))


def _take_batch(rows: Iterator[Item]) -> Iterator[tuple[str, ...]]:
    chars = 0
    for item in islice(rows, BATCH):
        yield (values := _list_values(item))
        chars += sum(map(len, values))
        if chars > BATCH_CHARS:
            return


def _list_values(item: Item) -> tuple[str, ...]:
    if isinstance(item, Document):
        return *_get_document_values(item), *_NO_PROBLEM
    values = dict(zip(_DROPPED_FIELDS, _get_dropped_values(item), strict=True)) if item else {"rule": LEFT_OUT}
    return tuple(values.get(name, "") for name in _COLUMNS)

"""The rows of an extract in one Parquet file: documents, quarantined rows, and rows excluded by `where`."""

from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import islice
from operator import attrgetter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from llmops.data.collect.forgotten import Forgotten
from llmops.data.collect.readers.origin import Item
from llmops.data.row_file import RowFile
from llmops.frame.records import Document, Dropped

LEFT_OUT = "left_out"  #: rule of a row excluded by the source's `where`
BATCH = 1000  #: rows held as Python objects at a time
COPIED = 10_000  #: rows held as Arrow columns at a time

_DOCUMENT = [f.name for f in fields(Document)]
_DROPPED = [f.name for f in fields(Dropped)]
_NAMES = list(dict.fromkeys(_DOCUMENT + _DROPPED))
SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in _NAMES])

_NOTHING_WRONG = ("",) * (len(_NAMES) - len(_DOCUMENT))  #: rule, detail and content of a document
_document_values, _dropped_values = attrgetter(*_DOCUMENT), attrgetter(*_DROPPED)


def write(path: Path, items: Iterable[Item]) -> None:
    """Write rows to `path`, atomically."""
    rows = iter(items)
    with RowFile(path, SCHEMA) as out:
        while batch := list(islice(rows, BATCH)):
            columns = zip(*(_values(item) for item in batch), strict=True)
            out.add(pa.table([pa.array(column, pa.string()) for column in columns], schema=SCHEMA))


def extract_rows(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the rows of one extract, in its order."""
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(COPIED)


def row_of(values: dict[str, str]) -> Document | Dropped:
    """Return a row of an extract, or of collect's output, as a record."""
    kind, names = (Dropped, _DROPPED) if values.get("rule") else (Document, _DOCUMENT)
    return kind(**{name: values[name] for name in names if name in values})


def forget(path: Path, forgotten: Forgotten) -> None:
    """Rewrite an extract without the content of forgotten persons' rows."""
    items = (row_of(values) for batch in extract_rows(path) for values in batch.to_pylist())
    write(path, forgotten.without(items))


def _values(item: Item) -> tuple[str, ...]:
    if isinstance(item, Document):
        return *_document_values(item), *_NOTHING_WRONG
    known = dict(zip(_DROPPED, _dropped_values(item), strict=True)) if item else {"rule": LEFT_OUT}
    return tuple(known.get(name, "") for name in _NAMES)

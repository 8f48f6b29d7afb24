"""Rows of Parquet files, read in batches."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmops.data.collect.readers.decoding import UnreadableError
from llmops.data.collect.readers.origin import Items, Origin, flatten_record
from llmops.frame.errors import SourceError

_TEXT_TYPES = (pa.string(), pa.large_string())
BATCH = 1000  #: rows in memory as Python objects at a time,
BATCH_BYTES = 16 << 20  #: or fewer, with about so many bytes


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per row. Nested columns are named as in JSON: `author.name`, `answers.0.text`.

    Raises:
        SourceError: if two columns have one name, or no row has a configured field.
        UnreadableError: if it is not a Parquet file or is damaged. The batches before the damage were yielded.
    """
    number = 0
    seen: dict[str, None] = {}
    try:
        # Otherwise the bytes of a whole row group are read at once, and many programs write one group.
        with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
            names = file.schema_arrow.names
            if duplicate := next((name for name, times in Counter(names).items() if times > 1), None):
                raise SourceError(
                    f"Source {origin.source.name}: {origin.location} has two columns named {duplicate!r}."
                )
            for batch in file.iter_batches(_count_batch_rows(file.metadata), columns=_choose_columns(names, origin)):
                for record in _read_records(batch):
                    number += 1
                    values = flatten_record(record)
                    seen.update(dict.fromkeys(values))
                    yield origin.convert_row(f"row {number}", values)
    except (pa.ArrowException, OSError) as error:
        after = f" after row {number}" if number else ""
        raise UnreadableError(f"no readable Parquet{after}: {' '.join(str(error).split())}") from error
    if seen:
        origin.check_columns(seen)


def _count_batch_rows(metadata: pq.FileMetaData) -> int:
    size = sum(int(metadata.row_group(number).total_byte_size) for number in range(metadata.num_row_groups))
    return max(1, min(BATCH, BATCH_BYTES * int(metadata.num_rows) // max(1, size)))


def _read_records(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    try:
        records: list[dict[str, Any]] = batch.to_pylist(maps_as_pydicts="lossy")
    except UnicodeDecodeError:  # as bytes they only cost their own rows
        schema = pa.schema((f.name, pa.binary() if f.type in _TEXT_TYPES else f.type) for f in batch.schema)
        records = batch.cast(schema).to_pylist(maps_as_pydicts="lossy")
    return records


def _choose_columns(names: list[str], origin: Origin) -> list[str] | None:
    configured = {*origin.source.fields.values(), *origin.source.where}
    columns = {n: next((name for name in names if n == name or n.startswith(f"{name}.")), "") for n in configured}
    if "question" not in origin.source.fields or not all(columns.values()):
        return None
    return sorted(set(columns.values()), key=names.index)

"""CSV and its relatives: comma, semicolon, tab or bar between the values, names in the first row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from llmops.data.readers.decode import read_text
from llmops.data.readers.origin import Items, Origin
from llmops.errors import SourceError

LARGEST_VALUE = 1 << 24  #: characters; the csv module's own limit of 131,072 is met by long articles


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per row. Rows count as in a spreadsheet: the header is row 1.

    Raises:
        SourceError: if two columns have one name, or the configuration names a column that is not there.
    """
    text, origin = read_text(path, origin)
    lines = list(io.StringIO(text, newline=""))
    if not text.strip():
        yield origin.dropped("file", "empty", "the file is empty")
        return
    delimiter = max(",;\t|", key=lines[0].count)
    header: list[str] = []
    for row, (line, values) in enumerate(_records(lines, delimiter), start=1):
        position = f"row {row}"
        if isinstance(values, csv.Error):
            yield origin.dropped(position, "malformed", f"line {line}: {values}", lines[line - 1])
        elif not any(value.strip() for value in values):
            continue  # a blank line holds nothing to lose
        elif not header:
            header = _header(values, origin)
        elif len(values) != len(header):
            detail = f"line {line}: {len(values)} values, but the header has {len(header)}"
            yield origin.dropped(position, "malformed", detail, delimiter.join(values))
        else:
            yield origin.row(position, dict(zip(header, values, strict=True)))


def _header(values: list[str], origin: Origin) -> list[str]:
    names = [value.strip() or f"column_{i}" for i, value in enumerate(values, start=1)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SourceError(
            f"Source {origin.source.name}: {origin.location} has two columns named {twice!r}; rename one."
        )
    origin.check(names)
    return names


def _records(lines: list[str], delimiter: str) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """The line that each record starts on, and its values or what is wrong with it.

    After a record that cannot be parsed, such as one with a quote that never closes, reading starts again on the line
    after the one it began on: only that line is lost.
    """
    csv.field_size_limit(LARGEST_VALUE)
    start = 0
    while start < len(lines):
        reader = csv.reader(islice(lines, start, None), delimiter=delimiter, strict=True)
        read = 0
        try:
            for values in reader:
                yield start + read + 1, values
                read = reader.line_num
            return
        except csv.Error as error:
            yield start + read + 1, error
            start += read + 1

"""CSV and similar formats: values separated by comma, semicolon, tab or bar, with names in the first row."""

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from llmops.data.collect.readers.decode import LARGEST, lines, open_text
from llmops.data.collect.readers.origin import Items, Origin
from llmops.frame.errors import SourceError

DELIMITERS = ",;\t|"
SNIFFED = 100  #: lines for detecting the delimiter

_TOLD = re.compile(r'"?sep=([^"\r\n])"?\s*', re.IGNORECASE)  # Excel's line with the delimiter, before the header


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per row. Rows count as in a spreadsheet: the header is row 1, even after a line `sep=;`.

    Raises:
        SourceError: if two columns have one name, or a configured column is missing.
        Unreadable: if the file is not text or is cut off. The rows before were yielded.
    """
    with open_text(path, origin, newline="") as (file, origin):
        rest = lines(file)
        head: list[str] = []
        while len(head) < SNIFFED and sum(map(len, head)) < LARGEST and (begin := next(rest, "")):
            head.append(begin)
        told = _TOLD.fullmatch(head[0]) if head else None
        delimiter = told[1] if told else sniff(head)
        header: list[str] = []
        records = _records(head[1:] if told else head, rest, delimiter, 2 if told else 1)
        for row, (line, values, content) in enumerate(records, start=1):
            position = f"row {row}"
            if isinstance(values, csv.Error):
                lost = "" if header else "; it is the header, without which no row can be read"
                yield origin.dropped(position, "malformed", f"line {line}: {values}{lost}", content)
                if lost:
                    return
            elif not any(value.strip() for value in values):
                continue  # a blank line
            elif not header:
                header = _header(values, origin)
            elif len(values) != len(header):
                detail = f"line {line}: {len(values)} values, but the header has {len(header)}"
                yield origin.dropped(position, "malformed", detail, delimiter.join(values))
            else:
                yield origin.row(position, dict(zip(header, values, strict=True)))
        if not header:
            yield origin.dropped("file", "empty", "the file is empty")


def sniff(head: Sequence[str]) -> str:
    """Return the delimiter by which most lines have as many values as the first line, at least two."""

    def fit(delimiter: str) -> tuple[float, int]:
        try:
            widths = [len(values) for values in csv.reader(head, delimiter=delimiter) if any(values)]
        except csv.Error:  # a value beyond the limit, which reading will report
            return 0.0, 0
        return (widths.count(widths[0]) / len(widths), widths[0]) if widths and widths[0] > 1 else (0.0, 0)

    csv.field_size_limit(LARGEST)
    return max(DELIMITERS, key=fit)


def _header(values: list[str], origin: Origin) -> list[str]:
    names = [value.strip() or f"column_{i}" for i, value in enumerate(values, start=1)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SourceError(
            f"Source {origin.source.name}: {origin.location} has two columns named {twice!r}; rename one."
        )
    origin.check(names)
    return names


def _records(
    head: Sequence[str], rest: Iterator[str], delimiter: str, start: int
) -> Iterator[tuple[int, list[str] | csv.Error, str]]:
    """Yield for each record its first line's number, its values or the error, and its first line.

    After an unparsable record (with a quote that never closes, for example) reading restarts one line after its
    beginning, so that only one line is lost. One record of at most `LARGEST` characters is held in memory.
    """
    coming, held = deque(head), deque[str]()

    def feed() -> Iterator[str]:
        while line := coming.popleft() if coming else next(rest, ""):
            held.append(line)
            if len(line) > LARGEST:
                raise csv.Error(f"the line is longer than {LARGEST:,} characters")
            yield line

    while True:
        try:
            for values in csv.reader(feed(), delimiter=delimiter, strict=True):
                yield start, values, held[0]
                start += len(held)
                held.clear()
            return
        except csv.Error as error:
            broken = held.popleft()
            coming.extendleft(reversed(held))
            held.clear()
            yield start, error, broken
            start += 1

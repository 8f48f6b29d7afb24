"""CSV and similar formats: values separated by comma, semicolon, tab or bar, with names in the first row."""

import csv
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from llmops.data.collect.readers.decoding import LARGEST_RECORD, open_text, read_lines
from llmops.data.collect.readers.origin import Items, Origin
from llmops.frame.errors import SourceError

DELIMITERS = ",;\t|"
HEAD_LINES = 100  #: lines for detecting the delimiter

# The line with which Excel names the delimiter, before the header.
_DELIMITER_LINE = re.compile(r'"?sep=([^"\r\n])"?\s*', re.IGNORECASE)


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per row. Rows count as in a spreadsheet: the header is row 1, even after a line `sep=;`.

    Raises:
        SourceError: if two columns have one name, or a configured column is missing.
        UnreadableError: if the file is not text or is cut off. The rows before were yielded.
    """
    with open_text(path, origin, newline="") as (file, origin):
        rest = read_lines(file)
        head: list[str] = []
        while len(head) < HEAD_LINES and sum(map(len, head)) < LARGEST_RECORD and (head_line := next(rest, "")):
            head.append(head_line)
        delimiter_line = _DELIMITER_LINE.fullmatch(head[0]) if head else None
        delimiter = delimiter_line[1] if delimiter_line else detect_delimiter(head)
        header: list[str] = []
        records = _read_records(head[1:] if delimiter_line else head, rest, delimiter, 2 if delimiter_line else 1)
        for row, (line, values, content) in enumerate(records, start=1):
            position = f"row {row}"
            if isinstance(values, csv.Error):
                consequence = "" if header else "; it is the header, without which no row can be read"
                yield origin.make_dropped(position, "malformed", f"line {line}: {values}{consequence}", content)
                if consequence:
                    return
            elif not any(value.strip() for value in values):
                continue  # a blank line
            elif not header:
                header = _read_header(values, origin)
            elif len(values) != len(header):
                detail = f"line {line}: {len(values)} values, but the header has {len(header)}"
                yield origin.make_dropped(position, "malformed", detail, delimiter.join(values))
            else:
                yield origin.convert_row(position, dict(zip(header, values, strict=True)))
        if not header:
            yield origin.make_dropped("file", "empty", "the file is empty")


def detect_delimiter(head: Sequence[str]) -> str:
    """Return the delimiter by which most lines have as many values as the first line, at least two."""

    def score_delimiter(delimiter: str) -> tuple[float, int]:
        try:
            widths = [len(values) for values in csv.reader(head, delimiter=delimiter) if any(values)]
        except csv.Error:  # a value beyond the limit, which reading will report
            return 0.0, 0
        return (widths.count(widths[0]) / len(widths), widths[0]) if widths and widths[0] > 1 else (0.0, 0)

    csv.field_size_limit(LARGEST_RECORD)
    return max(DELIMITERS, key=score_delimiter)


def _read_header(values: list[str], origin: Origin) -> list[str]:
    names = [value.strip() or f"column_{i}" for i, value in enumerate(values, start=1)]
    if duplicate := next((name for name, times in Counter(names).items() if times > 1), None):
        raise SourceError(
            f"Source {origin.source.name}: {origin.location} has two columns named {duplicate!r}; rename one."
        )
    origin.check_columns(names)
    return names


def _read_records(
    head: Sequence[str], rest: Iterator[str], delimiter: str, start: int
) -> Iterator[tuple[int, list[str] | csv.Error, str]]:
    """Yield each record: the number of its first line, its values or the error, and its first line.

    After an unparsable record (with a quote that never closes, for example) reading restarts one line after its
    beginning, so that only one line is lost. One record of at most `LARGEST_RECORD` characters is held in memory.
    """
    upcoming, record_lines = deque(head), deque[str]()

    def feed_lines() -> Iterator[str]:
        while line := upcoming.popleft() if upcoming else next(rest, ""):
            record_lines.append(line)
            if len(line) > LARGEST_RECORD:
                raise csv.Error(f"the line is longer than {LARGEST_RECORD:,} characters")
            yield line

    while True:
        try:
            for values in csv.reader(feed_lines(), delimiter=delimiter, strict=True):
                yield start, values, record_lines[0]
                start += len(record_lines)
                record_lines.clear()
            return
        except csv.Error as error:
            broken_line = record_lines.popleft()
            upcoming.extendleft(reversed(record_lines))
            record_lines.clear()
            yield start, error, broken_line
            start += 1

"""JSON files with a list of records, and JSON Lines with one record per line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmops.data.collect.readers.decoding import LARGEST_PAGE, LARGEST_RECORD, open_text, read_lines, read_text
from llmops.data.collect.readers.origin import Items, Origin, flatten_record
from llmops.frame.errors import SourceError

TOO_DEEP = "nested too deeply to be data"


def _parse_integer(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:  # too many digits for Python: keep the text
        return text


class Number(float):
    """A number with a point or exponent that keeps its spelling: a price of 10.50 stays 10.50."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Number:
        """Return the number in `text`."""
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text


class DuplicateNameError(ValueError):
    """An object has the same name twice; parsing would lose one value."""


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise DuplicateNameError(f"two values of {next(name for name, times in counts.items() if times > 1)!r}")
    return values


_STRICT_DECODER = json.JSONDecoder(object_pairs_hook=_build_object, parse_int=_parse_integer, parse_float=Number)


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per record of the list at the source's `records` path; default: the file's list.

    An object in place of the list is one record. The whole file is held in memory; one that is broken is dropped whole.

    Raises:
        SourceError: if nothing is at that path, or no record has a configured field.
        UnreadableError: if the file is not text, or too large.
    """
    text, origin = read_text(path, origin, LARGEST_PAGE, "save it with one record a line, as kind `jsonl`, or split it")
    if not text.strip():
        yield origin.make_dropped("file", "empty", "the file is empty")
        return
    try:
        value = _STRICT_DECODER.decode(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}"
        hint = "; a file with one record a line is of kind `jsonl`" if error.msg == "Extra data" else ""
        detail = f"{line}, column {error.colno}: {error.msg}{hint}"
        yield origin.make_dropped(line, "malformed", detail, text[max(error.pos - 80, 0) :])
        return
    except (DuplicateNameError, RecursionError) as error:
        detail = str(error) if isinstance(error, DuplicateNameError) else TOO_DEEP
        yield origin.make_dropped("file", "malformed", detail, text)
        return
    del text
    seen: dict[str, None] = {}
    for number, record in enumerate(_find_records(value, origin), start=1):
        yield from _convert_record(record, f"record {number}", origin, seen)
    if seen:
        origin.check_columns(seen)


def read_jsonl(path: Path, origin: Origin) -> Items:
    """Yield one item per line that is not blank. Only one line is held in memory.

    Raises:
        SourceError: if no record has a configured field.
        UnreadableError: if the file is not text or is cut off. The lines before were yielded.
    """
    seen: dict[str, None] = {}
    empty = True
    with open_text(path, origin) as (file, origin):
        for number, line in enumerate(read_lines(file), start=1):
            if not line.strip():
                continue
            empty = False
            record, problem = parse_line(line.rstrip("\n"))
            if problem:
                yield origin.make_dropped(f"line {number}", "malformed", problem, line.rstrip("\n"))
            else:
                yield from _convert_record(record, f"line {number}", origin, seen)
    if empty:
        yield origin.make_dropped("file", "empty", "the file is empty")
    if seen:
        origin.check_columns(seen)


def parse_line(line: str) -> tuple[Any, str]:
    """Return the value of one line of JSON, and the error, if any."""
    if len(line) > LARGEST_RECORD:
        return None, f"the line is longer than {LARGEST_RECORD:,} characters"
    try:
        return _STRICT_DECODER.decode(line), ""
    except json.JSONDecodeError as error:
        return None, f"column {error.colno}: {error.msg}"
    except DuplicateNameError as error:
        return None, str(error)
    except RecursionError:
        return None, TOO_DEEP


def _convert_record(record: Any, position: str, origin: Origin, seen: dict[str, None]) -> Items:
    if isinstance(record, Mapping):
        try:
            values = flatten_record(record)
        except RecursionError:
            yield origin.make_dropped(position, "malformed", TOO_DEEP)
            return
        seen.update(dict.fromkeys(values))
        yield origin.convert_row(position, values)
    else:
        detail = f"a {_name_type(record)} where a record (an object) belongs"
        yield origin.make_dropped(position, "malformed", detail, json.dumps(record))


def _find_records(value: Any, origin: Origin) -> list[Any]:
    for key in filter(None, origin.source.records.replace(".", "/").split("/")):
        if not (isinstance(value, Mapping) and key in value):
            existing = ", ".join(value) if isinstance(value, Mapping) and value else f"a {_name_type(value)}"
            raise SourceError(
                f"Source {origin.source.name}: {origin.location} has no {key!r}, which "
                f"`records: {origin.source.records}` names; there is {existing}."
            )
        value = value[key]
    return value if isinstance(value, list) else [value]


def _name_type(value: Any) -> str:
    return "float" if isinstance(value, Number) else type(value).__name__

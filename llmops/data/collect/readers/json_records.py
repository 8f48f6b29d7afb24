"""JSON files with a list of records, and JSON Lines with one record per line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmops.data.collect.readers.decode import LARGEST, LARGEST_FILE, lines, open_text, read_text
from llmops.data.collect.readers.origin import Items, Origin, flatten
from llmops.frame.errors import SourceError

TOO_DEEP = "nested too deeply to be data"

_SPACE = re.compile(r"[ \t\r\n]*")


def _whole_number(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:  # too many digits for Python: keep the text
        return text


class Number(float):
    """A number with a point or exponent that keeps its spelling: a price of 10.50 stays 10.50."""

    def __new__(cls, text: str) -> Number:
        """Return the number in `text`."""
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str

    def __str__(self) -> str:
        return self.text


_PLAIN = json.JSONDecoder(parse_int=_whole_number)


class DuplicateName(ValueError):
    """An object has two values of one name. One would be lost."""


def _unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise DuplicateName(f"two values of {next(name for name in names if names.count(name) > 1)!r}")
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_object, parse_int=_whole_number, parse_float=Number)


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per record of the list at the source's `records` path; default: the file's list.

    The records before an error in the file are yielded. The text is held in memory, its records are not.

    Raises:
        SourceError: if nothing is at that path, or no record has a configured field.
        Unreadable: if the file is not text.
    """
    text, origin = read_text(path, origin, LARGEST_FILE, "save it with one record a line, as kind `jsonl`, or split it")
    if not text.strip():
        yield origin.dropped("file", "empty", "the file is empty")
        return
    seen: dict[str, None] = {}
    try:
        for number, record in enumerate(_records(text, origin), start=1):
            yield from _item(record, f"record {number}", origin, seen)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}"
        hint = "; a file with one record a line is of kind `jsonl`" if error.msg == "Extra data" else ""
        detail = f"{where}, column {error.colno}: {error.msg}{hint}"
        yield origin.dropped(where, "malformed", detail, text[max(error.pos - 80, 0) :])
    except RecursionError:
        yield origin.dropped("file", "malformed", TOO_DEEP, text)
    if seen:
        origin.check(seen)


def read_lines(path: Path, origin: Origin) -> Items:
    """Yield one item per line that is not blank. Only one line is held in memory.

    Raises:
        SourceError: if no record has a configured field.
        Unreadable: if the file is not text or is cut off. The lines before were yielded.
    """
    seen: dict[str, None] = {}
    empty = True
    with open_text(path, origin) as (file, origin):
        for number, line in enumerate(lines(file), start=1):
            if not line.strip():
                continue
            empty = False
            record, problem = parse_line(line.rstrip("\n"))
            if problem:
                yield origin.dropped(f"line {number}", "malformed", problem, line.rstrip("\n"))
            else:
                yield from _item(record, f"line {number}", origin, seen)
    if empty:
        yield origin.dropped("file", "empty", "the file is empty")
    if seen:
        origin.check(seen)


def parse_line(line: str) -> tuple[Any, str]:
    """Return the value of one line of JSON, and the error, if any."""
    if len(line) > LARGEST:
        return None, f"the line is longer than {LARGEST:,} characters"
    try:
        return _DECODER.decode(line), ""
    except json.JSONDecodeError as error:
        return None, f"column {error.colno}: {error.msg}"
    except DuplicateName as error:
        return None, str(error)
    except RecursionError:
        return None, TOO_DEEP


def _item(record: Any, position: str, origin: Origin, seen: dict[str, None]) -> Items:
    if isinstance(record, DuplicateName):
        yield origin.dropped(position, "malformed", str(record))
    elif isinstance(record, Mapping):
        try:
            values = flatten(record)
        except RecursionError:
            yield origin.dropped(position, "malformed", TOO_DEEP)
            return
        seen.update(dict.fromkeys(values))
        yield origin.row(position, values)
    else:
        kind = "float" if isinstance(record, Number) else type(record).__name__
        detail = f"a {kind} where a record (an object) belongs"
        yield origin.dropped(position, "malformed", detail, json.dumps(record))


def _records(text: str, origin: Origin) -> Iterator[Any]:
    """Yield the records at the source's path; for one with two values of one name, a `DuplicateName`."""
    at = _skip_space(text, 0)
    path = [key for key in origin.source.records.replace(".", "/").split("/") if key]
    for key in path:
        at = _find_member(text, at, key, origin)
    several = text[at : at + 1] == "["
    at = _skip_space(text, at + 1) if several else at
    while not (several and text[at : at + 1] == "]"):
        try:
            record, at = _DECODER.raw_decode(text, at)
        except DuplicateName as error:
            record, at = error, _PLAIN.raw_decode(text, at)[1]
        yield record
        at = _skip_space(text, at)
        if not several:
            break
        if text[at : at + 1] == ",":
            at = _skip_space(text, at + 1)
            if text[at : at + 1] == "]":
                raise json.JSONDecodeError("a comma before the end of the list", text, at)
        elif text[at : at + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
    at = _skip_space(text, at + several)
    if not path and at < len(text):
        raise json.JSONDecodeError("Extra data", text, at)


def _find_member(text: str, at: int, key: str, origin: Origin) -> int:
    """Return the position of the value of `key`, in the object at position `at`."""
    start, names = at, list[str]()
    if text[at : at + 1] == "{":
        at = _skip_space(text, at + 1)
        while text[at : at + 1] == '"':
            name, at = _PLAIN.raw_decode(text, at)
            at = _skip_space(text, at)
            if text[at : at + 1] != ":":
                raise json.JSONDecodeError("Expecting ':' delimiter", text, at)
            at = _skip_space(text, at + 1)
            if name == key:
                return at
            names.append(name)
            at = _skip_space(text, _PLAIN.raw_decode(text, at)[1])
            if text[at : at + 1] == ",":
                at = _skip_space(text, at + 1)
        if text[at : at + 1] != "}":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
    there = ", ".join(names) or f"a {type(_PLAIN.raw_decode(text, start)[0]).__name__}"
    raise SourceError(
        f"Source {origin.source.name}: {origin.location} has no {key!r}, which `records: {origin.source.records}` "
        f"names; there is {there}."
    )


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at

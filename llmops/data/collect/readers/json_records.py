"""JSON files with a list of records, and JSON Lines with one record per line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmops.data.collect.readers.decoding import LARGEST_FILE, LARGEST_RECORD, open_text, read_lines, read_text
from llmops.data.collect.readers.origin import Items, Origin, flatten_record
from llmops.frame.errors import SourceError

TOO_DEEP = "nested too deeply to be data"

_SPACE = re.compile(r"[ \t\r\n]*")


def _parse_integer(text: str) -> int | str:
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


_LENIENT_DECODER = json.JSONDecoder(parse_int=_parse_integer)


class DuplicateNameError(ValueError):
    """An object has the same name twice; parsing would lose one value."""


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise DuplicateNameError(f"two values of {next(name for name in names if names.count(name) > 1)!r}")
    return values


_STRICT_DECODER = json.JSONDecoder(object_pairs_hook=_build_object, parse_int=_parse_integer, parse_float=Number)


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per record of the list at the source's `records` path; default: the file's list.

    An object in place of the list is one record. The records before an error in the file are yielded. The text is held
    in memory, its records are not.

    Raises:
        SourceError: if nothing is at that path, or no record has a configured field.
        UnreadableError: if the file is not text.
    """
    text, origin = read_text(path, origin, LARGEST_FILE, "save it with one record a line, as kind `jsonl`, or split it")
    if not text.strip():
        yield origin.make_dropped("file", "empty", "the file is empty")
        return
    seen: dict[str, None] = {}
    try:
        for number, record in enumerate(_read_records(text, origin), start=1):
            yield from _convert_record(record, f"record {number}", origin, seen)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}"
        hint = "; a file with one record a line is of kind `jsonl`" if error.msg == "Extra data" else ""
        detail = f"{line}, column {error.colno}: {error.msg}{hint}"
        yield origin.make_dropped(line, "malformed", detail, text[max(error.pos - 80, 0) :])
    except RecursionError:
        yield origin.make_dropped("file", "malformed", TOO_DEEP, text)
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
    if isinstance(record, DuplicateNameError):
        yield origin.make_dropped(position, "malformed", str(record))
    elif isinstance(record, Mapping):
        try:
            values = flatten_record(record)
        except RecursionError:
            yield origin.make_dropped(position, "malformed", TOO_DEEP)
            return
        seen.update(dict.fromkeys(values))
        yield origin.convert_row(position, values)
    else:
        kind = "float" if isinstance(record, Number) else type(record).__name__
        detail = f"a {kind} where a record (an object) belongs"
        yield origin.make_dropped(position, "malformed", detail, json.dumps(record))


def _read_records(text: str, origin: Origin) -> Iterator[Any]:
    """Yield the records at the source's path; a `DuplicateNameError` for one with two values of one name."""
    offset = _skip_space(text, 0)
    path = [key for key in origin.source.records.replace(".", "/").split("/") if key]
    for key in path:
        offset = _find_member(text, offset, key, origin)
    is_list = text[offset : offset + 1] == "["
    offset = _skip_space(text, offset + 1) if is_list else offset
    while not (is_list and text[offset : offset + 1] == "]"):
        try:
            record, offset = _STRICT_DECODER.raw_decode(text, offset)
        except DuplicateNameError as error:
            # The lenient decoder only finds where the record ends.
            record, offset = error, _LENIENT_DECODER.raw_decode(text, offset)[1]
        yield record
        offset = _skip_space(text, offset)
        if not is_list:
            break
        if text[offset : offset + 1] == ",":
            offset = _skip_space(text, offset + 1)
            if text[offset : offset + 1] == "]":
                raise json.JSONDecodeError("a comma before the end of the list", text, offset)
        elif text[offset : offset + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, offset)
    offset = _skip_space(text, offset + is_list)
    if not path and offset < len(text):  # after a list at a path, the rest of its object follows
        raise json.JSONDecodeError("Extra data", text, offset)


def _find_member(text: str, offset: int, key: str, origin: Origin) -> int:
    """Return the offset of the value of `key`, in the object that begins at `offset`."""
    start, names = offset, list[str]()
    if text[offset : offset + 1] == "{":
        offset = _skip_space(text, offset + 1)
        while text[offset : offset + 1] == '"':
            name, offset = _LENIENT_DECODER.raw_decode(text, offset)
            offset = _skip_space(text, offset)
            if text[offset : offset + 1] != ":":
                raise json.JSONDecodeError("Expecting ':' delimiter", text, offset)
            offset = _skip_space(text, offset + 1)
            if name == key:
                return offset
            names.append(name)
            offset = _skip_space(text, _LENIENT_DECODER.raw_decode(text, offset)[1])
            if text[offset : offset + 1] == ",":
                offset = _skip_space(text, offset + 1)
        if text[offset : offset + 1] != "}":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, offset)
    existing = ", ".join(names) or f"a {type(_LENIENT_DECODER.raw_decode(text, start)[0]).__name__}"
    raise SourceError(
        f"Source {origin.source.name}: {origin.location} has no {key!r}, which `records: {origin.source.records}` "
        f"names; there is {existing}."
    )


def _skip_space(text: str, offset: int) -> int:
    match = _SPACE.match(text, offset)
    return match.end() if match else offset

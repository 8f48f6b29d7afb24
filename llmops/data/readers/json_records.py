"""JSON files with a list of records, and JSON Lines with one record per line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmops.data.readers.decode import read_text
from llmops.data.readers.origin import Items, Origin, flatten
from llmops.errors import SourceError


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per record of the list at the source's `records` path, by default the file's own list.

    Raises:
        SourceError: if there is nothing at that path, or a field that the configuration names is in no record.
    """
    text, origin = read_text(path, origin)
    if not text.strip():
        yield origin.dropped("file", "empty", "the file is empty")
        return
    broken = None
    try:
        records = _find(json.loads(text), origin)
    except json.JSONDecodeError as error:
        records, broken = _whole_records(text) if not origin.source.records else [], error
    except RecursionError:
        yield origin.dropped("file", "malformed", "nested too deeply to be data", text)
        return
    seen: dict[str, None] = {}
    for number, record in enumerate(records, start=1):
        yield from _item(record, f"record {number}", origin, seen)
    if broken:
        where = f"line {broken.lineno}"
        yield origin.dropped(
            where, "malformed", f"{where}, column {broken.colno}: {broken.msg}", text[broken.pos - 80 :]
        )
    if seen:
        origin.check(seen)


def read_lines(path: Path, origin: Origin) -> Items:
    """Yield one item per line, blank lines aside.

    Raises:
        SourceError: if a field that the configuration names is in no record.
    """
    text, origin = read_text(path, origin)
    seen: dict[str, None] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            record, problem = parse_line(line)
            if problem:
                yield origin.dropped(f"line {number}", "malformed", problem, line)
            else:
                yield from _item(record, f"line {number}", origin, seen)
    if seen:
        origin.check(seen)


def parse_line(line: str) -> tuple[Any, str]:
    """The value of one line of JSON, and what is wrong with it, empty if nothing is."""
    try:
        return json.loads(line), ""
    except json.JSONDecodeError as error:
        return None, f"column {error.colno}: {error.msg}"
    except RecursionError:
        return None, "nested too deeply to be data"


def _item(record: Any, position: str, origin: Origin, seen: dict[str, None]) -> Items:
    if not isinstance(record, Mapping):
        detail = f"a {type(record).__name__} where a record (an object) belongs"
        yield origin.dropped(position, "malformed", detail, json.dumps(record))
        return
    values = flatten(record)
    seen.update(dict.fromkeys(values))
    yield origin.row(position, values)


def _find(value: Any, origin: Origin) -> list[Any]:
    for key in filter(None, origin.source.records.replace(".", "/").split("/")):
        if not isinstance(value, Mapping) or key not in value:
            there = ", ".join(map(str, value)) if isinstance(value, Mapping) else f"a {type(value).__name__}"
            raise SourceError(
                f"Source {origin.source.name}: {origin.location} has no {key!r}, which `records: "
                f"{origin.source.records}` names; there is {there or 'nothing'}."
            )
        value = value[key]
    return value if isinstance(value, list) else [value]


def _whole_records(text: str) -> list[Any]:
    """The records of a list that is broken further on."""
    decoder, records = json.JSONDecoder(), []
    at = text.find("[") + 1
    while at and text[:at].strip()[0] == "[":
        at += len(text[at:]) - len(text[at:].lstrip(" \t\r\n,"))
        try:
            record, at = decoder.raw_decode(text, at)
        except ValueError:
            break
        records.append(record)
    return records

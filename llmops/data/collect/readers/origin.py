"""Where a row comes from, and how it becomes a document or is quarantined: what every reader shares."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llmops.config import Source
from llmops.errors import SourceError
from llmops.records import Document, Dropped, content_id

Item = Document | Dropped | None  #: None stands for a row that `where` leaves out
Items = Iterator[Item]
Reader = Callable[[Path, "Origin"], Items]

CONTENT_CHARS = 2000  #: most characters of a quarantined row that are kept


@dataclass(frozen=True, slots=True)
class Origin:
    """One file or query of a source, within one data interval."""

    source: Source
    location: str  #: as it stands in documents and messages: relative to the configuration, without secrets
    interval: str = ""  #: ISO date of the day that a query is bounded by
    encoding: str = ""  #: what the text was decoded with, once it is known

    def document(self, position: str, fields: Mapping[str, str] | None = None, /, **parts: str) -> Document | Dropped:
        """The document at `position`; a quarantined row if some of it did not decode and so cannot be stored.

        Args:
            position: where in the file, in words.
            fields: the structured row as read.
            parts: `question`, `answer`, `context`, `same_as`, `group`, `text`.
        """
        values = {**(fields or {}), **parts}
        for name, value in values.items():
            if detail := undecodable(value, self.encoding) or undecodable(name, self.encoding):
                content = "\n".join(f"{n}: {v}" for n, v in values.items() if v)
                return self.dropped(position, "encoding", f"{printable(name)}: {detail}", content)
        return Document(
            id=content_id(self.source.name, self.location, position),
            source=self.source.name,
            location=self.location,
            position=position,
            fields=json.dumps(dict(fields or {}), ensure_ascii=False),
            licence=self.source.licence,
            owner=self.source.owner,
            **parts,
        )

    def row(self, position: str, values: Mapping[str, str]) -> Item:
        """The document of one structured row; None if `where` leaves it out.

        Without a field for the question, the row keeps all its fields and their text, for templates.
        """
        source = self.source
        if any(values.get(name, "") != wanted for name, wanted in source.where.items()):
            return None
        parts = {part: trimmed(values.get(name, "")) for part, name in source.fields.items()}
        if "question" in parts:
            return self.document(position, **parts)
        lines = "\n".join(f"{name}: {value}" for name, value in values.items() if value)
        return self.document(position, values, **{"text": lines, **parts})

    def dropped(self, position: str, rule: str, detail: str, content: str = "") -> Dropped:
        """The quarantined row at `position`."""
        cut = content[: CONTENT_CHARS + 1]
        content = printable(cut if len(cut) <= CONTENT_CHARS else cut[:-1] + "…")
        return Dropped(
            id=content_id(self.source.name, self.location, position),
            source=self.source.name,
            location=self.location,
            position=position,
            rule=rule,
            detail=printable(detail),
            content=content,
        )

    def check(self, columns: Iterable[str]) -> None:
        """Check that every column that the configuration names is there.

        Raises:
            SourceError: naming the first one that is not, and those that are.
        """
        there = list(dict.fromkeys(columns))
        named = {f"fields.{k}": v for k, v in self.source.fields.items()} | {f"where.{k}": k for k in self.source.where}
        for key, name in named.items():
            if name not in there:
                raise SourceError(
                    f"Source {self.source.name}: {self.location} has no field {name!r}, which `{key}` names; "
                    f"it has {', '.join(map(printable, there)) or 'none'}."
                )

    def read_as(self, encoding: str) -> Origin:
        """The same origin with its encoding known."""
        return replace(self, encoding=encoding)


def slug(heading: str) -> str:
    """The anchor of a heading, as web pages have it: "Who pays?" is "who-pays". Names a topic if nothing else does."""
    return re.sub(r"[\W_]+", "-", heading.casefold()).strip("-")


def trimmed(text: str) -> str:
    """`text` without space around it; of several lines the first keeps its indentation, which code needs."""
    text, said = text.rstrip(), text.strip()
    begins = len(text) - len(said)
    indent = text[text.rfind("\n", 0, begins) + 1 : begins]
    return indent + said if "\n" in said and (len(indent) > 1 or indent == "\t") else said


def undecodable(text: str, encoding: str) -> str:
    """What in `text` can not be stored as UTF-8, in words; empty if all can."""
    try:
        text.encode()
        return ""
    except UnicodeEncodeError as error:
        at, code = error.start + 1, ord(text[error.start])
    if 0xDC80 <= code <= 0xDCFF:  # how the error handler "surrogateescape" hides a byte (PEP 383)
        return (
            f"byte 0x{code - 0xDC00:02X} at character {at} is not valid {encoding or 'text'}; "
            "save the file in one encoding, or set the source's `encoding`"
        )
    return f"half a character (U+{code:04X}) at character {at}"


def printable(text: str) -> str:
    """`text` with bytes that did not decode written as `\\xe9`, so that it can be stored and printed."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def flatten(record: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """A nested record as strings: `{"a": {"b": 1}}` becomes `{"a.b": "1"}`.

    A list of plain values is joined by ", "; one of records is numbered: `{"a": [{"b": 1}]}` becomes `{"a.0.b": "1"}`.
    Where two values come to have one name, as in `{"a.b": 1, "a": {"b": 2}}`, the second is named `a.b (2)`.
    """
    out: dict[str, str] = {}

    def put(name: str, text: str) -> None:
        number, free = 2, name
        while free in out:
            free, number = f"{name} ({number})", number + 1
        out[free] = text

    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, list):
            if any(isinstance(item, Mapping | list) for item in value):
                value = {str(number): item for number, item in enumerate(value)}
            else:
                put(name, ", ".join(map(plain, value)))
                continue
        if isinstance(value, Mapping):
            for inner, text in flatten(value, f"{name}.").items():
                put(inner, text)
        else:
            put(name, plain(value))
    return out


def plain(value: object) -> str:
    """One value as text: None and not-a-number are empty, booleans are as in JSON, dates are ISO."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return str(value)

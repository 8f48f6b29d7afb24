"""The origin of a row, and how a reader turns the row into a document or a quarantined row (`DroppedRow`)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llmops.config import Source
from llmops.frame.errors import SourceError
from llmops.frame.records import Document, DroppedRow, make_content_id

Item = Document | DroppedRow | None  #: None stands for a row excluded by `where`
Items = Iterator[Item]
Reader = Callable[[Path, "Origin"], Items]

CONTENT_CHARS = 2000  #: most stored characters of a quarantined row


@dataclass(frozen=True, slots=True)
class Origin:
    """One file or query of a source, within one data interval."""

    source: Source
    location: str  #: for documents and messages: relative to the configuration, without secrets
    interval: str = ""  #: ISO date of the interval of a query
    encoding: str = ""  #: encoding of the text, once known
    within: str = ""  #: part of the file that holds the rows, such as `chapter 2, `; begins each position

    def make_document(
        self, position: str, fields: Mapping[str, str] | None = None, /, **parts: str
    ) -> Document | DroppedRow:
        """Return the document at `position`, or a quarantined row if some of its bytes were undecodable.

        `position` is in words; `parts` are `question`, `answer`, `context`, `same_as`, `group`, `text`.
        """
        values = {**(fields or {}), **parts}
        for name, value in values.items():
            if detail := explain_undecodable(value, self.encoding) or explain_undecodable(name, self.encoding):
                content = "\n".join(f"{n}: {v}" for n, v in values.items() if v)
                return self.make_dropped(position, "encoding", f"{make_printable(name)}: {detail}", content)
        position = f"{self.within}{position}"
        return Document(
            id=make_content_id(self.source.name, self.location, position),
            source=self.source.name,
            location=self.location,
            position=position,
            fields=json.dumps(dict(fields or {}), ensure_ascii=False),
            licence=self.source.licence,
            owner=self.source.owner,
            **parts,
        )

    def convert_row(self, position: str, values: Mapping[str, str]) -> Item:
        """Return the document of one structured row; None if `where` excludes it.

        Without a question field, the row keeps all its fields and their text, of which templates make questions.
        """
        source = self.source
        if any(values.get(name, "") != wanted for name, wanted in source.where.items()):
            return None
        parts = {part: trim_text(values.get(name, "")) for part, name in source.fields.items()}
        if "question" in parts:
            return self.make_document(position, **parts)
        lines = "\n".join(f"{name}: {value}" for name, value in values.items() if value)
        return self.make_document(position, values, **{"text": lines, **parts})

    def make_dropped(self, position: str, rule: str, detail: str, content: str = "") -> DroppedRow:
        """Return the quarantined row at `position`."""
        position = f"{self.within}{position}"
        cut = content[: CONTENT_CHARS + 1]
        content = make_printable(cut if len(cut) <= CONTENT_CHARS else cut[:-1] + "…")
        return DroppedRow(
            id=make_content_id(self.source.name, self.location, position),
            source=self.source.name,
            location=self.location,
            position=position,
            rule=rule,
            detail=make_printable(detail),
            content=content,
        )

    def check_columns(self, columns: Iterable[str]) -> None:
        """Check that all configured columns exist.

        Raises:
            SourceError: naming the first missing one, and the existing ones.
        """
        existing = list(dict.fromkeys(columns))
        configured = {f"fields.{k}": v for k, v in self.source.fields.items()} | {
            f"where.{k}": k for k in self.source.where
        }
        for key, name in configured.items():
            if name not in existing:
                raise SourceError(
                    f"Source {self.source.name}: {self.location} has no field {name!r}, which `{key}` names; "
                    f"it has {', '.join(map(make_printable, existing)) or 'none'}."
                )

    def enter(self, part: str) -> Origin:
        """Return the origin of the rows in a part of the file, such as `chapter 2`."""
        return replace(self, within=f"{self.within}{part}, ")

    def replace_encoding(self, encoding: str) -> Origin:
        """Return the same origin with this encoding."""
        return replace(self, encoding=encoding)


def make_slug(heading: str) -> str:
    """Return the anchor of a heading, as on web pages: "Who pays?" is "who-pays"."""
    return re.sub(r"[\W_]+", "-", heading.casefold()).strip("-")


def trim_text(text: str) -> str:
    """Return `text` without surrounding space. The first of several lines keeps its indentation, except one space."""
    text, stripped = text.rstrip(), text.strip()
    start = len(text) - len(stripped)
    indent = text[text.rfind("\n", 0, start) + 1 : start]
    return indent + stripped if "\n" in stripped and (len(indent) > 1 or indent == "\t") else stripped


def explain_undecodable(text: str, encoding: str) -> str:
    """Return why `text` cannot be stored as UTF-8, in words; empty if it can."""
    try:
        text.encode()
        return ""
    except UnicodeEncodeError as error:
        character, code = error.start + 1, ord(text[error.start])
    if 0xDC80 <= code <= 0xDCFF:  # a byte hidden by the error handler "surrogateescape" (PEP 383)
        return (
            f"byte 0x{code - 0xDC00:02X} at character {character} is not valid {encoding or 'text'}; "
            "save the file in one encoding, or set the source's `encoding`"
        )
    return f"half a character (U+{code:04X}) at character {character}"


def make_printable(text: str) -> str:
    r"""Return `text` with undecodable bytes written as `\xe9`, so that it can be stored and printed."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def flatten_record(record: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Return a nested record as strings: `{"a": {"b": 1}}` becomes `{"a.b": "1"}`.

    A list of plain values is joined by ", "; one of records is numbered: `{"a": [{"b": 1}]}` becomes `{"a.0.b": "1"}`.
    If two values get one name, as in `{"a.b": 1, "a": {"b": 2}}`, the second is named `a.b (2)`.
    """
    values: dict[str, str] = {}

    def add_value(name: str, text: str) -> None:
        number, unused = 2, name
        while unused in values:
            unused, number = f"{name} ({number})", number + 1
        values[unused] = text

    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, list):
            if any(isinstance(item, Mapping | list) for item in value):
                value = {str(number): item for number, item in enumerate(value)}
            else:
                add_value(name, ", ".join(map(format_value, value)))
                continue
        if isinstance(value, Mapping):
            for inner, text in flatten_record(value, f"{name}.").items():
                add_value(inner, text)
        else:
            add_value(name, format_value(value))
    return values


def format_value(value: object) -> str:
    """Return one value as text: None and NaN are empty, booleans as in JSON, dates in ISO format."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return str(value)

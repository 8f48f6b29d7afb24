"""Forgotten persons: their rows must not be collected again, although the sources may still have them.

The list stores the identifier by which a person was forgotten. So a row that names them stays out even if it is
changed, moved or copied, by the rule of the erasure (`llmops.data.text.identifiers`). For tables with keys the list
also stores the keys of the person's rows. Such a row stays out even after the name is removed from it.

The table `forgotten` has no text, only keyed hashes (HMAC-SHA256) with its own random key. A plain hash of a short text
could be reversed with a precomputed table of likely texts. The key is stored beside the hashes, because collect needs
it, so somebody with the database can test single guesses. For an identifier the list also has its kind, its number of
words, and 16 bits that save collect the HMAC of nearly every other text.
"""

import hmac
import secrets
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby

import sqlalchemy as sa

from llmops.data.text.identifiers import (
    IdentifierShape,
    find_possible_spans,
    is_whole,
    list_location_names,
    normalize_span,
)
from llmops.data.text.spellings import list_spellings
from llmops.frame.records import Document, DroppedRow, is_row_key, remove_message_number
from llmops.state.database import Database
from llmops.state.tables import forgotten as table

RULE = "forgotten"
HIDDEN_LOCATION = "a file named after the person"  #: replaces the location of such a file
DETAIL = "taken out by `llmops data forget`, and still in the source: delete it there"
TEXT_FIELDS = ("question", "answer", "context", "same_as", "group", "text", "fields", "detail", "content")  #: of a row

_WINDOW, _OVERLAP = 1 << 16, 1 << 10  #: characters searched together, and their overlap
_SECRET = "secret"  #: scope of the list's key
ROW = "row"  #: scope of rows

CollectedRow = Document | DroppedRow


@dataclass(frozen=True, slots=True)
class ForgottenList:
    """The list of forgotten persons."""

    key: bytes = field(default=b"", repr=False)
    row_hashes: frozenset[str] = frozenset()  #: hashes of the keys of tables' rows
    identifier_hashes: Mapping[IdentifierShape, frozenset[str]] = field(
        default_factory=dict
    )  #: shape → hashes of identifiers
    marks: Mapping[IdentifierShape, frozenset[int]] = field(
        default_factory=dict
    )  #: shape → 16-bit marks of identifiers

    def quarantine_rows(self, items: Iterable[CollectedRow | None]) -> Iterator[CollectedRow | None]:
        """Yield the rows of a file in order. Replace rows of forgotten persons by quarantined rows without content.

        If one message of a conversation names the person, all its messages are replaced. None is an excluded row.
        """
        if not (self.row_hashes or self.identifier_hashes):
            yield from items
            return
        is_named: dict[str, bool] = {}  #: location → True if it is named after a forgotten person
        for _, conversation in groupby(
            items, lambda item: item and (item.location, remove_message_number(item.position))
        ):
            rows = list(conversation)
            for location in {item.location for item in rows if item} - is_named.keys():
                is_named[location] = any(map(self._has_identifier, list_location_names(location)))
            is_forgotten = any(item and (is_named[item.location] or self._is_forgotten(item)) for item in rows)
            for item in rows:
                yield self._quarantine_row(item, is_named[item.location]) if item and is_forgotten else item

    def hash_row(self, source: str, position: str) -> str:
        """Return the hash of a row by its key."""
        return self.hash_texts(ROW, source, position)

    def hash_texts(self, *parts: str) -> str:
        """Return the keyed hash of some texts."""
        message = b"".join(len(data).to_bytes(8, "big") + data for data in (part.encode() for part in parts))
        return hmac.digest(self.key, message, "sha256").hex()

    def hash_identifier(self, plain: str) -> str:
        """Return the hash of an identifier."""
        return self.hash_texts("person", plain)

    def compute_mark(self, plain: str) -> int:
        """Return 16 keyed bits of an identifier, to exclude nearly all other texts at a tenth of the cost."""
        return zlib.crc32(plain.encode("utf-8", "surrogatepass"), self._seed) & 0xFFFF

    @property
    def _seed(self) -> int:
        return int.from_bytes(self.key[:4], "big")

    def _is_forgotten(self, item: CollectedRow) -> bool:
        has_key = is_row_key(item.position)
        texts = (item.position if has_key else "", *(getattr(item, name, "") for name in TEXT_FIELDS))
        is_listed = has_key and bool(self.row_hashes) and self.hash_row(item.source, item.position) in self.row_hashes
        return is_listed or any(map(self._has_identifier, texts))

    def _quarantine_row(self, item: CollectedRow, hide_location: bool) -> DroppedRow:
        position = "" if hide_location or self._has_identifier(item.position) else item.position
        origin = {"id": item.id, "source": item.source, "location": HIDDEN_LOCATION if hide_location else item.location}
        return DroppedRow(**origin, position=position, rule=RULE, detail=DETAIL, content="")

    def _has_identifier(self, text: str) -> bool:
        for form in list_spellings(text) if self.identifier_hashes and text else ():
            lower = " ".join(form.casefold().split())
            for offset in range(0, len(lower), _WINDOW - _OVERLAP):  # a text may be a whole book
                part = lower[offset : offset + _WINDOW]
                for shape, spans in find_possible_spans(part, self.identifier_hashes):
                    for plain, start, end in self._filter_by_mark(part, spans, shape):
                        is_listed = self.hash_identifier(plain) in self.identifier_hashes[shape]
                        if is_listed and is_whole(lower, offset + start, offset + end, shape):
                            return True
        return False

    def _filter_by_mark(
        self, text: str, spans: list[tuple[int, int]], shape: IdentifierShape
    ) -> list[tuple[str, int, int]]:
        """Return the texts at `spans` that have one of the listed marks. `text` has only single spaces."""
        marks = self.marks[shape]
        if shape.kind == "phone" or not text.isascii():
            candidates = ((normalize_span(text[start:end], shape), start, end) for start, end in spans)
            return [candidate for candidate in candidates if self.compute_mark(candidate[0]) in marks]
        data, seed, crc = text.encode(), self._seed, zlib.crc32  # takes a third of the time
        return [(text[a:b], a, b) for a, b in spans if crc(data[a:b], seed) & 0xFFFF in marks]


def load_list(database: Database | None) -> ForgottenList:
    """Return the list in a database; empty if there is no database."""
    if database is None or not database.exists:
        return ForgottenList()
    with database.read() as connection:
        return read_list(connection)


def read_list(connection: sa.Connection) -> ForgottenList:
    """Return the list, read through an open connection."""
    key, row_hashes = b"", set[str]()
    identifier_hashes, marks = defaultdict[IdentifierShape, set[str]](set), defaultdict[IdentifierShape, set[int]](set)
    for scope, hash_, mark in connection.execute(sa.select(table.c.scope, table.c.hash, table.c.mark)):
        if scope == _SECRET:
            key = bytes.fromhex(hash_)
        elif scope == ROW:
            row_hashes.add(hash_)
        else:
            kind, size = scope.split()
            identifier_hashes[shape := IdentifierShape(kind, int(size))].add(hash_)
            marks[shape].add(mark)
    frozen_hashes = {shape: frozenset(some) for shape, some in identifier_hashes.items()}
    return ForgottenList(
        key, frozenset(row_hashes), frozen_hashes, {shape: frozenset(some) for shape, some in marks.items()}
    )


def load_list_with_key(database: Database) -> ForgottenList:
    """Return the list of a database. Create its key if there is none yet."""
    persons = load_list(database)
    if not persons.key:
        with database.change() as connection:
            if not (persons := read_list(connection)).key:
                connection.execute(sa.insert(table).values(scope=_SECRET, hash=secrets.token_hex(32)))
                persons = read_list(connection)
    return persons


def add_person(
    connection: sa.Connection, shape: IdentifierShape, plain: str, rows: Iterable[tuple[str, str]] = ()
) -> None:
    """Add a person to the list, and the keys of their rows. The list must have its key (`load_list_with_key`).

    Positions of rows without a key are ignored.
    """
    persons = read_list(connection)
    hashes = {
        persons.hash_row(source, position) for source, position in rows if is_row_key(position)
    } - persons.row_hashes
    new: list[dict[str, str | int | None]] = [{"scope": ROW, "hash": hash_, "mark": None} for hash_ in sorted(hashes)]
    if persons.hash_identifier(plain) not in persons.identifier_hashes.get(shape, ()):
        scope = f"{shape.kind} {shape.size}"
        new.append({"scope": scope, "hash": persons.hash_identifier(plain), "mark": persons.compute_mark(plain)})
    if new:
        connection.execute(sa.insert(table), new)

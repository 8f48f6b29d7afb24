"""Forgotten persons: their rows must not be collected again, although the sources may still have them.

The list stores the identifier by which a person was forgotten. So a row that names them stays out even if it is
changed, moved or copied, by the rule of the erasure (`llmops.data.text.identity`). For tables with keys the list also
stores the keys of the person's rows. Such a row stays out even after the name is removed from it.

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

from llmops.data.text.identity import Shape, compared, location_names, runs, whole
from llmops.data.text.spellings import forms
from llmops.frame.records import Document, Dropped, is_key, without_message
from llmops.state.database import Database
from llmops.state.tables import forgotten as table

RULE = "forgotten"
HIDDEN = "a file named after the person"  #: replaces its location
DETAIL = "taken out by `llmops data forget`, and still in the source: delete it there"
TEXTS = ("question", "answer", "context", "same_as", "group", "text", "fields", "detail", "content")  #: of a row

_WINDOW, _OVERLAP = 1 << 16, 1 << 10  #: characters searched together, and their overlap
_SECRET = "secret"  #: scope of the list's key
ROW = "row"  #: scope of rows

CollectedRow = Document | Dropped


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The list of forgotten persons."""

    key: bytes = field(default=b"", repr=False)
    rows: frozenset[str] = frozenset()  #: hashes of the keys of tables' rows
    people: Mapping[Shape, frozenset[str]] = field(default_factory=dict)  #: shape → hashes of identifiers
    marks: Mapping[Shape, frozenset[int]] = field(default_factory=dict)  #: shape → 16-bit marks of identifiers

    def without(self, items: Iterable[CollectedRow | None]) -> Iterator[CollectedRow | None]:
        """Yield the rows of a file in order, with a quarantined row without content for each forgotten one.

        All messages of a conversation are forgotten together. None stands for an excluded row.
        """
        if not (self.rows or self.people):
            yield from items
            return
        files: dict[str, bool] = {}  #: location → True if it is named after a forgotten person
        for _, together in groupby(items, lambda item: item and (item.location, without_message(item.position))):
            rows = list(together)
            for location in {item.location for item in rows if item} - files.keys():
                files[location] = any(map(self._names, location_names(location)))
            theirs = any(item and (files[item.location] or self._is_theirs(item)) for item in rows)
            for item in rows:
                yield self._quarantined(item, files[item.location]) if item and theirs else item

    def row(self, source: str, position: str) -> str:
        """Return the hash of a row by its key."""
        return self.hash(ROW, source, position)

    def hash(self, *parts: str) -> str:
        """Return the keyed hash of some texts."""
        message = b"".join(len(data).to_bytes(8, "big") + data for data in (part.encode() for part in parts))
        return hmac.digest(self.key, message, "sha256").hex()

    def person(self, plain: str) -> str:
        """Return the hash of an identifier."""
        return self.hash("person", plain)

    def mark(self, plain: str) -> int:
        """Return 16 keyed bits of an identifier, to exclude nearly all other texts at a tenth of the cost."""
        return zlib.crc32(plain.encode("utf-8", "surrogatepass"), self._seed) & 0xFFFF

    @property
    def _seed(self) -> int:
        return int.from_bytes(self.key[:4], "big")

    def _is_theirs(self, item: CollectedRow) -> bool:
        keyed = is_key(item.position)
        texts = (item.position if keyed else "", *(getattr(item, name, "") for name in TEXTS))
        listed = keyed and bool(self.rows) and self.row(item.source, item.position) in self.rows
        return listed or any(map(self._names, texts))

    def _quarantined(self, item: CollectedRow, located: bool) -> Dropped:
        position = "" if located or self._names(item.position) else item.position
        known = {"id": item.id, "source": item.source, "location": HIDDEN if located else item.location}
        return Dropped(**known, position=position, rule=RULE, detail=DETAIL, content="")

    def _names(self, text: str) -> bool:
        for form in forms(text) if self.people and text else ():
            lower = " ".join(form.casefold().split())
            for offset in range(0, len(lower), _WINDOW - _OVERLAP):  # a text may be a whole book
                part = lower[offset : offset + _WINDOW]
                for shape, places in runs(part, self.people):
                    for plain, start, end in self._with_mark(part, places, shape):
                        known = self.person(plain) in self.people[shape]
                        if known and whole(lower, offset + start, offset + end, shape):
                            return True
        return False

    def _with_mark(self, text: str, places: list[tuple[int, int]], shape: Shape) -> list[tuple[str, int, int]]:
        """Return the texts at those places that have one of the marks. `text` has only single spaces."""
        marks = self.marks[shape]
        if shape.kind == "phone" or not text.isascii():
            found = ((compared(text[start:end], shape), start, end) for start, end in places)
            return [one for one in found if self.mark(one[0]) in marks]
        data, seed, crc = text.encode(), self._seed, zlib.crc32  # takes a third of the time
        return [(text[a:b], a, b) for a, b in places if crc(data[a:b], seed) & 0xFFFF in marks]


def load(database: Database | None) -> Forgotten:
    """Return the list in a database; empty if there is no database."""
    if database is None or not database.exists:
        return Forgotten()
    with database.read() as connection:
        return read(connection)


def read(connection: sa.Connection) -> Forgotten:
    """Return the list, from a connection."""
    key, rows = b"", set[str]()
    people, marks = defaultdict[Shape, set[str]](set), defaultdict[Shape, set[int]](set)
    for scope, hash_, mark in connection.execute(sa.select(table.c.scope, table.c.hash, table.c.mark)):
        if scope == _SECRET:
            key = bytes.fromhex(hash_)
        elif scope == ROW:
            rows.add(hash_)
        else:
            kind, size = scope.split()
            people[shape := Shape(kind, int(size))].add(hash_)
            marks[shape].add(mark)
    known = {shape: frozenset(some) for shape, some in people.items()}
    return Forgotten(key, frozenset(rows), known, {shape: frozenset(some) for shape, some in marks.items()})


def keyed(database: Database) -> Forgotten:
    """Return the list, and create its key if needed."""
    found = load(database)
    if not found.key:
        with database.change() as connection:
            if not (found := read(connection)).key:
                connection.execute(sa.insert(table).values(scope=_SECRET, hash=secrets.token_hex(32)))
                found = read(connection)
    return found


def add(connection: sa.Connection, shape: Shape, plain: str, rows: Iterable[tuple[str, str]] = ()) -> None:
    """Add a person to the list, which has its key (`keyed`), and the keys of their rows.

    Positions of rows without a key are ignored.
    """
    known = read(connection)
    hashes = {known.row(source, position) for source, position in rows if is_key(position)} - known.rows
    new: list[dict[str, str | int | None]] = [{"scope": ROW, "hash": hash_, "mark": None} for hash_ in sorted(hashes)]
    if known.person(plain) not in known.people.get(shape, ()):
        scope = f"{shape.kind} {shape.size}"
        new.append({"scope": scope, "hash": known.person(plain), "mark": known.mark(plain)})
    if new:
        connection.execute(sa.insert(table), new)

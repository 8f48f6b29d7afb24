"""The persons whose rows must not be collected again: their sources may hold them until somebody deletes them there.

What is remembered is the identifier that a person was forgotten by, so that a row which names them stays out however it
is changed, moved or copied, under the rule by which the erasure found it (`llmops.data.text.identity`). Of a table with
keys, a person's rows are remembered by their keys too: such a row is theirs also when the name is taken out of it. A
row without a key that names nobody (an answer in their conversation) is remembered by its content.

`forgotten.json` holds no text, only keyed hashes (HMAC-SHA256) under a random key of its own. A plain hash of a short
text could be undone with a table of likely texts made once for everybody; under a random key there is no such table,
and the lists of two homes cannot be compared. Since the key lies beside the hashes (collect needs it), who has this
file can still test one guess at a time: it is as private as the home, readable by its owner only. Of an identifier the
list also tells its kind and how many words it has, and 16 bits that spare collect the HMAC of almost every other text.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from llmops.artifacts import locked, write_json
from llmops.data.text.identity import Shape, compared, location_names, runs, whole
from llmops.data.text.spellings import forms
from llmops.errors import ArtifactError
from llmops.records import Document, Dropped, is_key, without_message

RULE = "forgotten"
HIDDEN = "a file named after the person"  #: shown instead of its location
DETAIL = "taken out by `llmops data forget`, and still in the source: delete it there"

_WINDOW, _OVERLAP = 1 << 16, 1 << 10  #: characters that are looked at together, and again with those after them

CollectedRow = Document | Dropped
#: By what a row is forgotten. here: by its content in its own file only, since it could be anybody's ("Thank you.").
#: key: by the key of its table. Lists of earlier releases, which knew no identifiers, have more. anywhere: by its
#: content in every file. hidden: as here, but the file is named after the person, so that its name may not be kept.
#: The words are part of the hashes, so they cannot change.
Scope = Literal["anywhere", "here", "hidden", "key"]


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The list, as collect uses it."""

    key: bytes
    rows: frozenset[str]
    people: Mapping[Shape, Mapping[str, int]]  #: of identifiers: shape → their hashes, with a short mark of each

    def without(self, items: Iterable[CollectedRow | None]) -> Iterator[CollectedRow | None]:
        """The rows of a file in their order, in place of each forgotten one a quarantined row without its content.

        A conversation is forgotten with all of its messages. None stands for a row that is left out anyway.
        """
        if not (self.rows or self.people):
            yield from items
            return
        marks = {shape: frozenset(people.values()) for shape, people in self.people.items()}
        files: dict[str, bool] = {}  #: location → whether it is named after one of them
        for _, together in groupby(items, lambda item: item and (item.location, without_message(item.position))):
            rows = [item for item in together]
            for location in {item.location for item in rows if item} - files.keys():
                files[location] = any(self._named_in(name, marks) for name in location_names(location))
            theirs = any(item and (files[item.location] or self._is_theirs(item, marks)) for item in rows)
            for item in rows:
                yield item and self._kept(item, theirs, files[item.location], marks)

    def _is_theirs(self, item: CollectedRow, marks: Mapping[Shape, frozenset[int]]) -> bool:
        return self._listed(item, "key") or any(self._named_in(text, marks) for text in _texts(item))

    def _kept(
        self, item: CollectedRow, theirs: bool, located: bool, marks: Mapping[Shape, frozenset[int]]
    ) -> CollectedRow:
        hidden = located or self._listed(item, "hidden")
        if not (theirs or hidden or self._listed(item, "anywhere") or self._listed(item, "here")):
            return item
        return Dropped(
            id=item.id,
            source=item.source,
            location=HIDDEN if hidden else item.location,
            position="" if hidden or self._named_in(item.position, marks) else item.position,
            rule=RULE,
            detail=DETAIL,
            content="",
        )

    def _listed(self, item: CollectedRow, scope: Scope) -> bool:
        parts = _parts(item, scope) if self.rows else ()
        return bool(parts) and _hash(self.key, *parts) in self.rows

    def _named_in(self, text: str, marks: Mapping[Shape, frozenset[int]]) -> bool:
        for form in forms(text) if marks and text else ():
            lower = " ".join(form.casefold().split())
            for offset in range(0, len(lower), _WINDOW - _OVERLAP):  # a text may be a whole book
                part = lower[offset : offset + _WINDOW]
                for shape, places in runs(part, marks):
                    for plain, start, end in _marked(part, places, shape, self.key, marks[shape]):
                        known = _person(self.key, plain) in self.people[shape]
                        if known and whole(lower, offset + start, offset + end, shape):
                            return True
        return False


def load(path: Path) -> Forgotten:
    """The list at `path`; nothing is forgotten where there is none.

    Raises:
        ArtifactError: if the list is damaged.
    """
    return _known(path, _read(path))


def add(path: Path, rows: Iterable[str], person: tuple[Shape, str] | None = None) -> None:
    """Put onto the list, whole or not at all, hashes made by `hasher`, and a person by shape and identifier.

    Raises:
        ArtifactError: if the list is damaged.
    """
    with locked(path):
        list_ = _read(path)
        list_["rows"] = sorted({*list_["rows"], *rows})
        if person:
            key, (shape, plain) = bytes.fromhex(list_["key"]), person
            same = list_.setdefault("people", {}).setdefault(f"{shape.kind} {shape.size}", {})
            same[_person(key, plain)] = _mark(key, plain)
        _write(path, list_)


def hasher(path: Path) -> Callable[[str | CollectedRow, Scope], str]:
    """A function that gives a text's or a row's hash in a scope, under the list's key; "" for a row that has none.

    Makes the list if there is none.

    Raises:
        ArtifactError: if the list is damaged.
    """
    with locked(path):
        list_ = _read(path)
        if not path.exists():
            _write(path, list_)
    key = bytes.fromhex(list_["key"])

    def keyed(what: str | CollectedRow, scope: Scope) -> str:
        parts = (scope, what) if isinstance(what, str) else _parts(what, scope)
        return _hash(key, *parts) if parts else ""

    return keyed


def _texts(item: CollectedRow) -> Iterable[str]:
    """What a row says, as an erasure looks through it; its location is looked at once for all rows."""
    position = item.position if is_key(item.position) else ""
    if isinstance(item, Dropped):
        return position, item.detail, item.content
    return position, item.question, item.answer, item.context, item.same_as, item.group, item.text, item.fields


def _content(item: CollectedRow) -> str:
    """A row's content, upper case and white space aside; not its place, which changes when rows above it go."""
    if isinstance(item, Dropped):
        parts = [item.content]
    else:
        fields = "" if item.fields == "{}" else item.fields
        parts = [item.question, item.answer, item.context, item.same_as, item.text, fields]
    plain = [" ".join(part.lower().split()) for part in parts]
    return json.dumps(plain) if any(plain) else ""


def _parts(item: CollectedRow, scope: Scope) -> tuple[str, ...]:
    """What is hashed of a row in a scope; empty if it has nothing to be known by."""
    if scope == "key":
        return (scope, item.source, item.position) if is_key(item.position) else ()
    if not (content := _content(item)):
        return ()
    return (scope, content) if scope == "anywhere" else (scope, item.location, content)


def _hash(key: bytes, *parts: str) -> str:
    message = b"".join(len(data).to_bytes(8, "big") + data for data in (part.encode() for part in parts))
    return hmac.digest(key, message, "sha256").hex()


def _person(key: bytes, plain: str) -> str:
    return _hash(key, "person", plain)


def _mark(key: bytes, plain: str) -> int:
    """16 bits of an identifier under the key, to tell nearly all other texts from it at a tenth of the cost."""
    return zlib.crc32(plain.encode("utf-8", "surrogatepass"), int.from_bytes(key[:4], "big")) & 0xFFFF


def _marked(
    text: str, places: list[tuple[int, int]], shape: Shape, key: bytes, marks: frozenset[int]
) -> list[tuple[str, int, int]]:
    """What stands at those places that has one of the marks. `text` has single spaces only."""
    if shape.kind == "phone" or not text.isascii():
        found = ((compared(text[start:end], shape), start, end) for start, end in places)
        return [one for one in found if _mark(key, one[0]) in marks]
    data, seed, crc = text.encode(), int.from_bytes(key[:4], "big"), zlib.crc32  # a third of the time
    return [(text[a:b], a, b) for a, b in places if crc(data[a:b], seed) & 0xFFFF in marks]


def _known(path: Path, values: Mapping[str, Any]) -> Forgotten:
    """What a list says; lists of earlier releases have no people.

    Raises:
        ArtifactError: if it is damaged.
    """
    try:
        people: dict[Shape, dict[str, int]] = {}
        for words, marks in values.get("people", {}).items():
            kind, _, size = words.partition(" ")
            people[Shape(kind, int(size))] = {str(digest): int(mark) for digest, mark in marks.items()}
        return Forgotten(bytes.fromhex(values["key"]), frozenset(values["rows"]), people)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{path} is damaged ({error}); restore it: without it, collect brings back what was forgotten."
        ) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"key": secrets.token_hex(32), "rows": []}
    except ValueError as error:
        values = {"rows": f"no JSON: {error}"}
    _known(path, values)
    return values


def _write(path: Path, values: dict[str, Any]) -> None:
    write_json(path, values)
    os.chmod(path, 0o600)

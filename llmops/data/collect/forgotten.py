"""The rows that must not be collected again: their sources may hold them until somebody deletes them there.

`forgotten.json` holds no content, only a keyed hash (HMAC-SHA256) of each row's, under a random key of its own. A plain
hash of a short text could be undone with a table of likely texts made once for everybody; under a random key there is
no such table, and the lists of two homes cannot be compared. Since the key lies beside the hashes (collect needs it),
who has this file can still test one guess at a time: it is as private as the home, readable by its owner only.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from llmops.artifacts import locked, write_json
from llmops.errors import ArtifactError
from llmops.records import Document, Dropped

RULE = "forgotten"
HIDDEN = "a file named after the person"  #: shown instead of its location
DETAIL = "taken out by `llmops data forget`, and still in the source: delete it there"

CollectedRow = Document | Dropped
#: Where a row is forgotten. anywhere: in every file that holds a row of the same content. here: in its own file only,
#: since the content could be anybody's ("Thank you."). hidden: as here, but the file is named after the person, so that
#: its name may not be kept either. The words are part of the hashes on the list, so they cannot change.
Scope = Literal["anywhere", "here", "hidden"]


def load(path: Path) -> Callable[[CollectedRow], CollectedRow]:
    """A function of a row: it returns the row itself, or for a forgotten one a quarantined row without its content.

    Args:
        path: the list; nothing is forgotten where there is none.

    Raises:
        ArtifactError: if the list is damaged.
    """
    list_ = _read(path)
    key, rows = bytes.fromhex(list_["key"]), frozenset(list_["rows"])

    def keep(item: CollectedRow) -> CollectedRow:
        if not rows or not (content := _content(item)):
            return item
        if _hash(key, *_parts(item, content, "hidden")) in rows:
            return _suppressed(item, HIDDEN, "")
        if any(_hash(key, *_parts(item, content, scope)) in rows for scope in ("anywhere", "here")):
            return _suppressed(item, item.location, item.position)
        return item

    return keep


def add(path: Path, hashes: Iterable[str]) -> None:
    """Put hashes made by `hasher` on the list, whole or not at all.

    Raises:
        ArtifactError: if the list is damaged.
    """
    with locked(path):
        list_ = _read(path)
        list_["rows"] = sorted({*list_["rows"], *hashes})
        _write(path, list_)


def hasher(path: Path) -> Callable[[str | CollectedRow, Scope], str]:
    """A function that gives a text's or a row's hash in a scope, under the list's key; "" for a row without content.

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
        if isinstance(what, str):
            return _hash(key, scope, what)
        content = _content(what)
        return _hash(key, *_parts(what, content, scope)) if content else ""

    return keyed


def _content(item: CollectedRow) -> str:
    """A row's content, upper case and white space aside; not its place, which changes when rows above it go."""
    if isinstance(item, Dropped):
        parts = [item.content]
    else:
        fields = "" if item.fields == "{}" else item.fields
        parts = [item.question, item.answer, item.context, item.same_as, item.text, fields]
    plain = [" ".join(part.lower().split()) for part in parts]
    return json.dumps(plain) if any(plain) else ""


def _parts(item: CollectedRow, content: str, scope: Scope) -> tuple[str, ...]:
    return (scope, content) if scope == "anywhere" else (scope, item.location, content)


def _suppressed(item: CollectedRow, location: str, position: str) -> Dropped:
    return Dropped(
        id=item.id, source=item.source, location=location, position=position, rule=RULE, detail=DETAIL, content=""
    )


def _hash(key: bytes, *parts: str) -> str:
    message = b"".join(len(data).to_bytes(8, "big") + data for data in (part.encode() for part in parts))
    return hmac.digest(key, message, "sha256").hex()


def _read(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        bytes.fromhex(values["key"])
        frozenset(values["rows"])
    except FileNotFoundError:
        return {"key": secrets.token_hex(32), "rows": []}
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path} is damaged ({error}); restore it: without it, collect brings back what was forgotten."
        ) from None
    return values


def _write(path: Path, values: dict[str, Any]) -> None:
    write_json(path, values)
    os.chmod(path, 0o600)

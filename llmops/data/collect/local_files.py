"""Files of this machine, and copies of them that say which bytes they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmops.records import content_id

_CHUNK = 1 << 20  #: bytes


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of this machine."""

    location: str
    path: Path

    @property
    def size(self) -> int | None:
        """Bytes; None if it cannot be read."""
        return size_of(self.path)

    def version(self, sha256: Callable[[Path], str]) -> str:
        """SHA-256 of the content; empty if the file cannot be read, which reading it will name."""
        try:
            return sha256(self.path)
        except OSError:
            return ""

    def fetch(self, folder: Path) -> tuple[Path, str]:
        """A copy, and the SHA-256 of the copied bytes."""
        copy = folder / content_id(self.location) / self.path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        return copy, copied(self.path, copy)


def copied(path: Path, copy: Path) -> str:
    """Copy a file; returns the SHA-256 of the bytes that were copied.

    Raises:
        OSError: if it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as source, open(copy, "wb") as out:
        while data := source.read(_CHUNK):
            digest.update(data)
            out.write(data)
    return digest.hexdigest()


def size_of(path: Path) -> int | None:
    """Bytes of a file; None if it cannot be read."""
    try:
        return path.stat().st_size
    except OSError:
        return None

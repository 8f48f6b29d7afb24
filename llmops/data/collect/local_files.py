"""Local files, and copies with the hash of their bytes."""

import errno
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmops.frame.records import make_content_id

_CHUNK = 1 << 20  #: bytes


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A local file."""

    location: str
    path: Path
    folder: Path | None = None  #: where it must lie, links resolved: a pattern names files of its folder only

    @property
    def size(self) -> int | None:
        """Return the size in bytes; None if the file cannot be read."""
        return get_size(self.path)

    def get_version(self, sha256: Callable[[Path], str]) -> str:
        """Return the SHA-256 of the content; empty if the file cannot be read (reading will report it)."""
        try:
            return sha256(self._resolve())
        except OSError:
            return ""

    def fetch(self, folder: Path) -> tuple[Path, str]:
        """Return a copy, and the SHA-256 of the copied bytes.

        Raises:
            OSError: if it cannot be read, or is a link that leads out of `folder`.
        """
        copy = folder / make_content_id(self.location) / self.path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        return copy, copy_file(self._resolve(), copy)

    def _resolve(self) -> Path:
        return resolve_inside(self.path, self.folder) if self.folder else self.path


def resolve_inside(path: Path, folder: Path) -> Path:
    """Return a path without symbolic links, which lies in `folder`, a path without symbolic links.

    Raises:
        PermissionError: if a link leads out of it.
    """
    target = Path(os.path.realpath(path))  # unlike `Path.resolve`, it has no error for links that lead in a circle
    if not target.is_relative_to(folder):
        why = f"a symbolic link that leads out of {folder.name}; put the file there, or name it as a source of its own"
        raise PermissionError(errno.EACCES, why)
    return target


def copy_file(path: Path, copy: Path) -> str:
    """Copy a file and return the SHA-256 of the copied bytes.

    Raises:
        OSError: if it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as source, copy.open("wb") as out:
        while data := source.read(_CHUNK):
            digest.update(data)
            out.write(data)
    return digest.hexdigest()


def get_size(path: Path) -> int | None:
    """Return the bytes of a file; None if it cannot be read."""
    try:
        return path.stat().st_size
    except OSError:
        return None

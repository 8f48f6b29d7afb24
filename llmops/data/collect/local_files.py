"""Local files, and copies with the hash of their bytes."""

import errno
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from llmops.frame.records import make_content_id

_CHUNK = 1 << 20  #: bytes


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A local file."""

    location: str
    path: Path
    folder: Path | None = None  #: links of the path must stay in it; None: they may lead anywhere

    @property
    def size(self) -> int | None:
        """Return the size in bytes; None if the file cannot be read."""
        return get_size(self.path)

    def get_version(self, sha256: Callable[[Path], str]) -> str:
        """Return the SHA-256 of the content; empty if the file cannot be read (reading will report it)."""
        try:
            check_links(self.path, self.folder)
            return sha256(self.path)
        except OSError:
            return ""

    def fetch(self, folder: Path) -> tuple[Path, str]:
        """Return a copy, and the SHA-256 of the copied bytes."""
        copy = folder / make_content_id(self.location) / self.path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        check_links(self.path, self.folder)
        return copy, copy_file(self.path, copy)


def leads_out(path: Path, folder: Path) -> bool:
    """Return True if links of `path` lead out of `folder`, which may be a link itself."""
    below = takewhile(lambda place: place != folder, (path, *path.parents))
    has_link = any(place.is_symlink() for place in below)  # looked at first: following links takes ten times as long
    return has_link and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def check_links(path: Path, folder: Path | None) -> None:
    """Check that links of `path` stay in `folder`, if there is one.

    Raises:
        OSError: if one leads out of it.
    """
    if folder and leads_out(path, folder):
        raise OSError(errno.EACCES, f"a link leads out of {folder.name or folder}; name the place that it leads to")


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


def get_mode(path: Path) -> int:
    """Return the mode of what a path leads to; 0 if nothing is there, or a link cannot be followed."""
    try:
        return path.stat().st_mode
    except OSError:  # `Path.is_file` raises some of these
        return 0


def get_size(path: Path) -> int | None:
    """Return the bytes of a file; None if it cannot be read."""
    try:
        return path.stat().st_size
    except OSError:
        return None

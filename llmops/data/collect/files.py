"""The files that a source names, and what they hold: light enough to look at before a stage is run."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from llmops.artifacts import file_sha256
from llmops.config import Collect, Source
from llmops.data.collect import remote
from llmops.data.collect.credentials import environment
from llmops.data.collect.readers.origin import printable
from llmops.errors import SourceError
from llmops.records import content_id


class SourceFile(Protocol):
    """A file of a source, wherever it is."""

    @property
    def location(self) -> str:
        """Where it is, as it stands in documents: relative to the configuration, or a URL without secrets."""
        ...

    def version(self) -> str:
        """What changes whenever the content does; empty if that cannot be told."""
        ...

    def state(self) -> str:
        """What changes when the file is written to; cheap."""
        ...

    def fetch(self, folder: Path) -> Path:
        """A path that it can be read from; a remote file is copied into `folder`."""
        ...


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of this machine."""

    location: str
    path: Path

    def version(self) -> str:
        """SHA-256 of the content; empty if the file cannot be read, which reading it will name."""
        try:
            return file_sha256(self.path)
        except OSError:
            return ""

    def state(self) -> str:
        """Identity, size and time of change."""
        try:
            found = self.path.stat()
        except OSError as error:
            return str(error)
        return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns}"

    def fetch(self, folder: Path) -> Path:
        """The path itself."""
        return self.path


def matching_files(source: Source, root: Path, interval: str) -> Sequence[SourceFile]:
    """The files that a source's location names, sorted.

    Raises:
        SourceError: if there is none, or it cannot be reached.
    """
    location = source.location.replace("{date}", interval)
    if remote.is_remote(location):
        try:
            found: Sequence[SourceFile] = remote.find(location, environment(source.connection))
        except SourceError as error:
            raise SourceError(f"Source {source.name}: {error}") from None
        if found:
            return found
        raise SourceError(
            f"Source {source.name}: no file matches {location}; check the path, and whether the credentials may see it."
        )
    path = root / Path(location).expanduser()
    paths = [path] if path.is_file() else sorted(Path(p) for p in glob.glob(str(path), recursive=True))
    if files := [p for p in paths if not p.is_dir()]:
        return [LocalFile(printable(Path(os.path.relpath(p, root)).as_posix()), p) for p in files]
    hint = "it is a folder; name the files in it, as in `folder/*.html`" if path.is_dir() else "check the path"
    raise SourceError(f"Source {source.name}: no file matches {location}, looked for in {root}; {hint}.")


def content(config: Collect, interval: str) -> str:
    """16 hex digits over the content of all file sources: another day's or a changed file is new work.

    Local files count by their SHA-256, remote ones by what their server says changes with the content. What a database
    holds is not looked at: its rows of one data interval are taken not to change.
    """
    files = [f for s in config.sources if s.kind != "sql" for f in matching_files(s, config.root, interval)]
    return content_id(*(part for file in files for part in (file.location, file.version())))

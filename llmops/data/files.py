"""The files that a source names, and what they hold: light enough to look at before a stage is run."""

from __future__ import annotations

import glob
import hashlib
from pathlib import Path

from llmops.config import Collect, Source
from llmops.errors import SourceError


def matches(source: Source, root: Path, interval: str) -> list[Path]:
    """The files that a source's location names, sorted.

    Raises:
        SourceError: if there is none.
    """
    location = source.location.replace("{date}", interval)
    path = root / Path(location).expanduser()
    found = [path] if path.is_file() else sorted(Path(p) for p in glob.glob(str(path), recursive=True))
    if files := [p for p in found if not p.is_dir()]:
        return files
    hint = "it is a folder; name the files in it, as in `folder/*.html`" if path.is_dir() else "check the path"
    raise SourceError(f"Source {source.name}: no file matches {location}, looked for in {root}; {hint}.")


def content(config: Collect, interval: str) -> str:
    """16 hex digits of the SHA-256 over the content of all file sources: another day's or a changed file is new work.

    What a database holds is not looked at: its rows of one data interval are taken not to change.
    """
    digest = hashlib.sha256()
    for source in config.sources:
        for path in matches(source, config.root, interval) if source.kind != "sql" else []:
            with open(path, "rb") as handle:
                digest.update(path.name.encode() + hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:16]

"""The files of a source, and their versions. Finding them is cheap, so it is also done before a stage runs.

A file may change at any moment. Therefore a private copy is read, and the copy has the version: the hash of its bytes,
or the tag under which a server returned them. Extracts and artifacts are named by this version.
"""

import glob
import os
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Protocol

from llmops.config import Collect, Source
from llmops.data import remote
from llmops.data.collect.dataset_files import DatasetFolder, HubDataset
from llmops.data.collect.libraries import list_versions
from llmops.data.collect.local_files import LocalFile, get_mode, leads_out
from llmops.data.collect.readers.origin import make_printable
from llmops.data.credentials import read_environment
from llmops.data.feedback import documents
from llmops.frame.errors import SourceError
from llmops.frame.records import make_content_id
from llmops.state.file_hashes import cached_hashing


class SourceFile(Protocol):
    """A file of a source, local or remote."""

    @property
    def location(self) -> str:
        """Return the file's location for documents: relative to the configuration, or a URL without secrets."""
        ...

    @property
    def size(self) -> int | None:
        """Return the size in bytes; None if unknown."""
        ...

    def get_version(self, sha256: Callable[[Path], str]) -> str:
        """Return a text that changes with the content; empty if unknown. `sha256` returns the hash of a local file."""
        ...

    def fetch(self, folder: Path) -> tuple[Path, str]:
        """Copy the file to `folder`. Return the copy and its version.

        Raises:
            OSError: if it cannot be read.
            SourceError: if it cannot be reached, or changes meanwhile.
        """
        ...


def find_source_files(source: Source, root: Path, interval: str) -> Sequence[SourceFile]:
    """Return the files that match a source's location, sorted.

    Raises:
        SourceError: if there is none, or it cannot be reached.
    """
    location = source.location.replace("{date}", interval)
    if remote.is_remote(location):
        try:
            found: Sequence[SourceFile] = remote.find_remote_files(location, read_environment(source.connection))
        except SourceError as error:
            raise type(error)(f"Source {source.name}: {error}") from None
        if found:
            return found
        raise SourceError(
            f"Source {source.name}: no file matches {location}; check the path, and whether the credentials may see it."
        )
    if source.revision:
        return [HubDataset(location, source.revision)]
    path = root / Path(location).expanduser()
    if source.kind == "dataset":
        if not path.is_dir():
            raise SourceError(
                f"Source {source.name}: {location} is no folder, looked for in {root}. Read files by their own kind: "
                "`csv`, `parquet` or `jsonl`; to read a repository of the Hub, name its `revision`."
            )
        contained = (p for p in path.rglob("*") if S_ISREG(get_mode(p)))
        visible = (p for p in contained if not any(part.startswith(".") for part in p.relative_to(path).parts))
        return [DatasetFolder(_format_location(path, root), path, tuple(sorted(visible)))]
    if path.is_file():
        return [LocalFile(_format_location(path, root), path)]
    folder, paths = _match_pattern(Path(location).expanduser(), root) if glob.has_magic(location) else (path, [])
    if paths:
        return [LocalFile(_format_location(p, root), p, folder) for p in paths]
    hint = "it is a folder; name the files in it, as in `folder/*.html`" if path.is_dir() else "check the path"
    raise SourceError(f"Source {source.name}: no file matches {location}, looked for in {root}; {hint}.")


def _match_pattern(pattern: Path, root: Path) -> tuple[Path, list[Path]]:
    """Return the folder before a pattern's first wildcard, and the files in it that match, sorted.

    A name that begins with a dot is only matched by a dot. `**` enters no link to a folder. One that leads out of the
    folder is returned as if it were a file, so that reading reports it.
    """
    parts = [part if part == "**" else re.sub(r"\*+", "*", part) for part in pattern.parts]
    fixed = list(takewhile(lambda part: not glob.has_magic(part), parts[:-1]))
    folder, rest = root.joinpath(*fixed), parts[len(fixed) :]  # the root may contain `[`
    if rest[-1] == "**":
        rest.append("*")
    found = set(folder.glob("/".join(rest)))  # `**/**` repeats files
    modes = {path: get_mode(path) for path in found}
    paths = {path for path, mode in modes.items() if S_ISREG(mode) or not mode}  # a broken link is reported
    if "**" in rest:
        links = (path for path in folder.glob("/".join((*rest[: rest.index("**")], "**/*"))) if path.is_symlink())
        paths |= {link for link in links if S_ISDIR(get_mode(link)) and leads_out(link, folder)}
    if not any(part.startswith(".") for part in rest):
        paths = {p for p in paths if not any(part.startswith(".") for part in p.relative_to(folder).parts)}
    return folder, sorted(paths)


def _format_location(path: Path, root: Path) -> str:
    return make_printable(Path(os.path.relpath(path, root)).as_posix())


def hash_content(config: Collect, interval: str, database: str = "") -> str:
    """Return 16 hex digits over the content of all file sources and of feedback.

    Local files count by their SHA-256, remote ones by their server's tag, and libraries by their version. Databases are
    not read: the rows of a past interval are assumed not to change. Feedback is read from the database at the given
    URL, which also caches the hashes.
    """
    with cached_hashing(database) as sha256:
        return hash_versions(
            (
                source,
                [(documents.LOCATION, documents.read_version(database, interval))]
                if source.kind == "feedback"
                else [(f.location, f.get_version(sha256)) for f in find_source_files(source, config.root, interval)],
            )
            for source in config.sources
            if source.kind != "sql"
        )


def hash_versions(sources: Iterable[tuple[Source, Iterable[tuple[str, str]]]]) -> str:
    """Return 16 hex digits over sources, each with the locations and versions of its files."""
    parts: list[str] = []
    for source, files in sources:
        parts += [list_versions(source.kind), *(part for file in files for part in file)]
    return make_content_id(*parts)

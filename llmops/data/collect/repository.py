"""The repository: the documents of every interval as Parquet in a folder, S3 or Azure Blob, for other users.

    {repository}/documents/interval=2026-01-31/documents.parquet

Spark, DuckDB and pyarrow read the folder as a table partitioned by interval. Nobody sees a part of a file: in a folder
it is renamed when it is whole and checked, and an object store shows an object when all of it has arrived.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmops.data.remote import Address, connect, is_remote, make_local_address
from llmops.frame.artifacts import compute_sha256
from llmops.frame.errors import LlmopsError, SourceError, TransientError

log = logging.getLogger(__name__)

FILE = "documents.parquet"
PARTIAL = f".{FILE}.partial"  #: an unfinished upload into a folder


class RepositoryError(LlmopsError):
    """The repository refuses an upload, or is of an earlier version."""


class RepositoryUnavailableError(RepositoryError, TransientError):
    """The repository cannot be reached, or an uploaded file is not as it was sent."""


def upload_documents(
    documents: Path, repository: str, interval: str, environ: Mapping[str, str] = os.environ
) -> Mapping[str, Any]:
    """Replace the repository's file of `interval` by the file `documents`, unless it has the same content.

    Returns:
        The file's `bytes`, and whether it was `sent` now.

    Raises:
        RepositoryError: naming the address and the store's message.
    """
    try:
        folder = _open_interval(repository, interval, environ)
        try:
            sent = _replace_file(documents, folder)
        except OSError as error:
            raise RepositoryUnavailableError(f"Repository {folder.location}: {error}") from None
    except SourceError as error:
        kind = RepositoryUnavailableError if isinstance(error, TransientError) else RepositoryError
        raise kind(f"Repository: {error}") from None
    log.info("repository: %s %s", folder.location, "was sent" if sent else "is there already")
    return {"bytes": documents.stat().st_size, "sent": sent}


def list_intervals(repository: str, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the intervals of the repository. Raises SourceError if it cannot be reached."""
    names = _list_names(_connect(f"{repository.rstrip('/')}/documents", environ))
    return sorted(name.removeprefix("interval=") for name in names if name.startswith("interval="))


def fetch_documents(
    repository: str, interval: str, folder: Path, environ: Mapping[str, str] = os.environ
) -> Path | None:
    """Return the path of an interval's file, or None if there is none. One of an object store is copied to `folder`.

    Raises:
        SourceError: if the repository cannot be reached.
        RepositoryError: if an earlier version wrote the interval.
    """
    address = _open_interval(repository, interval, environ)
    if FILE not in _list_names(address):
        return None
    if not is_remote(repository):
        return Path(address.path) / FILE
    copy = folder / FILE
    address.retry(lambda: address.filesystem.get_file(f"{address.path}/{FILE}", str(copy)))
    return copy


def delete_unfinished(repository: str) -> None:
    """Delete what killed uploads left in a repository that is a folder."""
    for path in Path(repository).glob(f"documents/*/{PARTIAL}") if not is_remote(repository) else ():
        path.unlink()


def _open_interval(repository: str, interval: str, environ: Mapping[str, str]) -> Address:
    address = _connect(f"{repository.rstrip('/')}/documents/interval={interval}", environ)
    if any("part-" in name for name in _list_names(address)):
        raise RepositoryError(
            f"{address.location} holds documents in parts, as an earlier version wrote them. Delete it; to have the "
            "interval there again, delete its artifact of collect and run collect."
        )
    return address


def _replace_file(documents: Path, folder: Address) -> bool:
    if _has_content(folder, FILE, documents):
        return False
    files, is_folder = folder.filesystem, not is_remote(folder.location)
    name = PARTIAL if is_folder else FILE
    target = f"{folder.path}/{name}"
    if is_folder:
        Path(folder.path).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(documents, target)
    else:
        folder.retry(lambda: files.put_file(str(documents), target))
    if not _has_content(folder, name, documents):
        folder.retry(lambda: files.rm_file(target))
        raise RepositoryUnavailableError(
            f"{folder.location}/{FILE} is not what was sent; run again, and look at the store's logs."
        )
    if is_folder:
        with Path(target).open("rb") as file:
            os.fsync(file.fileno())
        Path(target).replace(f"{folder.path}/{FILE}")
    return True


def _has_content(folder: Address, name: str, documents: Path) -> bool:
    """Return True if a file of the folder has the content of `documents`, by size and SHA-256."""
    path = f"{folder.path}/{name}"

    def hash_stored() -> str:
        with folder.filesystem.open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    try:
        info = folder.retry(lambda: folder.filesystem.info(path))
        return bool(info["size"] == documents.stat().st_size and folder.retry(hash_stored) == compute_sha256(documents))
    except FileNotFoundError:
        return False


def _list_names(folder: Address) -> set[str]:
    try:
        paths = folder.retry(lambda: folder.filesystem.ls(folder.path, detail=False))
    except FileNotFoundError:
        return set()
    return {path.rstrip("/").rpartition("/")[2] for path in paths}


def _connect(location: str, environ: Mapping[str, str]) -> Address:
    return connect(location, environ) if is_remote(location) else make_local_address(location)

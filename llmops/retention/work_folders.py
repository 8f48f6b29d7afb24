"""Work folders at `clean.work` that killed cleanings left: on a disk that hosts share, or in an object store.

A cleaning removes its own at its end, and at its start what an earlier try of the same left. One that is killed and
never repeated leaves it for good. It is told by its name, a fingerprint; whatever else lies there is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llmops.config import Config
from llmops.data.clean.work import Work

_NAME = re.compile(r"[0-9a-f]{16}")  #: as `artifacts.fingerprint` gives it
_TIMES = ("mtime", "LastModified", "last_modified")  #: how a folder, S3 and Azure Blob call it


@dataclass(frozen=True, slots=True)
class WorkFolder:
    """The work files of one cleaning."""

    work: Work
    size: int  #: bytes
    modified: float  #: when any of them was written last, in seconds since the epoch


def work_folders(config: Config) -> Iterator[WorkFolder]:
    """What lies at `clean.work`, by name.

    Raises:
        SourceError: if an object store refuses, or cannot be reached.
    """
    if not config.clean.work:
        return
    place = Work.at(config.clean.work.rstrip("/"), config.clean.connection)
    where = place.address()
    root = where.path.rstrip("/")
    found: dict[str, list[dict[str, Any]]] = {}
    try:
        files_there = where.ask(lambda: where.filesystem.find(root, detail=True))
    except FileNotFoundError:
        return
    for path, file in files_there.items():
        name, _, rest = path.removeprefix(root).lstrip("/").partition("/")
        if rest and _NAME.fullmatch(name):
            found.setdefault(name, []).append(file)
    for name, files in sorted(found.items()):
        written = max(_written(file) for file in files)
        size = sum(file["size"] or 0 for file in files)
        yield WorkFolder(Work(f"{place.location}/{name}", place.sent), size, written)


def _written(file: dict[str, Any]) -> float:
    moment = next(file[name] for name in _TIMES if file.get(name))
    return moment.timestamp() if isinstance(moment, datetime) else float(moment)

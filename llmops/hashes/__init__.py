"""SHA-256 of files that rarely change, each hashed once: a file of the home remembers them.

A file is taken to be as it was if its size, times and inode are. Nobody can set the time of the last change of these
(`ctime`), so also a file whose time of writing was put back is hashed anew. A file that was written just now may be
written again within the same tick of the clock, so its hash is not remembered yet.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmops.artifacts import file_sha256, write_json
from llmops.records import content_id

#: A file that was written so few nanoseconds ago may be written again without a change of its times.
_FRESH_NS = 2 * 10**9

_unwritten: dict[Path, dict[str, list[Any]]] = {}  #: what a memory that cannot be written would remember


@contextmanager
def remembered(memory: Path, hashed: Callable[[Path], str] | None = None) -> Iterator[Callable[[Path], str]]:
    """Gives a function from a file to the SHA-256 of its content, in hex; it raises an OSError for what it cannot read.

    Args:
        memory: the file that remembers; it may be deleted at any time. It does not tell the files' names. Of two runs
            that write it at the same time, one hashes again another day.
        hashed: what hashes a file that is not remembered.
    """
    known, fresh = {**_read(memory), **_unwritten.get(memory, {})}, dict[str, list[Any]]()

    def sha256(file: Path) -> str:
        name, state, begun = content_id(str(file.absolute())), _state(file), time.time_ns()
        *before, digest = fresh.get(name) or known.get(name) or [""]
        if before != state:
            digest = (hashed or file_sha256)(file)
            if _state(file) == state and begun - max(state[:2]) > _FRESH_NS:
                fresh[name] = [*state, digest]
        return str(digest)

    yield sha256
    if fresh:
        try:
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_json(memory, {**_read(memory), **fresh})
        except OSError:  # whoever may only read the home can ask for its state, too
            _unwritten.setdefault(memory, {}).update(fresh)


def forget(memory: Path) -> None:
    """Hash every file anew from now on."""
    memory.unlink(missing_ok=True)
    _unwritten.pop(memory, None)


def _state(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino, stat.st_dev]


def _read(memory: Path) -> Mapping[str, list[Any]]:
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or damaged: everything is hashed again
        return {}
    return known if isinstance(known, dict) else {}

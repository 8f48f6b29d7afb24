"""What files take on the disk: blocks, not lengths, and a file with several hard links once."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.config import Config
from llmops.doctor import nearest

Inode = tuple[int, int]  #: device, number

BLOCK = 512  #: bytes, as `st_blocks` counts


@dataclass(frozen=True, slots=True)
class File:
    """One name of a file."""

    inode: Inode
    size: int  #: bytes that it takes on the disk
    links: int  #: names that it has in all
    modified: float  #: seconds since the epoch


def files(path: Path) -> Iterator[File]:
    """The files of a folder and below, or the file itself; what is removed meanwhile is left out."""
    queue = [str(path)]
    while queue:
        try:
            here = queue.pop()
            found = os.lstat(here)
            if os.path.isdir(here) and not os.path.islink(here):
                queue += [entry.path for entry in os.scandir(here)]
            else:
                yield File((found.st_dev, found.st_ino), found.st_blocks * BLOCK, found.st_nlink, found.st_mtime)
        except FileNotFoundError:
            continue


def size(found: Iterable[File]) -> int:
    """Bytes that these take, each file once."""
    return sum({file.inode: file.size for file in found}.values())


def freed(found: Iterable[File]) -> int:
    """Bytes that are free again when these names are removed: of the files that have no other name."""
    found = list(found)
    names = Counter(file.inode for file in found)
    return size(file for file in found if names[file.inode] >= file.links)


def usage(config: Config) -> dict[str, Any]:
    """Bytes by kind: `artifacts` by stage, `registry`, `extracts`, `online_store`, `logs`, `events`, `other`, `total`;
    and `free`, of the disk that the home is on.

    A file with names in several of them, as a version's weights, counts for the first.
    """
    seen: set[Inode] = set()

    def take(path: Path) -> int:
        new = {file.inode: file.size for file in files(path) if file.inode not in seen}
        seen.update(new)
        return sum(new.values())

    stages = [path for path in sorted(config.artifacts.glob("*")) if path.is_dir()]
    found: dict[str, Any] = {"artifacts": {path.name: take(path) for path in stages}}
    places = {"registry": config.registry, "extracts": config.collect.cache, "online_store": config.features.store}
    places |= {"logs": config.home / "logs", "events": config.events, "other": config.home}
    found |= {name: take(path) for name, path in places.items()}
    total = sum(found["artifacts"].values()) + sum(found[name] for name in places)
    return found | {"total": total, "free": free(config)}


def free(config: Config) -> int:
    """Bytes that are free on the disk that the home is on."""
    return shutil.disk_usage(nearest(config.home)).free

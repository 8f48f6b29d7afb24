"""Sizes on the disk. The size of a file with several hard links, such as a version's weights, is divided by them."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmops.config import Config
from llmops.frame.doctor import nearest

BLOCK = 512  #: bytes, as `st_blocks` counts


def list_files(path: Path) -> Iterator[os.stat_result]:
    """Yield the files of a folder and below, or the file itself. Files that are removed meanwhile are left out."""
    queue = [str(path)]
    while queue:
        try:
            here = queue.pop()
            if os.path.isdir(here) and not os.path.islink(here):  # noqa: PTH112, PTH114 - strings, for speed
                queue += [entry.path for entry in os.scandir(here)]
            else:
                yield os.lstat(here)
        except FileNotFoundError:
            continue


def measure(path: Path) -> int:
    """Return the bytes that a file or folder takes on the disk."""
    return round(sum(found.st_blocks * BLOCK / found.st_nlink for found in list_files(path)))


def measure_usage(config: Config) -> dict[str, Any]:
    """Return the used bytes by name, and `free`, the free bytes of the home's disk.

    The names are `artifacts` (by stage), `registry`, `extracts`, `online_store`, `logs`, `events`, `other` (the rest of
    the home) and `total`.
    """
    stages = {path.name: measure(path) for path in sorted(config.artifacts.glob("*")) if path.is_dir()}
    places = {"registry": config.registry, "extracts": config.collect.cache, "online_store": config.features.store}
    places |= {"logs": config.home / "logs", "events": config.events}
    found = {name: measure(path) for name, path in places.items()}
    inside = sum(found[name] for name, path in places.items() if path.is_relative_to(config.home))
    if config.artifacts.is_relative_to(config.home):
        inside += sum(stages.values())
    found["other"] = max(0, measure(config.home) - inside)
    total = sum(stages.values()) + sum(found.values())
    return {"artifacts": stages, **found, "total": total, "free": get_free(config)}


def get_free(config: Config) -> int:
    """Return the bytes that are free on the disk that the home is on."""
    return shutil.disk_usage(nearest(config.home)).free

"""Sizes on the disk. The size of a file with several hard links, such as a version's weights, is divided by them."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmops.config import Config
from llmops.frame.doctor import find_existing_parent

BLOCK_BYTES = 512  #: bytes, as `st_blocks` counts


def list_files(path: Path) -> Iterator[os.stat_result]:
    """Yield the files of a folder and below, or the file itself. Files that are removed meanwhile are left out."""
    queue = [str(path)]
    while queue:
        try:
            current = queue.pop()
            if os.path.isdir(current) and not os.path.islink(current):  # noqa: PTH112, PTH114 - strings, for speed
                queue += [entry.path for entry in os.scandir(current)]
            else:
                yield os.lstat(current)
        except FileNotFoundError:
            continue


def measure_size(path: Path) -> int:
    """Return the bytes that a file or folder takes on the disk."""
    return round(sum(file.st_blocks * BLOCK_BYTES / file.st_nlink for file in list_files(path)))


def measure_usage(config: Config) -> dict[str, Any]:
    """Return the used bytes by name, and `free`, the free bytes of the home's disk.

    The names are `artifacts` (by stage), `registry`, `extracts`, `online_store`, `logs`, `events`, `other` (the rest of
    the home) and `total`.
    """
    stages = {path.name: measure_size(path) for path in sorted(config.artifacts.glob("*")) if path.is_dir()}
    paths = {"registry": config.registry, "extracts": config.collect.cache, "online_store": config.features.store}
    paths |= {"logs": config.home / "logs", "events": config.events}
    sizes = {name: measure_size(path) for name, path in paths.items()}
    inside = sum(sizes[name] for name, path in paths.items() if path.is_relative_to(config.home))
    if config.artifacts.is_relative_to(config.home):
        inside += sum(stages.values())
    sizes["other"] = max(0, measure_size(config.home) - inside)
    total = sum(stages.values()) + sum(sizes.values())
    return {"artifacts": stages, **sizes, "total": total, "free": get_free_bytes(config)}


def get_free_bytes(config: Config) -> int:
    """Return the bytes that are free on the disk that the home is on."""
    return shutil.disk_usage(find_existing_parent(config.home)).free

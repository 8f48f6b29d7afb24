"""Whether workers on other hosts can reach the work files, as far as can be told before Spark starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from llmops.config import Clean
from llmops.data.credentials import environment
from llmops.data.remote import Address, connect, is_remote
from llmops.doctor import Check, nearest
from llmops.errors import LlmopsError

#: File systems that one host alone has, unless it exports them.
OWN = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "tmpfs", "apfs", "hfs")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def check_place(config: Clean) -> Iterator[Check]:
    """Look at `clean.work`, for a master that is not local. A store is asked; nothing is written."""
    name, remedy = "clean.work", "name a folder that all hosts share, or a place in an object store"
    if config.master.startswith("local"):
        return
    if not config.work:
        yield Check(name, False, f"{config.master} does not see this disk, and no place is named", remedy)
    elif is_remote(config.work):
        try:
            where = connect(config.work, environment(config.connection))
            bucket = where.path.lstrip("/").partition("/")[0]
            there = where.ask(lambda: where.filesystem.exists(where.path)) or _has(bucket, where)
            told = "answers" if there else f"has no bucket or container {bucket}"
            yield Check(name, there, f"{config.work} {told}", "make it, or name one that there is")
        except LlmopsError as error:
            yield Check(name, False, str(error), "look at the address of the store, and at the credentials")
    else:
        folder = nearest(Path(config.work).expanduser())
        kind, host = filesystem(folder), urlsplit(config.master.removeprefix("k8s://")).hostname
        shared = kind not in OWN or host in _LOOPBACK
        told = f"{config.work} is in {folder}, on {kind}"
        if not os.access(folder, os.W_OK):
            yield Check(name, False, f"{told}, which may not be written to", remedy)
        else:
            yield Check(name, shared, told if shared else f"{told}, which this host alone has", remedy)


def _has(bucket: str, where: Address) -> bool:
    """Whether a store has a bucket or container; asked by nothing that a cleaning does not need to be allowed to."""
    if not where.shown.startswith("s3:"):
        return bool(where.ask(lambda: where.filesystem.exists(bucket)))
    try:  # s3fs takes a bucket that it may not look at as a whole for none
        where.ask(lambda: where.filesystem.find(f"{where.path}/probe"))
    except FileNotFoundError:
        return False
    return True


def filesystem(folder: Path) -> str:
    """The kind of file system that a folder is on."""
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    return next((mounts[here] for here in (folder, *folder.parents) if here in mounts), "an unknown file system")

"""A check, before Spark starts, that workers on other hosts can reach the work files."""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from llmops.config import Clean
from llmops.data.credentials import environment
from llmops.data.remote import Address, connect, is_remote
from llmops.frame.doctor import Check, nearest
from llmops.frame.errors import LlmopsError

#: File systems that belong to one host, unless it exports them.
OWN = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "tmpfs", "apfs", "hfs")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def check_place(config: Clean) -> Iterator[Check]:
    """Yield a check of `clean.work` if Spark's master is not local. A store is asked; nothing is written."""
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
    """Return whether a store has a bucket or container. The question needs no right that cleaning does not need."""
    if not where.shown.startswith("s3:"):
        return bool(where.ask(lambda: where.filesystem.exists(bucket)))
    try:  # s3fs reports a bucket that it may not list as missing
        where.ask(lambda: where.filesystem.find(f"{where.path}/probe"))
    except FileNotFoundError:
        return False
    return True


def filesystem(folder: Path) -> str:
    """Return the type of the file system that holds a folder, such as `nfs4`."""
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    return next((mounts[here] for here in (folder, *folder.parents) if here in mounts), "an unknown file system")

"""Check, before Spark starts, that workers on other hosts can reach the location of the work files."""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from llmops.config import Clean
from llmops.data.credentials import read_environment
from llmops.data.remote import Address, connect, is_remote
from llmops.frame.doctor import Check, find_existing_parent
from llmops.frame.errors import LlmopsError

#: File systems that belong to one host, unless it exports them.
LOCAL_FILE_SYSTEMS = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "tmpfs", "apfs", "hfs")
_LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")


def check_work_location(config: Clean) -> Iterator[Check]:
    """Yield a check of `clean.work`; nothing for a local master of Spark.

    An object store gets requests that read. Nothing is written.
    """
    name, remedy = "clean.work", "name a folder that all hosts share, or a place in an object store"
    if config.master.startswith("local"):
        return
    if not config.work:
        yield Check(name, False, f"{config.master} does not see this disk, and no place is named", remedy)
    elif is_remote(config.work):
        try:
            address = connect(config.work, read_environment(config.connection))
            bucket = address.path.lstrip("/").partition("/")[0]
            exists = address.retry(lambda: address.filesystem.exists(address.path)) or _has_bucket(bucket, address)
            description = "answers" if exists else f"has no bucket or container {bucket}"
            yield Check(name, exists, f"{config.work} {description}", "create it, or name one that exists")
        except LlmopsError as error:
            yield Check(name, False, str(error), "look at the address of the store, and at the credentials")
    else:
        folder = find_existing_parent(Path(config.work).expanduser())
        kind, host = find_file_system_type(folder), urlsplit(config.master.removeprefix("k8s://")).hostname
        shared = kind not in LOCAL_FILE_SYSTEMS or host in _LOOPBACK_HOSTS
        description = f"{config.work} is in {folder}, on {kind}"
        if not os.access(folder, os.W_OK):
            yield Check(name, False, f"{description}, which may not be written to", remedy)
        else:
            yield Check(
                name, shared, description if shared else f"{description}, which other hosts usually do not see", remedy
            )


def _has_bucket(bucket: str, address: Address) -> bool:
    """Return True if a store has a bucket or container. The request needs only rights that cleaning needs, too."""
    if not address.location.startswith("s3:"):
        return bool(address.retry(lambda: address.filesystem.exists(bucket)))
    try:  # s3fs reports a bucket that it may not list as missing
        address.retry(lambda: address.filesystem.find(f"{address.path}/probe"))
    except FileNotFoundError:
        return False
    return True


def find_file_system_type(folder: Path) -> str:
    """Return the type of the file system that holds a folder, such as `nfs4`."""
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    return next((mounts[here] for here in (folder, *folder.parents) if here in mounts), "an unknown file system")

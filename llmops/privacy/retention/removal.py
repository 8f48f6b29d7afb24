"""Remove data so that a kill at any moment leaves nothing half done: a folder is renamed to trash, then deleted.

    artifacts/train/0a1b/        the folder to remove; its record is written into it as `gone.json`
    artifacts/train/.0a1b.gone/  the folder as trash; `finish` moves `gone.json` back and deletes the rest

`finish` completes the removals of a killed process. The rows of a features artifact are also deleted from the online
store, unless another artifact has them too: an erasure finds a person's rows there by the artifacts.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from llmops.config import Config
from llmops.data.features.declarations import PARQUET, SETTINGS
from llmops.frame import artifacts
from llmops.frame.artifacts import REMOVED_RECORD, write_atomically, write_json
from llmops.frame.errors import HomeInUse
from llmops.pipeline.pipeline import STAGES

_TEMPORARY_NAME = re.compile(r"\..+\.(?:\d+|new|partial)")


@contextmanager
def lock_home(config: Config) -> Iterator[None]:
    """Lock the home exclusively. Stages that begin meanwhile wait.

    Raises:
        HomeInUse: if a stage is running, or another process has the lock.
    """
    try:
        with artifacts.hold_lock(config.artifacts, wait=False):
            yield
    except BlockingIOError:
        raise HomeInUse(
            f"A stage, an erasure or `llmops gc` is running in {config.home}, and this needs the home for itself. Wait "
            "until it is done, and run this again."
        ) from None


def remove(path: Path, when: str, receipt: int = 0) -> None:
    """Rename the folder of an artifact to trash. If the artifact is finished, `finish` restores its record.

    The record gets the time `when` (ISO, UTC) and, in an erasure, the number of its receipt.
    """
    if artifacts.is_done(path) or artifacts.is_removed(path):
        record = artifacts.read_record(path)
        kept = replace(record, removed=record.removed or when, receipt=receipt or record.receipt)
        write_json(path / REMOVED_RECORD, asdict(kept))
    path.rename(get_trash_path(path))


def get_trash_path(path: Path) -> Path:
    """Return the path of a folder once it is trash."""
    return path.with_name(f".{path.name}.gone")


def finish(config: Config) -> None:
    """Delete all trash, and restore the records. The home must be locked."""
    for old in find_trash(config):
        path = old.with_name(old.name[1 : -len(".gone")])
        if (old / REMOVED_RECORD).is_file() and not any(path.glob("[!.]*")):  # no run has begun the artifact again
            path.mkdir(exist_ok=True)
            write_atomically(path / REMOVED_RECORD, (old / REMOVED_RECORD).read_bytes())
        if all((old / name).is_file() for name in (PARQUET, SETTINGS)):  # features that were declared to Feast
            from llmops.data.features.online import forget_features

            others = [path for path in old.parent.glob("[!.]*") if artifacts.is_done(path)]
            forget_features(config.features, old, others)
            (old / PARQUET).unlink()  # first, so that an interrupted `finish` does not do this twice
        shutil.rmtree(old)


def find_unfinished(config: Config) -> list[Path]:
    """Return the artifacts that interrupted runs have begun. Folders with nothing but a record are left out."""
    begun = [path for stage in STAGES for path in sorted((config.artifacts / stage).glob("[!.]*")) if path.is_dir()]
    return [
        path for path in begun if not artifacts.is_done(path) and {p.name for p in path.iterdir()} != {REMOVED_RECORD}
    ]


def find_leftovers(config: Config) -> list[Path]:
    """Return the temporary files of killed writers beside artifacts, extracts and versions."""
    roots = (config.artifacts, config.collect.cache, config.registry)
    temporary = [path for root in roots for path in sorted(root.rglob(".*")) if _TEMPORARY_NAME.fullmatch(path.name)]
    return [*temporary, *sorted(config.collect.cache.glob("downloads/*")), *sorted(config.home.glob(".erasure-*"))]


def find_trash(config: Config) -> list[Path]:
    """Return the trash that is not deleted yet, features last because the online store may not answer."""
    found = [*config.artifacts.glob("*/.*.gone"), *config.registry.glob("*/versions/.*.gone")]
    return sorted(found, key=lambda path: (path.parent.name == "features", path))

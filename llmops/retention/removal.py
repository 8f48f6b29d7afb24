"""How data is removed, so that a kill at any moment leaves nothing half: a folder is renamed to trash, then deleted.

    artifacts/train/0a1b/        becomes trash by one renaming, and has its record, as `gone.json`, from then on
    artifacts/train/.0a1b.gone/  the trash

`finish` does what a kill has left to be done. Of a features artifact the rows leave the online store, too, unless
another one has put them there as well: an erasure finds a person's rows there by the artifacts.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from llmops import artifacts
from llmops.artifacts import GONE, write_json
from llmops.config import Config
from llmops.errors import HomeInUse
from llmops.features.declarations import PARQUET, SETTINGS


@contextmanager
def alone(config: Config) -> Iterator[None]:
    """Keep all stages out of the home; they wait.

    Raises:
        HomeInUse: if one is running, or somebody else wants to be alone.
    """
    try:
        with artifacts.locked(config.artifacts, wait=False):
            yield
    except BlockingIOError:
        raise HomeInUse(
            f"A stage, an erasure or `llmops gc` is running in {config.home}, and this has to be there alone. Wait "
            "until it is done, and run this again."
        ) from None


def remove(path: Path, when: str, receipt: int = 0) -> None:
    """Make trash of an artifact's data, or of what was begun of one. The record of one that was finished stays.

    Args:
        path: its folder.
        when: ISO time, UTC, for the record.
        receipt: number of an erasure's, if it is one.
    """
    os.rename(path, trash(path))
    _keep_record(trash(path), when, receipt)


def trash(path: Path) -> Path:
    """What a folder is called once it is trash."""
    return path.with_name(f".{path.name}.gone")


def finish(config: Config) -> None:
    """Delete all trash, and give the records of what became trash their place. Nobody else may be at work."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for old in found_trash(config):
        _keep_record(old, now)
        if all((old / name).is_file() for name in (PARQUET, SETTINGS)):  # of features, and Feast knew of it
            from llmops.features.online import forget_features

            others = [path for path in old.parent.glob("[!.]*") if artifacts.is_done(path)]
            forget_features(config.features, old, others)
            (old / PARQUET).unlink()  # what is asked for above goes first: without it, there is nothing left to do
        shutil.rmtree(old)


def _keep_record(old: Path, when: str, receipt: int = 0) -> None:
    """Put the record of an artifact that has become trash in its place, unless it is there."""
    path = old.with_name(old.name[1 : -len(".gone")])
    known = artifacts.is_done(old) or artifacts.is_gone(old)
    if known and not (artifacts.is_done(path) or artifacts.is_gone(path)):
        record = artifacts.read_record(old)
        path.mkdir(exist_ok=True)
        write_json(
            path / GONE, asdict(replace(record, removed=record.removed or when, receipt=receipt or record.receipt))
        )


def found_trash(config: Config) -> list[Path]:
    """What is trash and not deleted yet; features last, since the online store may not answer."""
    found = [*config.artifacts.glob("*/.*.gone"), *config.registry.glob("*/versions/.*.gone")]
    return sorted(found, key=lambda path: (path.parent.name == "features", path))

"""The indexes of documents that are published beside a model's versions, and which of them is served.

    {root}/{name}/indexes/{fingerprint}/    what the artifact of `index` holds, its record included

Its folder is hard links, or copies across disks, and appears whole. Which one is served is a row of the database.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa

from llmops import artifacts
from llmops.artifacts import locked
from llmops.errors import ArtifactError
from llmops.registry.registry import Registry
from llmops.registry.version import build_partial
from llmops.state import audit
from llmops.state.tables import served_indexes as table

log = logging.getLogger(__name__)


def folder_of(registry: Registry) -> Path:
    """Where the published indexes of a model are."""
    return registry.folder / "indexes"


def serve_index(
    registry: Registry,
    artifact: Path,
    interval: str,
    *,
    by: str,
    prepare: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Publish the index of a finished artifact, and make it the served one, unless that is of a later interval.

    One without passages is not published: from then on there is nothing to be found.

    Args:
        registry: of the model.
        artifact: of `index`.
        interval: that the run is of, as an ISO date.
        by: for the audit.
        prepare: what has to be done with the published folder before it may be served; if it raises, what was served
            before stays.

    Raises:
        ArtifactError: if the artifact is damaged.
    """
    index = artifact.name if _has_passages(artifact) else ""
    with locked(registry.folder / "registry"):
        if _served(registry)[1] > interval:
            return
        if index and not _is_whole(folder_of(registry) / index):
            _publish(artifact, folder_of(registry) / index)
        if index:
            prepare(folder_of(registry) / index)
        with registry.changing() as connection:
            row = connection.execute(sa.select(table).where(table.c.model == registry.name)).first()
            if row and row.interval > interval:
                return
            connection.execute(sa.delete(table).where(table.c.model == registry.name))
            new = {"model": registry.name, "fingerprint": index, "interval": interval}
            since = row.since if row and row.fingerprint == index else audit.now()
            connection.execute(sa.insert(table).values(new | {"since": since}))
            if (row.fingerprint if row else "") != index:
                audit.note(connection, "serve_index", by=by, target=index, fields={"model": registry.name})
                log.info("%s: the index %s is served", registry.name, index or "is empty, and none")


def _has_passages(artifact: Path) -> bool:
    """Whether there is something to be found: an erasure may have left nothing of what was made."""
    record = artifacts.read_record(artifact)
    return bool(record.metrics.get("passages", 0) > sum(one.get("rows", 0) for one in record.erasures))


def served_index(registry: Registry) -> Path | None:
    """The folder of the index that is served; None: there is none."""
    index = _served(registry)[0]
    return folder_of(registry) / index if index else None


def published(registry: Registry) -> list[Path]:
    """The folders of all published indexes."""
    return sorted(path for path in folder_of(registry).glob("[!.]*") if artifacts.is_done(path))


def is_decided(registry: Registry) -> bool:
    """Whether it is known what is served, were it nothing."""
    return bool(_served(registry)[1])


def unserved(registry: Registry) -> list[Path]:
    """Those that are served no more; none if nobody has decided yet which one is."""
    index, _ = _served(registry)
    return [path for path in published(registry) if is_decided(registry) and path.name != index]


def _served(registry: Registry) -> tuple[str, str]:
    """Fingerprint and interval of what is served; both are empty before anything is."""
    if registry.database.absent:
        return "", ""
    with registry.database.read() as connection:
        row = connection.execute(sa.select(table).where(table.c.model == registry.name)).first()
    return (row.fingerprint, row.interval) if row else ("", "")


def _is_whole(path: Path) -> bool:
    with suppress(ArtifactError, OSError):
        return artifacts.is_done(path) and not artifacts.verify(path)
    return False


def _publish(artifact: Path, path: Path) -> None:
    artifacts.check_whole(artifact)
    trees = {part.name: part for part in artifact.iterdir() if not part.name.startswith(".")}
    partial = build_partial(path, {name: part for name, part in trees.items() if name != artifacts.GONE}, {})
    if path.exists():  # damaged
        gone = path.with_name(f".{path.name}.gone")  # as trash: who is killed here leaves it to `llmops gc`
        shutil.rmtree(gone, ignore_errors=True)
        path.rename(gone)
        shutil.rmtree(gone)
    partial.rename(path)

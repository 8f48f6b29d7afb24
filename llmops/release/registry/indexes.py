"""The index of documents that is served beside a model's versions: `{root}/{name}/index/{fingerprint}/`.

The folder is that of a finished artifact of `index`, in hard links. There is one at most: a new one replaces it.
"""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from llmops.frame import artifacts
from llmops.release.registry.version import build_partial

OWNER = "elasticsearch"  #: file in a model's folder; other models and homes have other marks, so that none takes theirs


def find_served_index(model: Path) -> Path | None:
    """Return the folder of the served index; None: no documents are served.

    Args:
        model: folder of the model in the registry.
    """
    return next((path for path in sorted((model / "index").glob("[!.]*")) if artifacts.is_done(path)), None)


def is_served(model: Path, artifact: Path) -> bool:
    """Return True if `serve_index` would change nothing."""
    has_passages, served = _has_passages(artifact), find_served_index(model)
    if served is None:
        return not has_passages
    new, old = ((path / artifacts.RECORD).read_bytes() for path in (artifact, served))
    return has_passages and new == old  # a damaged index is made again under its name, with another record


def serve_index(model: Path, artifact: Path) -> None:
    """Make the index of a finished artifact the served one. An index without passages only removes the served one.

    The old index goes first: after a kill no index is served, not two. Its readers can go on, because the system keeps
    its files until they are closed.

    Args:
        model: folder of the model in the registry.
        artifact: of `index`.

    Raises:
        ArtifactError: if the artifact is not finished.
    """
    folder = model / "index"
    with artifacts.hold_lock(folder):
        if is_served(model, artifact):
            return
        new, files = folder / artifact.name, {path.name: path for path in artifact.iterdir()}
        partial = build_partial(new, files, {}) if _has_passages(artifact) else None
        for path in folder.glob("*"):
            if path != partial:
                shutil.rmtree(path)
        if partial:
            partial.rename(new)


def owner_of(model: Path) -> str:
    """Return the random mark of a model's indices in Elasticsearch; empty before its first. See `OWNER`."""
    return file.read_text(encoding="utf-8") if (file := model / OWNER).exists() else ""


def make_owner(model: Path) -> str:
    """Return `owner_of`, which is made if it is missing. One process at a time may call it."""
    if not owner_of(model):
        artifacts.write_atomically(model / OWNER, secrets.token_hex(8).encode())
    return owner_of(model)


def _has_passages(artifact: Path) -> bool:
    return bool(artifacts.read_record(artifact).metrics.get("passages"))

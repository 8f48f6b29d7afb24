"""The index of documents that is served beside a model's versions: `{root}/{name}/index/{fingerprint}/`.

The folder is that of a finished artifact of `index`, in hard links. There is one at most: a new one replaces it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from llmops import artifacts
from llmops.registry.version import build_partial


def served_index(model: Path) -> Path | None:
    """Return the folder of the served index; None: no documents are served.

    Args:
        model: folder of the model in the registry.
    """
    return next((path for path in sorted((model / "index").glob("[!.]*")) if artifacts.is_done(path)), None)


def is_served(model: Path, artifact: Path) -> bool:
    """Return whether the index of an artifact is the served one; an empty index is served as none."""
    served = served_index(model)
    return (served.name if served else "") == (artifact.name if _has_passages(artifact) else "")


def serve_index(model: Path, artifact: Path) -> None:
    """Make the index of a finished artifact the served one. An index without passages only takes away what is there.

    Whoever reads the index that was served before can go on: its files stay until they are closed.

    Args:
        model: folder of the model in the registry.
        artifact: of `index`.

    Raises:
        ArtifactError: if the artifact is not finished.
    """
    folder = model / "index"
    with artifacts.locked(folder):
        new = folder / artifact.name
        if _has_passages(artifact) and not artifacts.is_done(new):
            build_partial(new, {path.name: path for path in artifact.iterdir()}, {}).rename(new)
        for path in folder.glob("*"):
            if path != new or not _has_passages(artifact):
                shutil.rmtree(path)


def _has_passages(artifact: Path) -> bool:
    return bool(artifacts.read_record(artifact).metrics.get("passages"))

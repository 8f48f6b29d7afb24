"""The base model that was chosen, read from a select artifact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmops.artifacts import is_done, read_record
from llmops.errors import ArtifactError


def read_selection(select: Path) -> dict[str, Any]:
    """The content of a select artifact's `selection.json`."""
    selection: dict[str, Any] = json.loads((select / "selection.json").read_text(encoding="utf-8"))
    return selection


def base_path(select: Path) -> str:
    """Folder of the chosen base model, for `from_pretrained`."""
    return str(select / read_selection(select)["path"])


def newest(selections: Path) -> Path:
    """The select artifact that was finished last, for a person who asks; a stage is given its own.

    Args:
        selections: the folder of all select artifacts.

    Raises:
        ArtifactError: if there is none.
    """
    done = [path for path in selections.glob("*") if is_done(path)]
    if not done:
        raise ArtifactError(f"No base model was chosen yet in {selections}; run `llmops run select` first.")
    return max(done, key=lambda path: read_record(path).finished)

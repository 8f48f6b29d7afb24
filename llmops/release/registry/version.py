"""A version of the registry: its facts, and how its folder is read and built."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from llmops.frame.artifacts import REMOVED_RECORD, link_or_copy, write_atomically
from llmops.frame.errors import RegistryError


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One published model. All fields but `path` are in its `version.json`.

    The database is authoritative for `status`: the registry reads it from there.
    """

    name: str  #: v1, v2, …
    path: Path
    status: str  #: last decision of the gate: promoted | rejected | inconclusive; undecided: none yet
    compared_with: str  #: "base" or a version; empty if the comparison no longer counts and must be repeated
    compress: str  #: fingerprint of its compress artifact
    base_model: str
    base_revision: str
    licence: str
    quantisation: str
    interval: str  #: ISO date of the data interval
    run: str  #: the orchestrator's run id
    dataset: str  #: SHA-256 of the training split
    created: str  #: ISO time, UTC
    system_prompt: str = ""  #: in its chat template
    answer: str = ""  #: how it answered from documents in its test, as in `grounding.answer`; empty: without documents
    erasures: tuple[Mapping[str, Any], ...] = ()  #: of its training rows: time, examples, receipt

    @property
    def servable(self) -> Path:
        """Return the folder of the served model."""
        return self.path / "servable"

    @property
    def classifies(self) -> bool:
        """Return True if it is an encoder that gives texts a label."""
        return self.quantisation in ("f32", "int8")

    @property
    def removed_at(self) -> str:
        """Return when its model was removed, as ISO time in UTC; empty if it exists or the time is unknown."""
        if self.servable.is_dir():  # the removal was interrupted, or the model was restored
            return ""
        try:
            return str(json.loads((self.path / REMOVED_RECORD).read_text(encoding="utf-8"))["removed"])
        except FileNotFoundError:
            return ""


def read_version(path: Path) -> Version:
    """Read the version in a folder.

    Raises:
        RegistryError: if there is none, or it is damaged.
    """
    try:
        values = json.loads((path / "version.json").read_text(encoding="utf-8"))
        return Version(**{**values, "erasures": tuple(values.get("erasures", ()))}, path=path)
    except FileNotFoundError:
        raise RegistryError(f"{path} has no version.json: it is no version, or was damaged; remove it.") from None
    except (ValueError, TypeError) as error:
        raise RegistryError(f"{path / 'version.json'} is damaged: {error}.") from error


def build_partial(path: Path, trees: Mapping[str, Path], files: Mapping[str, str]) -> Path:
    """Build the folder of a version under a temporary name, and return it. The caller renames it.

    `path` is its final folder, which must not exist. `trees` are hard-linked, or copied across disks.
    """
    partial = path.with_name(f".{path.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    for name, source in trees.items():
        if source.is_dir():
            shutil.copytree(source, partial / name, copy_function=link_or_copy)
        else:
            link_or_copy(source, partial / name)
    for name, text in files.items():
        write_atomically(partial / name, text.encode())
    return partial


def restore_missing(path: Path, trees: Mapping[str, Path]) -> None:
    """Restore trees that were removed from a version's folder, each one atomically."""
    missing = {name: source for name, source in trees.items() if not (path / name).exists()}
    if missing:
        partial = build_partial(path, missing, {})
        for name in missing:
            (partial / name).rename(path / name)
        partial.rmdir()
    (path / REMOVED_RECORD).unlink(missing_ok=True)


def format_version(version: Version) -> str:
    """Return the content of `version.json`."""
    values = {f.name: getattr(version, f.name) for f in fields(version) if f.name != "path"}
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"

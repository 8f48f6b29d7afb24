"""One version of the registry: what is known of it, and how its folder is read and built."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from llmops.artifacts import GONE, link, write_whole
from llmops.errors import RegistryError


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One published model; all but `path` is the content of its `version.json`.

    What counts of `status` is what the database says: a version in the registry is read with that.
    """

    name: str  #: v1, v2, …
    path: Path
    status: str  #: what the gate decided last: promoted | rejected | inconclusive; undecided: nothing yet
    compared_with: str  #: "base" or a version; empty when the comparison no longer counts and must be made again
    compress: str  #: fingerprint of the compress artifact that it was made from
    base_model: str
    base_revision: str
    licence: str
    quantisation: str
    interval: str  #: ISO date of the data interval
    run: str  #: the orchestrator's run id
    dataset: str  #: SHA-256 of the training split
    created: str  #: ISO time, UTC
    erasures: tuple[Mapping[str, Any], ...] = ()  #: of rows it was trained on: time, examples, receipt

    @property
    def servable(self) -> Path:
        """Folder of the model that is served."""
        return self.path / "servable"

    @property
    def adapter(self) -> Path:
        """Folder of the LoRA adapter."""
        return self.path / "adapter"

    @property
    def removed(self) -> str:
        """When its model was removed, as ISO time in UTC; empty: it is there, or nobody knows."""
        if self.servable.is_dir():  # who was to remove it was killed, or it was put back
            return ""
        try:
            return str(json.loads((self.path / GONE).read_text(encoding="utf-8"))["removed"])
        except FileNotFoundError:
            return ""


def read_version(path: Path) -> Version:
    """The version in a folder.

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
    """Make what is to be the folder of a version; renamed to that, it is one. Returns where it is.

    Args:
        path: the folder that it is to be; must not exist.
        trees: folders and files that go into it under these names: hard links, or copies across disks.
        files: texts by file name.
    """
    partial = path.with_name(f".{path.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    for name, source in trees.items():
        if source.is_dir():
            shutil.copytree(source, partial / name, copy_function=link)
        else:
            link(source, partial / name)
    for name, text in files.items():
        write_whole(partial / name, text.encode())
    return partial


def add_missing(path: Path, trees: Mapping[str, Path]) -> None:
    """Put what somebody has removed from the folder of a version back, each tree whole or not at all."""
    gone = {name: source for name, source in trees.items() if not (path / name).exists()}
    if gone:
        partial = build_partial(path, gone, {})
        for name in gone:
            (partial / name).rename(path / name)
        partial.rmdir()
    (path / GONE).unlink(missing_ok=True)


def document(version: Version) -> str:
    """The content of `version.json`."""
    values = {f.name: getattr(version, f.name) for f in fields(version) if f.name != "path"}
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"

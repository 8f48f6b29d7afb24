"""SHA-256 of the files that a base model is loaded from, so that edited weights are another model.

Sixteen gigabytes take half a minute, so every file is hashed once and remembered.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from llmops.config import Select
from llmops.frame.artifacts import file_sha256
from llmops.frame.errors import ArtifactError
from llmops.frame.records import content_id, read_selection
from llmops.model.base.catalog import catalogue
from llmops.state.file_hashes import cached_hashing

#: files that a model is loaded from
FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt")


def hashes(found: Path, database: str) -> dict[str, str]:
    """Return file name → SHA-256 of a model's folder, or of the one file that holds it; the database remembers them.

    Raises:
        ArtifactError: if a file that the Hub names by its hash has another one, so that its download is damaged.
    """
    with cached_hashing(database, _checked) as sha256:
        return {file.name: sha256(file) for file in model_files(found)}


def content(config: Select, database: str) -> str:
    """Return a hash (16 hex digits) of the weights on this machine that `select` may take.

    These are the weights of the configured folder, or of the packages of the catalogue's models. The hash is empty for
    a Hub model, whose commit identifies it.

    Raises:
        ArtifactError: see `hashes`.
    """
    if config.model and Path(config.model).is_dir():
        found = [Path(config.model).absolute()]
    elif config.revision:
        return ""
    else:
        entries = [e for e in catalogue() if config.model in ("", e.model)]
        found = [path for e in entries if (path := e.packaged())]
    parts = [part for path in found for pair in sorted(hashes(path, database).items()) for part in pair]
    return content_id(*parts) if parts else ""


def check(select: Path, database: str) -> None:
    """Make sure that the base model that a select artifact names, where it lies outside, still is the one it took.

    Raises:
        ArtifactError: naming what changed.
    """
    selection = read_selection(select)
    taken: Mapping[str, str] = selection.get("weights", {})
    folder = select / str(selection["path"])
    if not taken or folder.is_relative_to(select):
        return
    there = hashes(folder, database)
    if changed := sorted({n for n in {*taken, *there} if taken.get(n) != there.get(n)}):
        raise ArtifactError(
            f"The base model in {folder} is not the one that was selected: {', '.join(changed)} changed since or is "
            "gone. Run `llmops run all`, which selects it as it is now; a Hub model has to be downloaded again."
        )


def model_files(found: Path) -> list[Path]:
    """Return the files of a model's folder that make it what it is: weights, configuration and tokenizer."""
    if not found.is_dir():
        return [found]
    patterns = FILES if any(found.glob("*.safetensors")) else (*FILES, "*.bin")
    return sorted({file for pattern in patterns for file in found.glob(pattern)})


def copy_model(found: Path, out: Path) -> None:
    """Copy a model's files into a new folder, without links: they may be a user's, or the Hub cache's."""
    out.mkdir()
    for file in (*model_files(found), *found.glob("*.gguf")):
        shutil.copyfile(file, out / file.name)


def _checked(file: Path) -> str:
    digest, blob = file_sha256(file), file.resolve().name
    if file.is_symlink() and len(blob) == 64 and blob != digest:  # the Hub's cache names large files so
        raise ArtifactError(f"{file} is damaged: its SHA-256 is not {blob}, as the Hub has it; download it again.")
    return digest

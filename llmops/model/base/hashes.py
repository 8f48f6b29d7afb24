"""SHA-256 of the files that a base model is loaded from, so that edited weights are another model.

Sixteen gigabytes take half a minute, so every file is hashed once and remembered.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from llmops.config import Select
from llmops.data.retrieval import minilm
from llmops.frame.artifacts import compute_sha256
from llmops.frame.errors import ArtifactError
from llmops.frame.records import make_content_id, read_selection
from llmops.model.base.catalog import read_catalogue
from llmops.state.file_hashes import cached_hashing

#: files that a model is loaded from
MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt")


def hash_model_files(model: Path, database: str) -> dict[str, str]:
    """Return file name → SHA-256 of a model folder, or of a model file. The database caches the hashes.

    Raises:
        ArtifactError: if a file from the Hub does not have the hash in its name, because its download is damaged.
    """
    with cached_hashing(database, _hash_and_check) as sha256:
        return {file.name: sha256(file) for file in list_model_files(model)}


def hash_local_weights(config: Select, database: str) -> str:
    """Return a hash (16 hex digits) of the weights on this machine that `select` may take.

    These are the weights of the configured folders, or of the packages of the catalogue's models. The hash is empty for
    a Hub model, whose commit identifies it.

    Raises:
        ArtifactError: see `hash_model_files`.
    """
    if config.encoders:
        folders = [minilm.find_files() if name == minilm.MODEL_NAME else Path(name) for name in config.encoders]
        models = [folder.absolute() for folder in folders if folder.is_dir()]
    elif config.model and Path(config.model).is_dir():
        models = [Path(config.model).absolute()]
    elif config.revision:
        return ""
    else:
        entries = [e for e in read_catalogue() if config.model in ("", e.model)]
        models = [path for e in entries if (path := e.find_packaged_file())]
    parts = [part for path in models for pair in sorted(hash_model_files(path, database).items()) for part in pair]
    return make_content_id(*parts) if parts else ""


def check_base_unchanged(select: Path, database: str) -> None:
    """Make sure that the files of a selected base model have not changed. A base in the artifact cannot change.

    Raises:
        ArtifactError: naming the changed files.
    """
    selection = read_selection(select)
    selected_hashes: Mapping[str, str] = selection.get("weights", {})
    folder = select / str(selection["path"])
    if not selected_hashes or folder.is_relative_to(select):
        return
    current_hashes = hash_model_files(folder, database)
    if changed := sorted(
        {n for n in {*selected_hashes, *current_hashes} if selected_hashes.get(n) != current_hashes.get(n)}
    ):
        raise ArtifactError(
            f"The base model in {folder} is not the one that was selected: {', '.join(changed)} changed since or is "
            "gone. Run `llmops run all`, which selects it as it is now; a Hub model has to be downloaded again."
        )


def list_model_files(model: Path) -> list[Path]:
    """Return the files that a model is loaded from: weights, configuration and tokenizer."""
    if not model.is_dir():
        return [model]
    patterns = MODEL_FILES if any(model.glob("*.safetensors")) else (*MODEL_FILES, "*.bin")
    return sorted({file for pattern in patterns for file in model.glob(pattern)})


def copy_model(model: Path, out: Path) -> None:
    """Copy a model's files into a new folder. No links: the files may be a user's, or the Hub cache's."""
    out.mkdir()
    for file in (*list_model_files(model), *model.glob("*.gguf")):
        shutil.copyfile(file, out / file.name)


def _hash_and_check(file: Path) -> str:
    digest, blob = compute_sha256(file), file.resolve().name
    if file.is_symlink() and len(blob) == 64 and blob != digest:  # the Hub's cache names large files so
        raise ArtifactError(f"{file} is damaged: its SHA-256 is not {blob}, as the Hub has it; download it again.")
    return digest

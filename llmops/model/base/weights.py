"""Where a base model's weights are: in a package, in the Hub's cache on this machine, or on the Hub."""

import json
import logging
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from llmops.config import Select
from llmops.data.retrieval import minilm
from llmops.frame.artifacts import link_or_copy
from llmops.frame.errors import ConfigError
from llmops.model.base.catalog import CatalogueEntry
from llmops.model.base.hashes import MODEL_FILES
from llmops.prompts.encoder import is_encoder
from llmops.scans.signed_urls import keep_queries_out_of_logs, remove_queries

log = logging.getLogger(__name__)

#: A second copy of the weights in the vendor's own format.
_DUPLICATE_WEIGHTS = ["consolidated*", "original/*"]


def find_cached(entry: CatalogueEntry, revision: str) -> Path | None:
    """Return the folder of a model in the Hub's cache of this machine; None if it lacks weights.

    Without a revision (commit, branch or tag) it is the main branch at the last download.
    """
    try:
        folder = Path(snapshot_download(entry.model, revision=revision or None, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    index, names = folder / "model.safetensors.index.json", {"model.safetensors"}
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    complete = all((folder / name).is_file() for name in {*names, "config.json", "tokenizer_config.json"})
    return folder if complete else None


def list_encoders(config: Select) -> tuple[str, ...]:
    """Return the encoders that the stage select chooses from; empty if a language model is trained."""
    return config.encoders or ((config.model,) if is_encoder(config.model) else ())


def find_encoder(name: str, revision: str, offline: bool) -> Path:
    """Return the folder of an encoder: a folder, `all-MiniLM-L6-v2` of its package, or a model of the Hub.

    Raises:
        ConfigError: if there is none, or it needs a download and `offline` is on.
    """
    if name == minilm.MODEL_NAME:
        return minilm.find_files()
    if Path(name).is_dir():
        folder = Path(name).absolute()
    else:
        try:
            folder = Path(snapshot_download(name, revision=revision or None, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            if offline:
                raise ConfigError(
                    f"select.encoders: {name} is no folder and not in the Hub's cache, and select.offline is on."
                ) from None
            folder = _download(name, revision)
    if not is_encoder(folder):
        raise ConfigError(f"select.encoders: {name} is no encoder that transformers can give a head to classify.")
    return folder


def download(entry: CatalogueEntry, revision: str) -> Path:
    """Download a model from the Hub into the cache, and return its folder, which is named by its commit."""
    return _download(entry.model, revision)


def _download(model: str, revision: str) -> Path:
    keep_queries_out_of_logs()
    log.info("downloading %s at %s from the Hub", model, revision or "its newest commit")
    try:
        folder = snapshot_download(
            model, revision=revision or None, allow_patterns=list(MODEL_FILES), ignore_patterns=_DUPLICATE_WEIGHTS
        )
    except HfHubHTTPError as error:
        error.args = (remove_queries(str(error)),)
        raise error from None  # what it was made from has the signed URL, too
    if not revision:
        log.warning("%s is not pinned; pin it with select.revision: %s", model, Path(folder).name)
    return Path(folder)


def save_copy(folder: Path, out: Path) -> None:
    """Copy a model from the Hub's cache to `out`, because the cache may be deleted.

    Hard links, where the disk has them, take no room while the cache exists.
    """
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    for name in filter_repo_objects(names, allow_patterns=list(MODEL_FILES), ignore_patterns=_DUPLICATE_WEIGHTS):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy((folder / name).resolve(), out / name)  # the cache itself has symbolic links to its blobs


def make_model_folder(weights: Path, scratch: Path) -> Path:
    """Return the folder of a model in the cache or a package. A GGUF file is converted below `scratch`, once."""
    if weights.is_dir():
        return weights
    folder = scratch / weights.stem
    if not folder.exists():
        convert_gguf(weights, folder)
    return folder


def convert_gguf(gguf: Path, out: Path) -> None:
    """Turn a GGUF file into a plain bfloat16 model folder, tokenizer and chat template included.

    A model loaded from GGUF refuses `save_pretrained`, so its weights go into a model made from its configuration.
    """
    folder, name = str(gguf.parent), gguf.name
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.bfloat16)
    config = AutoConfig.from_pretrained(folder, gguf_file=name)
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(out)

"""Objections to a model of the catalogue: licence, languages, context, weights, size.

`predict_base` finds the base model by them, without scoring and without reading or downloading weights.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import get_token

from llmops.config import Select
from llmops.frame.errors import ConfigError
from llmops.model.base import weights
from llmops.model.base.catalog import CatalogueEntry, read_catalogue
from llmops.model.base.memory import read_machine_memory
from llmops.model.base.shape import read_known_config, read_stored_config

#: Without a GPU a bigger model trains for days: 0.135 B at 300 tokens/s on two cores makes 0.5 B about 80 tokens/s.
CPU_PARAMETERS = 0.5


@dataclass(frozen=True, slots=True)
class Capacity:
    """The memory that a model has to fit, and the means to download a gated one."""

    training_gib: float
    serving_gib: float
    gpu: bool
    token: bool  #: there is a token for the Hub


def find_capacity(config: Select) -> Capacity:
    """Return the memory that the configuration allows, by default all of the GPU's, or without one the machine's.

    Serving has as much as training unless it is set.
    """
    memory = read_machine_memory()
    training = config.max_memory_gib or memory.gpu or memory.ram
    return Capacity(training, config.max_serving_gib or training, memory.gpu > 0, get_token() is not None)


def find_objections(
    config: Select, entries: Sequence[CatalogueEntry], capacity: Capacity, local: Collection[str]
) -> dict[str, str]:
    """Return each model's name → its first objection, or "". If the configuration names a model, return only that one.

    `local` names the models whose weights are on this machine and need no download.

    Raises:
        ConfigError: if the configuration names a model that is not in the catalogue, or all have an objection.
    """
    if config.model:
        entries = [e for e in entries if e.model == config.model]
        if not entries:
            raise ConfigError(
                f"select.model {config.model!r} is neither a folder nor in the catalogue; "
                "add a row to llmops/model/base/catalog.yaml or name a folder."
            )
    reasons = {e.model: _find_objection(e, config, capacity, e.model in local) for e in entries}
    if all(reasons.values()):
        raise ConfigError("No base model passes: " + "; ".join(f"{m}: {r}" for m, r in reasons.items()))
    return reasons


def _find_objection(entry: CatalogueEntry, config: Select, capacity: Capacity, local: bool) -> str:
    if entry.licence not in config.licences:
        return f"licence {entry.licence} is not among the allowed {', '.join(config.licences)}"
    if missing := [language for language in config.languages if language not in entry.languages]:
        return f"its vendor names no {', '.join(missing)} among its languages"
    if entry.context < config.min_context:
        return f"its context holds {entry.context:,} tokens, {config.min_context:,} are needed"
    if config.offline and not local:
        return "needs a download, and select.offline is on"
    if entry.gated and not local and not capacity.token:
        return "gated: accept its licence on the Hub and set HF_TOKEN"
    if entry.training_gib > capacity.training_gib:
        return f"needs {entry.training_gib:.1f} GiB to train in 4 bits, {capacity.training_gib:.1f} GiB are there"
    if entry.evaluation_gib > capacity.training_gib:
        need = f"needs {entry.evaluation_gib:.1f} GiB to be evaluated in bfloat16"
        return f"{need}, {capacity.training_gib:.1f} GiB are there"
    if entry.serving_gib > capacity.serving_gib:
        return f"needs {entry.serving_gib:.1f} GiB to be served, {capacity.serving_gib:.1f} GiB are there"
    if not capacity.gpu and not config.model and entry.parameters > CPU_PARAMETERS:
        return f"no GPU: over {CPU_PARAMETERS} B parameters would train for days; name it in select.model to insist"
    return ""


@dataclass(frozen=True, slots=True)
class BaseModelChoice:
    """The base model that would be trained."""

    model: str
    revision: str
    weights: Path | None  #: a folder or a GGUF file; None if they would be downloaded


def predict_base(config: Select, capacity: Capacity) -> tuple[BaseModelChoice, str]:
    """Return the named model, or the largest of the catalogue that passes, and the objection to a named one.

    Raises:
        ConfigError: if no model passes, or the named one is not known.
    """
    if config.model and Path(config.model).is_dir():
        return BaseModelChoice(Path(config.model).name, "local", Path(config.model)), ""
    entries = read_catalogue()
    local = {e.model: found for e in entries if (found := find_local_weights(config, e))}
    named, objection = [e for e in entries if e.model == config.model], ""
    try:
        reasons = find_objections(config, entries, capacity, local)
        best = max((e for e in entries if reasons.get(e.model) == ""), key=lambda e: e.parameters)
    except ConfigError as error:
        if not named:
            raise
        best, objection = named[0], str(error)
    return BaseModelChoice(best.model, get_revision(config, best), local.get(best.model)), objection


def read_base_config(base: BaseModelChoice) -> Any:
    """Return the configuration of a base model: its own, or the catalogue's if the weights are not on this machine.

    Raises:
        ConfigError: if there is none.
    """
    if base.weights:
        try:
            return read_stored_config(base.weights)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{base.weights} is no model folder: {error}") from None
    config = read_known_config(base.model)
    if config is None:
        raise ConfigError(f"The shape of {base.model} is not known; add it to llmops/model/base/shape.yaml.")
    return config


def find_local_weights(config: Select, entry: CatalogueEntry) -> Path | None:
    """Return the weights on this machine: a package's GGUF file, unless a revision is asked for, or a folder."""
    packaged = None if config.revision else entry.find_packaged_file()
    return packaged or weights.find_cached(entry, get_revision(config, entry))


def get_revision(config: Select, entry: CatalogueEntry) -> str:
    """Return the Hub's revision to take: a commit, or a branch or tag of the configuration; empty: not pinned."""
    return config.revision or entry.revision

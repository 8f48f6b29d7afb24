"""Which base model a selection would end with, without scoring and without reading or downloading weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.config import Select
from llmops.errors import ConfigError
from llmops.model.base import weights
from llmops.model.base.catalog import Entry, catalogue
from llmops.model.base.objections import Capacity, objections
from llmops.model.base.shape import known_config, stored_config


@dataclass(frozen=True, slots=True)
class Base:
    """The base model that would be trained."""

    model: str
    revision: str
    weights: Path | None  #: a folder or a GGUF file; None if they would be downloaded


def foresee(config: Select, able: Capacity) -> tuple[Base, str]:
    """The named model, or the largest of the catalogue that passes, and what stands in the way of a named one.

    Raises:
        ConfigError: if no model passes, or the named one is not known.
    """
    if config.model and Path(config.model).is_dir():
        return Base(Path(config.model).name, "local", Path(config.model)), ""
    entries = catalogue()
    local = {e.model: found for e in entries if (found := local_weights(config, e))}
    named, objection = [e for e in entries if e.model == config.model], ""
    try:
        reasons = objections(config, entries, able, local)
        best = max((e for e in entries if reasons.get(e.model) == ""), key=lambda e: e.parameters)
    except ConfigError as error:
        if not named:
            raise
        best, objection = named[0], str(error)
    return Base(best.model, revision_of(config, best), local.get(best.model)), objection


def config_of(base: Base) -> Any:
    """The configuration of a base model: its own, or what the catalogue knows where the weights are not here.

    Raises:
        ConfigError: if there is none.
    """
    if base.weights:
        try:
            return stored_config(base.weights)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{base.weights} is no model folder: {error}") from None
    known = known_config(base.model)
    if known is None:
        raise ConfigError(f"The shape of {base.model} is not known; add it to llmops/model/base/shape.yaml.")
    return known


def local_weights(config: Select, entry: Entry) -> Path | None:
    """The weights of a model on this machine: a package's GGUF file, unless a revision is asked for, or a folder."""
    return (None if config.revision else entry.packaged()) or weights.cached(entry, revision_of(config, entry))


def revision_of(config: Select, entry: Entry) -> str:
    """What to take from the Hub: a commit, or a branch or tag that the configuration names; empty: not pinned."""
    return config.revision or entry.revision

"""Why a model of the catalogue cannot be taken: its licence, its languages, its context, its weights, its size."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from huggingface_hub import get_token

from llmops.config import Select
from llmops.errors import ConfigError
from llmops.model.base.catalog import Entry
from llmops.model.base.memory import room

#: Without a GPU a bigger model trains for days: 0.135 B at 300 tokens/s on two cores makes 0.5 B about 80 tokens/s.
CPU_PARAMETERS = 0.5


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a model has to fit, and whether a gated one can be downloaded."""

    training_gib: float
    serving_gib: float
    gpu: bool
    token: bool  #: there is a token for the Hub


def capacity(config: Select) -> Capacity:
    """The memory that the configuration allows; where it says nothing, what the machine has, however much is in use.

    That is the GPU's, or without a GPU the machine's. Serving has as much as training unless it is set.
    """
    there = room()
    training = config.max_memory_gib or there.gpu or there.ram
    return Capacity(training, config.max_serving_gib or training, there.gpu > 0, get_token() is not None)


def objections(config: Select, entries: Sequence[Entry], capacity: Capacity, local: Collection[str]) -> dict[str, str]:
    """Why each model cannot be taken; an empty text if it can.

    Args:
        config: licences, languages, context, and the model if it is named.
        entries: the catalogue.
        capacity: what the model has to fit.
        local: names of the models whose weights are on this machine and need no download.

    Returns:
        Name of a model → the first objection to it; of a named model alone, if the configuration names one.

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
    found = {e.model: _objection(e, config, capacity, e.model in local) for e in entries}
    if all(found.values()):
        raise ConfigError("No base model passes: " + "; ".join(f"{m}: {r}" for m, r in found.items()))
    return found


def _objection(entry: Entry, config: Select, capacity: Capacity, local: bool) -> str:
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
    if entry.whole_gib > capacity.training_gib:
        return f"needs {entry.whole_gib:.1f} GiB to be evaluated in bfloat16, {capacity.training_gib:.1f} GiB are there"
    if entry.serving_gib > capacity.serving_gib:
        return f"needs {entry.serving_gib:.1f} GiB to be served, {capacity.serving_gib:.1f} GiB are there"
    if not capacity.gpu and not config.model and entry.parameters > CPU_PARAMETERS:
        return f"no GPU: over {CPU_PARAMETERS} B parameters would train for days; name it in select.model to insist"
    return ""

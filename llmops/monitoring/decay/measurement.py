"""Measurement of the champion on some items, with the code of `evaluate` and the version's servable.

If the app answers from documents, so does the measurement: with the served index, by the same rules. A result is reused
for the same model, items, documents, settings, libraries and hardware, because the number would be the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version as library_version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llmops.config import Config
from llmops.data.retrieval.grounding import REFUSAL, compute_window, find_sources_with_contexts, retrieve_for_item
from llmops.data.retrieval.search import open_index
from llmops.frame import artifacts, machine
from llmops.frame.artifacts import write_json
from llmops.frame.records import Example, make_content_id
from llmops.frame.statistics import bootstrap
from llmops.monitoring.decay.items import FRESH
from llmops.release.registry.indexes import find_served_index
from llmops.release.registry.registry import registry_of
from llmops.release.registry.version import Version

if TYPE_CHECKING:
    from llmops.model.scoring.answers import QuestionSet

_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "openvino-genai")


class Measurement(NamedTuple):
    """A figure with its interval."""

    value: float
    low: float
    high: float


def find_documents(config: Config) -> Path | None:
    """Return the index that the app answers from; None if it answers without documents."""
    return find_served_index(registry_of(config).folder) if config.grounding.enabled else None


def measure_version(config: Config, version: Version, items: Sequence[Example]) -> dict[str, Measurement]:
    """Return the task's primary metric (`token_f1`, `accuracy`, …) and the perplexity of a version on some items.

    Raises:
        OSError: if the version's model was removed.
    """
    folder = config.home / "decay" / config.release.name / version.name
    path = folder / f"{_make_cache_key(config, version, items)}.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, _compute_measurements(config, version, items))
    stored = json.loads(path.read_text(encoding="utf-8"))
    return {metric: Measurement(*values) for metric, values in stored.items()}


def digest_items(items: Sequence[Example]) -> str:
    """Return a digest of the items' questions, contexts and answers."""
    return make_content_id(*(text for item in items for text in (item.question, item.context, item.answer)))


def _make_cache_key(config: Config, version: Version, items: Sequence[Example]) -> str:
    files = sorted(file for file in version.servable.rglob("*") if file.is_file())
    stats = [(str(file.relative_to(version.servable)), file.stat()) for file in files]
    environment = {name: library_version(name) for name in _LIBRARIES} | {
        "gpu": machine.describe_gpus(),
        "cpu": _read_processor_name(),
    }
    settings = config.evaluate.model_dump(mode="json", exclude={"slice_items", "worst"})
    return make_content_id(
        version.compress,
        *(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats),
        json.dumps([environment, settings], sort_keys=True),
        digest_items(items),
        *_describe_documents(config, version),
    )


def _describe_documents(config: Config, version: Version) -> list[str]:
    """Return what the passages of an answer depend on, apart from its question; empty without documents."""
    if (folder := find_documents(config)) is None:
        return []
    grounding = config.grounding.with_answer(version.answer).model_dump(mode="json", exclude={"elasticsearch"})
    settings = [grounding, config.serving.max_context, version.system_prompt, sorted(_list_context_sources(config))]
    return [(folder / artifacts.RECORD).read_text(encoding="utf-8"), json.dumps(settings, sort_keys=True)]


def _list_context_sources(config: Config) -> frozenset[str]:
    return find_sources_with_contexts(config.collect) | {FRESH}


def _ground_items(config: Config, version: Version, items: Sequence[Example]) -> QuestionSet:
    """Return the items with the passages that the app would find, and the answers that need no model."""
    from llmops.model.scoring.answers import QuestionSet

    if (folder := find_documents(config)) is None:
        return QuestionSet(items)
    grounding, context_sources = config.grounding.with_answer(version.answer), _list_context_sources(config)
    quotes = grounding.answer == "quote"
    window = None if quotes else compute_window(config.serving.max_context, version.system_prompt)
    asked, known = list(items), dict[int, str]()
    with open_index(folder, server=config.search_server) as opened:
        for n, item in enumerate(items):
            tokens = config.evaluate.max_new_tokens
            found = retrieve_for_item(opened, item, grounding, context_sources, window, tokens)
            if found is None:
                continue
            asked[n] = replace(item, context=found.context or item.context)
            if answer := found.quote if found.hits else REFUSAL:
                known[n] = answer
    return QuestionSet(asked, known)


def _compute_measurements(
    config: Config, version: Version, items: Sequence[Example]
) -> dict[str, tuple[float, float, float]]:
    from llmops.model.scoring.answers import score_answers, use_deterministic_kernels
    from llmops.model.scoring.tasks import TASKS

    settings = config.evaluate
    with use_deterministic_kernels():
        (scored,) = score_answers(version.servable, [_ground_items(config, version, items)], settings)
    names = (TASKS[settings.task].primary, "perplexity")
    resamples = bootstrap.resample(
        {name: scored.item_metrics[name] for name in names},
        [item.group for item in items],
        settings.bootstrap,
        settings.seed,
    )
    return {
        name: (float(resamples[name][0]), *bootstrap.compute_bounds(resamples[name], settings.confidence))
        for name in names
    }


def _read_processor_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")

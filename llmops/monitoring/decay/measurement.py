"""Measurement of the champion on some items, with the code of `evaluate` and the version's servable.

A result is reused for the same model, items, settings, libraries and hardware, because the number would be the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version as library_version
from pathlib import Path
from typing import NamedTuple

from llmops.config import Config
from llmops.frame import machine
from llmops.frame.artifacts import write_json
from llmops.frame.records import Example, make_content_id
from llmops.frame.statistics import bootstrap
from llmops.release.registry.version import Version

_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "openvino-genai")


class Measurement(NamedTuple):
    """A figure with its interval."""

    value: float
    low: float
    high: float


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
    )


def _compute_measurements(
    config: Config, version: Version, items: Sequence[Example]
) -> dict[str, tuple[float, float, float]]:
    from llmops.model.scoring.answers import QuestionSet, score_answers, use_deterministic_kernels
    from llmops.model.scoring.tasks import TASKS

    settings = config.evaluate
    with use_deterministic_kernels():
        (scored,) = score_answers(version.servable, [QuestionSet(items)], settings)
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

"""How a version answers from the documents, as it is served.

Either the model answers from what was found, or the best sentences are quoted and no model is asked. The way that is
better on validation items is the version's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llmops.config import Evaluate
from llmops.config.model import LOWER_IS_BETTER
from llmops.grounding.retriever import REFUSAL, context_of, said
from llmops.model.evaluate.answered import ask
from llmops.model.evaluate.retrieved import Retrieved
from llmops.model.evaluate.tasks import TASKS
from llmops.records import Example
from llmops.registry.version import MODEL, QUOTE


def choose(folder: Path, items: Sequence[Example], found: Sequence[Retrieved], config: Evaluate) -> dict[str, Any]:
    """By what the documents are best answered from: `answers`, and what decided it.

    Args:
        folder: of the model.
        items: of the validation split; not one of the test.
        found: of each.
        config: how it is asked and scored.
    """
    primary = TASKS[config.task].primary
    ways = (MODEL, QUOTE) if any(one.quote for one in found) else (MODEL,)
    means = {way: _score(answers(folder, way, items, found, config), items, config) for way in ways}
    best = min(ways, key=lambda way: means[way] if primary in LOWER_IS_BETTER else -means[way])
    return {"answers": best, "validation_items": len(items), "scores": means}


def answers(
    folder: Path, way: str, items: Sequence[Example], found: Sequence[Retrieved], config: Evaluate
) -> list[str]:
    """The answer to each item; the refusal where the documents do not say."""
    if way == QUOTE:
        return [one.quote or REFUSAL if one.given else REFUSAL for one in found]
    told = [(item, one.given) for item, one in zip(items, found, strict=True) if one.given]
    asked = [replace(item, context=context_of(hits)) for item, hits in told]
    texts = iter(ask(folder, asked, config, [[said(hit) for hit in hits] for _, hits in told])[0] if told else ())
    return [next(texts) if one.given else REFUSAL for one in found]


def _score(texts: Sequence[str], items: Sequence[Example], config: Evaluate) -> float:
    columns, _ = TASKS[config.task].score(texts, [item.answer for item in items], config.k)
    return float(np.mean([value for value in columns[TASKS[config.task].primary] if value is not None]))

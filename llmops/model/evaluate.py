"""Answer the frozen test with base, champion and candidate, greedily, and measure each answer.

What is evaluated is the servable: the very folder that serving loads. The base is the untuned model, unquantised.

    python -m llmops run evaluate
"""

from __future__ import annotations

import gc
import logging
import math
from pathlib import Path
from typing import Any

import pyarrow as pa

from llmops.artifacts import write_json
from llmops.config import Evaluate
from llmops.features.tokenize import Tokens
from llmops.model.load import answer, load_servable
from llmops.model.metrics import METRICS, interval
from llmops.model.packing import mean_loss
from llmops.model.select import base_path
from llmops.prompts import training_ids
from llmops.records import Example, read_rows, write_table

log = logging.getLogger(__name__)


def run(
    config: Evaluate, *, annotate: Path, select: Path, train: Path, out: Path, champion: Path | None = None
) -> dict[str, Any]:
    """Write `answers.parquet` (a row per item and model) and `evaluation.json` (means with intervals)."""
    items = read_rows(annotate / "test.parquet", Example)
    folders = {"base": Path(base_path(select)), "candidate": train / "servable"}
    if champion:
        folders["champion"] = champion / "servable"
    rows: list[dict[str, Any]] = []
    models: dict[str, dict[str, Any]] = {}
    for name, folder in folders.items():
        answered, loss = ask(folder, items, config)
        rows += [{**row, "model": name} for row in answered]
        models[name] = {
            metric: interval([row[metric] for row in answered], config.bootstrap, config.confidence, config.seed)
            for metric in METRICS
        }
        models[name]["perplexity"] = round(math.exp(loss), 3)
        log.info("%s: %s", name, {m: models[name][m]["mean"] for m in METRICS} | {"perplexity": math.exp(loss)})
    write_table(out / "answers.parquet", pa.Table.from_pylist(rows))
    write_json(out / "evaluation.json", {"items": len(items), "models": models})
    return {
        "items": len(items),
        **{f"{name}_{metric}": models[name][metric]["mean"] for name in models for metric in METRICS},
        **{f"{name}_perplexity": models[name]["perplexity"] for name in models},
    }


def ask(folder: Path, items: list[Example], config: Evaluate) -> tuple[list[dict[str, Any]], float]:
    """One model's measured answers in the order of `items`, and its mean loss per reference token (nats)."""
    model, tokenizer = load_servable(folder)
    texts = answer(model, tokenizer, [(i.question, i.context) for i in items], config.max_new_tokens, config.batch)
    references = [Tokens(i.id, *training_ids(tokenizer, i.question, i.answer, i.context)) for i in items]
    loss = mean_loss(model, references)
    del model
    gc.collect()
    rows = [
        {
            "id": item.id,
            "question": item.question,
            "context": item.context,
            "reference": item.answer,
            "source": item.source,
            "group": item.group,
            "answer": text,
            **{name: metric(text, item.answer) for name, metric in METRICS.items()},
        }
        for item, text in zip(items, texts, strict=True)
    ]
    return rows, loss

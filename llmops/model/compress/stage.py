"""Make smaller forms of the trained model, measure them, and choose the one that is evaluated, released and served.

    python -m llmops run compress

A form is measured as it is served, on validation items: its loss minus that of the full model, item by item, with an
interval that resamples topics. The rule: of the full model and the forms whose upper bound is at most `within`, take
the smallest (or the fastest). An interrupted run keeps the forms that it has made and measured. If nothing was trained,
the base model in its full form is served.
"""

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmops.config import Compress
from llmops.data.features.examples import read_examples, read_offline
from llmops.data.features.tokenize import Tokens
from llmops.frame.artifacts import SKIPPED, is_skipped, link, write_json
from llmops.frame.records import Example, base_path
from llmops.frame.statistics import intervals
from llmops.frame.statistics.intervals import Interval
from llmops.model.base.answering import answer, open_model
from llmops.model.base.hashes import copy_model
from llmops.model.compress import variants
from llmops.model.compress.report import write_report
from llmops.model.compress.speed import Speed, measure
from llmops.model.compress.variants import Material
from llmops.model.scoring.metrics import token_f1

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements of one form."""

    size_mib: float  #: on disk
    speed: Speed
    nats: list[float]  #: of each item's reference answer, in the order of the items
    f1: list[float]  #: token F1 of each item's answer, in the order of the items
    answers: list[str]  #: to the items, in their order


def run(config: Compress, *, annotate: Path, features: Path, select: Path, train: Path, out: Path) -> dict[str, Any]:
    """Write `servable/`, the chosen form, and `compression.json`, `report.md` and `compression.png` about all.

    Raises:
        ArtifactError: if there is no validation item.
        ConfigError: if the configuration names a form that this model or machine does not support.
    """
    if is_skipped(train):
        return _serve_base(config, Path(base_path(select)), out)
    held_out = read_offline(features, "validation")
    number = {tokens.id: n for n, tokens in enumerate(held_out)}
    fit = (item for item in read_examples(annotate / "validation.parquet") if item.id in number)
    items = list(islice(fit, config.items))
    references = [held_out[number[item.id]] for item in items]
    examples = read_offline(features, "train")
    material = Material(config, train / "servable", base_path(select), train / "adapter", examples)
    scratch = out / "variants"
    scratch.mkdir(exist_ok=True)
    folders: dict[str, Path] = {}
    found: dict[str, Measured] = {}
    full = material.full
    for name in (full, *config.tried(full, torch.cuda.is_available())):
        folders[name] = variants.make(name, material, scratch)
        found[name] = _measure_variant(folders[name], items, references, config, scratch / f"{name}.json")
    rows = compare_variants(found, items, references, config)
    chosen = choose_variant(rows, config)
    shutil.rmtree(out / "servable", ignore_errors=True)
    shutil.copytree(folders[chosen], out / "servable", copy_function=link)
    document = {
        "chosen": chosen,
        "rule": f"{config.prefer}, adding at most {config.within:g} nats per answer token",
        "items": len(items),
        "within": config.within,
        "batch": config.batch,
        "confidence": config.confidence,
        "variants": rows,
    }
    write_json(out / "compression.json", document)
    write_report(document, out)
    shutil.rmtree(scratch)
    log.info("%s of %s is served", chosen, ", ".join(found))
    return {"chosen": chosen, "items": len(items)} | {
        f"{row['variant']}_{key}": row[key] for row in rows for key in ("size_mib", "loss", "tokens_per_second_batch")
    }


def _serve_base(config: Compress, base: Path, out: Path) -> dict[str, Any]:
    """Write `servable/`: the base model in its full form."""
    material, scratch = Material(config, base, str(base), base, []), out / "variants"
    shutil.rmtree(out / "servable", ignore_errors=True)
    scratch.mkdir(exist_ok=True)
    made = variants.make(material.full, material, scratch)
    if made == base:
        copy_model(base, out / "servable")
    else:
        made.rename(out / "servable")
    shutil.rmtree(scratch)
    return {"chosen": material.full, SKIPPED: "nothing was trained"}


def compare_variants(
    found: dict[str, Measured], items: Sequence[Example], references: Sequence[Tokens], config: Compress
) -> list[dict[str, Any]]:
    """Return a row per form, the full one first: figures, and differences from the full form with intervals."""
    tokens = [len(r.token_ids) - r.prompt_tokens for r in references]
    full, topics = next(iter(found.values())), [item.group for item in items]

    def spread(values: Sequence[float], weights: Sequence[float]) -> Interval:
        drawn = intervals.resample({"": intervals.ratio(values, weights)}, topics, config.bootstrap, config.seed)[""]
        return intervals.summarize(drawn, config.confidence)

    return [
        {
            "variant": name,
            "size_mib": m.size_mib,
            **asdict(m.speed),
            "loss": round(sum(m.nats) / sum(tokens), 4),
            "loss_added": spread(np.subtract(m.nats, full.nats).tolist(), tokens),
            "token_f1": round(float(np.mean(m.f1)), 4),
            "token_f1_added": spread(np.subtract(m.f1, full.f1).tolist(), [1.0] * len(items)),
            "same_answers": round(float(np.mean([a == b for a, b in zip(m.answers, full.answers, strict=True)])), 4),
        }
        for name, m in found.items()
    ]


def choose_variant(rows: Sequence[dict[str, Any]], config: Compress) -> str:
    """Return the name of the form that the rule picks; the full one (the first) if no other is within the bound."""
    fit = [rows[0], *(row for row in rows[1:] if row["loss_added"]["high"] <= config.within)]
    if config.prefer == "smallest":
        return str(min(fit, key=lambda row: row["size_mib"])["variant"])
    return str(max(fit, key=lambda row: row["tokens_per_second_batch"])["variant"])


def _measure_variant(
    folder: Path, items: Sequence[Example], references: Sequence[Tokens], config: Compress, kept: Path
) -> Measured:
    """Measure the model in `folder`, or read the figures from the file `kept` if an interrupted run wrote it."""
    if kept.exists():
        known = json.loads(kept.read_text(encoding="utf-8"))
        return Measured(**{**known, "speed": Speed(**known["speed"])})
    prompts = [r.token_ids[: r.prompt_tokens] for r in references]
    speed = measure(folder, prompts, config.batch, config.max_new_tokens)
    model = open_model(folder)
    nats = [nats for nats, _ in model.nats(references)]  # first: the prompts need not be read again then
    texts = answer(model, [(i.question, i.context) for i in items], config.max_new_tokens, config.batch)
    model.close()
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 2**20
    f1 = [token_f1(text, item.answer) for text, item in zip(texts, items, strict=True)]
    found = Measured(round(size, 1), speed, nats, f1, texts)
    write_json(kept, asdict(found))
    log.info("measured %s: %.1f MiB, %s", kept.stem, size, speed)
    return found

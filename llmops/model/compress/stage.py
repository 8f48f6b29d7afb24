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
from llmops.frame.artifacts import SKIPPED, is_skipped, link_or_copy, write_json
from llmops.frame.records import Example, get_base_path
from llmops.frame.statistics import bootstrap
from llmops.frame.statistics.bootstrap import Interval
from llmops.model.base.hashes import copy_model
from llmops.model.base.inference import answer_questions, open_model
from llmops.model.compress import variants
from llmops.model.compress.calibrate import calibrate
from llmops.model.compress.report import write_report
from llmops.model.compress.speed import Speed, measure_speed
from llmops.model.compress.variants import VariantInputs
from llmops.model.scoring.metrics import compute_token_f1
from llmops.prompts.encoder import is_encoder

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VariantMeasurement:
    """The measurements of one form."""

    size_mib: float  #: on disk
    speed: Speed
    nats: list[float]  #: of each item's reference answer, in the order of the items
    f1: list[float]  #: token F1 of each item's answer, in the order of the items
    answers: list[str]  #: to the items, in their order


def run(config: Compress, *, annotate: Path, features: Path, select: Path, train: Path, out: Path) -> dict[str, Any]:
    """Write `servable/`, the chosen form, and `compression.json`, `report.md` and `compression.png` about all.

    A classifier is also calibrated. The artifact `annotate` may have out-of-scope texts for its threshold.

    Raises:
        ArtifactError: if there is no validation item.
        ConfigError: if the configuration names a form that this model or machine does not support.
    """
    if is_skipped(train):
        return _serve_base(config, Path(get_base_path(select)), out)
    held_out = read_offline(features, "validation")
    numbers = {tokens.id: n for n, tokens in enumerate(held_out)}
    usable = (item for item in read_examples(annotate / "validation.parquet") if item.id in numbers)
    classifies = is_encoder(train / "servable")
    items = list(islice(usable, None if classifies else config.items))
    references = [held_out[numbers[item.id]] for item in items]
    scratch = out / "variants"
    scratch.mkdir(exist_ok=True)
    inputs = VariantInputs(config, train / "servable", get_base_path(select), train / "adapter")
    inputs = inputs.with_system_prompt(scratch)
    folders: dict[str, Path] = {}
    measurements: dict[str, VariantMeasurement] = {}
    full = inputs.full
    for name in (full, *config.list_tried_forms(full, torch.cuda.is_available())):
        folders[name] = variants.make_variant(name, inputs, scratch)
        measurements[name] = _measure_variant(folders[name], items, references, config, scratch / f"{name}.json")
    rows = compare_variants(measurements, items, references, config)
    chosen = choose_variant(rows, config)
    shutil.rmtree(out / "servable", ignore_errors=True)
    shutil.copytree(folders[chosen], out / "servable", copy_function=link_or_copy)
    document = {
        "chosen": chosen,
        "rule": f"{config.prefer}, adding at most {config.within:g} nats per answer token",
        "items": len(items),
        "within": config.within,
        "batch": config.batch,
        "confidence": config.confidence,
        "variants": rows,
    }
    calibration = calibrate(out / "servable", references, annotate, config) if classifies else {}
    document |= {"calibration": calibration} if calibration else {}
    write_json(out / "compression.json", document)
    write_report(document, out)
    shutil.rmtree(scratch)
    log.info("%s of %s is served", chosen, ", ".join(measurements))
    calibrated = {key: value for key, value in calibration.items() if key != "curve"}
    return {"chosen": chosen, "items": len(items), **calibrated} | {
        f"{row['variant']}_{key}": row[key] for row in rows for key in ("size_mib", "loss", "tokens_per_second_batch")
    }


def _serve_base(config: Compress, base: Path, out: Path) -> dict[str, Any]:
    """Write `servable/`: the base model in its full form."""
    scratch = out / "variants"
    shutil.rmtree(out / "servable", ignore_errors=True)
    scratch.mkdir(exist_ok=True)
    inputs = VariantInputs(config, base, str(base), base).with_system_prompt(scratch)
    full = inputs.full
    made = variants.make_variant(full, inputs, scratch)
    if made == inputs.merged:
        copy_model(made, out / "servable")
    else:
        made.rename(out / "servable")
    shutil.rmtree(scratch)
    return {"chosen": full, SKIPPED: "nothing was trained"}


def compare_variants(
    measurements: dict[str, VariantMeasurement],
    items: Sequence[Example],
    references: Sequence[Tokens],
    config: Compress,
) -> list[dict[str, Any]]:
    """Return a row per form, the full one first: figures, and differences from the full form with intervals."""
    tokens = [len(r.token_ids) - r.prompt_tokens for r in references]
    full, topics = next(iter(measurements.values())), [item.group for item in items]

    def compute_interval(values: Sequence[float], weights: Sequence[float]) -> Interval:
        drawn = bootstrap.resample({"": bootstrap.make_ratio(values, weights)}, topics, config.bootstrap, config.seed)[
            ""
        ]
        return bootstrap.summarize(drawn, config.confidence)

    return [
        {
            "variant": name,
            "size_mib": m.size_mib,
            **asdict(m.speed),
            "loss": round(sum(m.nats) / sum(tokens), 4),
            "loss_added": compute_interval(np.subtract(m.nats, full.nats).tolist(), tokens),
            "token_f1": round(float(np.mean(m.f1)), 4),
            "token_f1_added": compute_interval(np.subtract(m.f1, full.f1).tolist(), [1.0] * len(items)),
            "same_answers": round(float(np.mean([a == b for a, b in zip(m.answers, full.answers, strict=True)])), 4),
        }
        for name, m in measurements.items()
    ]


def choose_variant(rows: Sequence[dict[str, Any]], config: Compress) -> str:
    """Return the name of the form that the rule picks; the full one (the first) if no other is within the bound."""
    acceptable = [rows[0], *(row for row in rows[1:] if row["loss_added"]["high"] <= config.within)]
    if config.prefer == "smallest":
        return str(min(acceptable, key=lambda row: row["size_mib"])["variant"])
    return str(max(acceptable, key=lambda row: row["tokens_per_second_batch"])["variant"])


def _measure_variant(
    folder: Path, items: Sequence[Example], references: Sequence[Tokens], config: Compress, cache_file: Path
) -> VariantMeasurement:
    """Measure the model in `folder`, or read the figures from `cache_file` if an interrupted run wrote it."""
    if cache_file.exists():
        stored = json.loads(cache_file.read_text(encoding="utf-8"))
        return VariantMeasurement(**{**stored, "speed": Speed(**stored["speed"])})
    prompts = [r.token_ids[: r.prompt_tokens] for r in references]
    speed = measure_speed(folder, prompts, config.batch, config.max_new_tokens)
    model = open_model(folder)
    nats = [nats for nats, _ in model.compute_nats(references)]  # first, so that the prompts are read only once
    texts = answer_questions(model, [(i.question, i.context) for i in items], config.max_new_tokens, config.batch)
    model.close()
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 2**20
    f1 = [compute_token_f1(text, item.answer) for text, item in zip(texts, items, strict=True)]
    measurement = VariantMeasurement(round(size, 1), speed, nats, f1, texts)
    write_json(cache_file, asdict(measurement))
    log.info("measured %s: %.1f MiB, %s", cache_file.stem, size, speed)
    return measurement

"""Choose the base model: filter the catalogue by hardware, licence and need, score the rest, explain the choice.

    python -m llmops run select

The largest model that passes is taken, unless a smaller one is better beyond chance, untuned, on a slice of the
validation examples. Only models whose weights are on this machine are scored: nothing is downloaded to be compared.

The score is bits per byte of the reference answers. It needs no generation, does not depend on the tokenizer, and
differs less by chance than token F1, in which a talkative model is worse only until tuning makes it brief.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llmops.config import Select
from llmops.data.features.examples import read_examples
from llmops.data.features.tokenize import tokenize_labelled
from llmops.data.retrieval import minilm
from llmops.frame.artifacts import write_json
from llmops.frame.errors import ConfigError
from llmops.frame.machine import GIB
from llmops.frame.records import Example
from llmops.frame.statistics import bootstrap
from llmops.frame.statistics.bootstrap import Interval, Measure
from llmops.model.base import weights
from llmops.model.base.catalog import CatalogueEntry, read_catalogue
from llmops.model.base.hashes import hash_model_files
from llmops.model.base.load import free_memory, load_model, load_tokenizer, make_nf4_config
from llmops.model.base.objections import find_capacity, find_local_weights, find_objections, get_revision
from llmops.model.base.packing import compute_answer_nats
from llmops.model.scoring.answers import measure_bits_per_byte, tokenize_references
from llmops.model.select.head import save_with_head
from llmops.prompts.encoder import read_format

log = logging.getLogger(__name__)

RESAMPLES, CONFIDENCE, SEED = 2000, 0.95, 0


@dataclass(frozen=True, slots=True)
class BaseScore:
    """The score of an untuned model, item by item."""

    bits: Measure  #: per byte
    topics: tuple[str, ...]  #: of the items

    def compute_interval(self) -> Interval:
        """Return the bits per byte with their interval."""
        return bootstrap.summarize(bootstrap.resample({"": self.bits}, self.topics, RESAMPLES, SEED)[""], CONFIDENCE)


def run(config: Select, *, annotate: Path, database: str, out: Path) -> dict[str, Any]:
    """Write `selection.json`, the table `selection.md`, and the model under `base/` if the catalogue has it.

    `selection.json` has the hashes of the model's files. The database with this URL caches them.

    Raises:
        ConfigError: with each model's objection, if no model passes; or if `select.model` is a folder without a model.
    """
    items = nsmallest(config.score_items, read_examples(annotate / "validation.parquet"), key=lambda item: item.id)
    if encoders := weights.list_encoders(config):
        chosen, path, rows, source = _choose_encoder(config, encoders, annotate, items, out)
    elif config.model and Path(config.model).is_dir():
        source = Path(config.model).absolute()
        chosen, path, rows = _choose_folder(source, items)
    else:
        chosen, path, rows, source = _choose_from_catalogue(config, items, out)
    hashes = hash_model_files(source, database)
    _write_report(rows, len(items), out / "selection.md")
    write_json(
        out / "selection.json", {**chosen, "path": path, "weights": hashes, "items": len(items), "considered": rows}
    )
    row = next(row for row in rows if row["model"] == chosen["model"])
    return {**chosen, "considered": len(rows), "why": row["why"]}


def score_untuned(folder: Path, items: Sequence[Example], four_bits: bool) -> BaseScore:
    """Score a model folder on examples, loaded in NF4 where there is no room for bfloat16."""
    model, tokenizer = load_model(folder, make_nf4_config() if four_bits else None), load_tokenizer(folder)
    nats = [nats for nats, _ in compute_answer_nats(model, tokenize_references(tokenizer, items))]
    del model
    free_memory()
    return BaseScore(measure_bits_per_byte(nats, [i.answer for i in items]), tuple(i.group for i in items))


def compute_bits_saved(one: BaseScore, other: BaseScore) -> Interval:
    """Return the bits per byte that `one` saves compared with `other` on the same items, paired."""
    measures = {"one": one.bits, "other": other.bits}
    drawn = bootstrap.resample(measures, one.topics, RESAMPLES, SEED)
    return bootstrap.summarize(drawn["other"] - drawn["one"], CONFIDENCE)


def choose_base(
    fit: Sequence[CatalogueEntry], scores: Mapping[str, BaseScore]
) -> tuple[CatalogueEntry, dict[str, str]]:
    """Return the chosen model, and for each model the reason of the choice.

    The largest model is chosen, unless a smaller one needs fewer bits per byte beyond chance. `scores` has the models
    whose weights are on this machine, by name.
    """
    ordered = sorted(fit, key=lambda e: -e.parameters)
    best = largest = ordered[0]
    for entry in ordered[1:]:
        both = entry.model in scores and best.model in scores
        if both and compute_bits_saved(scores[entry.model], scores[best.model])["low"] > 0:
            best = entry
    why = {best.model: "chosen: the only one that passes" if len(fit) == 1 else "chosen: the largest that passes"}
    if best is not largest:
        why[best.model] = "chosen: better than the larger ones"
    elif len(fit) > 1 and best.model not in scores:
        why[best.model] += "; not compared, its weights are not here"
    for entry in ordered:
        if entry is not best:
            size = "smaller" if entry.parameters < best.parameters else "larger"
            why[entry.model] = f"passes, but is {size} than the chosen one" + _describe_difference(entry, best, scores)
    return best, why


def _choose_folder(folder: Path, items: Sequence[Example]) -> tuple[dict[str, str], str, list[dict[str, str]]]:
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"select.model: the folder {folder} has no config.json, so it holds no model; name a folder that "
            "transformers has saved, or a model of the catalogue."
        )
    score = score_untuned(folder, items, four_bits=False) if items else None
    rows = [{"model": folder.name, **_format_score(score), "why": "named: a local folder"}]
    return {"model": folder.name, "revision": "local", "licence": "unknown"}, str(folder), rows


def _choose_encoder(
    config: Select, encoders: Sequence[str], annotate: Path, items: Sequence[Example], out: Path
) -> tuple[dict[str, str], str, list[dict[str, str]], Path]:
    """Return the smallest encoder, or a larger one that needs fewer bits beyond chance, with a head for the labels.

    The values are those of `_choose_from_catalogue`.
    """
    found = list[_EncoderCandidate]()
    for number, name in enumerate(encoders):
        source, made = weights.find_encoder(name, config.revision, config.offline), out / "candidates" / str(number)
        save_with_head(source, annotate, made)
        size = sum(file.stat().st_size for file in made.glob("*.safetensors")) / 1e6
        shown = source.name if Path(name).is_dir() else name  # the model card has it, so no folder of this machine
        found.append(_EncoderCandidate(shown, source, made, size, _score_encoder(made, items)))
        log.info("%s: %s", shown, _format_score(found[-1].score))
    found.sort(key=lambda one: one.megabytes)
    best = found[0]
    for one in found[1:]:
        if compute_bits_saved(one.score, best.score)["low"] > 0:
            best = one
    rows = [
        {
            "model": one.name,
            "weights": f"{one.megabytes:.0f} MB",
            **_format_score(one.score),
            "why": _explain_encoder(one, best, found),
        }
        for one in found
    ]
    if config.encoders and config.model:
        labels = read_format(best.made).labels
        rows.append(_compare_language_model(config, [i for i in items if i.answer in labels], out / "candidates"))
    best.made.rename(out / "base")
    shutil.rmtree(out / "candidates")
    revision = best.source.name if best.source.parent.name == "snapshots" else "local"  # the Hub's cache
    licence = minilm.LICENCE if best.source.parent.name == minilm.PACKAGE else "unknown"
    return {"model": best.name, "revision": revision, "licence": licence}, "base", rows, best.source


def _compare_language_model(config: Select, items: Sequence[Example], scratch: Path) -> dict[str, str]:
    """Return the table's row of the untuned language model that the configuration names beside encoders."""
    folder = Path(config.model)
    if not folder.is_dir():
        named = [entry for entry in read_catalogue() if entry.model == config.model]
        found = find_local_weights(config, named[0]) if named else None
        if not found:
            raise ConfigError(f"select.model: {config.model} is compared with encoders, but its weights are not here.")
        folder = weights.make_model_folder(found, scratch)
    score = score_untuned(folder, items, four_bits=False)
    why = "a language model, compared only: without select.encoders it would classify"
    return {"model": config.model, "weights": "", **_format_score(score), "why": why}


def _score_encoder(folder: Path, items: Sequence[Example]) -> BaseScore:
    """Score a classifier's folder on the examples whose label is known to it."""
    model = load_model(folder)
    found = [tokens for tokens, _ in tokenize_labelled(read_format(folder), items)]
    nats = [nats for nats, _ in compute_answer_nats(model, [tokens for tokens in found if tokens])]
    known = [item for item, tokens in zip(items, found, strict=True) if tokens]
    del model
    free_memory()
    return BaseScore(measure_bits_per_byte(nats, [i.answer for i in known]), tuple(i.group for i in known))


@dataclass(frozen=True, slots=True)
class _EncoderCandidate:
    name: str
    source: Path
    made: Path  #: the folder with a head
    megabytes: float
    score: BaseScore


def _explain_encoder(one: _EncoderCandidate, best: _EncoderCandidate, found: Sequence[_EncoderCandidate]) -> str:
    if one is best:
        others = "the only one named" if len(found) == 1 else "the smallest"
        return f"chosen: {others if one is found[0] else 'better than the smaller ones'}"
    return "larger, and not better beyond chance" if one.megabytes > best.megabytes else "worse than the chosen one"


def _choose_from_catalogue(
    config: Select, items: Sequence[Example], out: Path
) -> tuple[dict[str, str], str, list[dict[str, str]], Path]:
    """Return the chosen model's facts, the path of its weights below `out`, the table's rows, and its source."""
    entries, capacity = read_catalogue(), find_capacity(config)
    local = {e.model: found for e in entries if (found := find_local_weights(config, e))}
    reasons = find_objections(config, entries, capacity, local)
    fit = [e for e in entries if reasons.get(e.model) == ""]
    scratch = out / "candidates"
    scores: dict[str, BaseScore] = {}
    for entry in fit:
        if items and entry.model in local:
            four_bits = 2 * entry.parameters * 1e9 / GIB > capacity.training_gib  # no room for two bytes a parameter
            scores[entry.model] = score_untuned(
                weights.make_model_folder(local[entry.model], scratch), items, four_bits
            )
            log.info("%s: %s", entry.model, _format_score(scores[entry.model]))
    best, why = choose_base(fit, scores)
    rows = [
        {
            "model": e.model,
            "revision": _describe_source(config, e, local.get(e.model)),
            "licence": e.licence + (", gated" if e.gated else ""),
            "languages": " ".join(e.languages),
            "context": f"{e.context:,}",
            "parameters": f"{e.parameters:g} B",
            "training": f"{e.training_gib:.1f} GiB",
            "serving": f"{e.serving_gib:.1f} GiB",
            "weights": "here" if e.model in local else "to download",
            **_format_score(scores.get(e.model)),
            "why": reasons[e.model] or why[e.model],
        }
        for e in entries
        if e.model in reasons
    ]
    source = local.get(best.model) or weights.download(best, get_revision(config, best))
    if source.is_file():
        weights.make_model_folder(source, scratch).rename(out / "base")
        revision = f"{_describe_source(config, best, source)}/{best.file}"
    else:
        weights.save_copy(source, out / "base")
        revision = source.name
    shutil.rmtree(scratch, ignore_errors=True)
    return {"model": best.model, "revision": revision, "licence": best.licence}, "base", rows, source


def _describe_difference(entry: CatalogueEntry, best: CatalogueEntry, scores: Mapping[str, BaseScore]) -> str:
    if entry.model not in scores or best.model not in scores:
        return ""
    saved = compute_bits_saved(scores[entry.model], scores[best.model])
    verdict = "worse" if saved["high"] < 0 else "better" if saved["low"] > 0 else "not better beyond chance"
    return f" and {verdict}: {-saved['mean']:+.3f} bits per byte ({-saved['high']:+.3f} to {-saved['low']:+.3f})"


def _describe_source(config: Select, entry: CatalogueEntry, found: Path | None) -> str:
    if found and found.is_file():
        return f"{entry.package}=={version(entry.package)}"
    return get_revision(config, entry)[:7] or "not pinned"


def _format_score(score: BaseScore | None) -> dict[str, str]:
    interval = score and score.compute_interval()
    return {
        "bits per byte": f"{interval['mean']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})" if interval else ""
    }


def _write_report(rows: Sequence[Mapping[str, str]], items: int, path: Path) -> None:
    columns = list(rows[0])
    ordered = sorted(rows, key=lambda row: (not row["why"].startswith(("chosen", "named")), "passes" not in row["why"]))
    lines = [
        "# Base model",
        "",
        "Memory is for training in 4 bits and for serving in bfloat16. Scores, with 95 % intervals, are of the untuned "
        f"model on {items} validation examples; fewer bits per byte are better.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + " --- |" * len(columns),
        *("| " + " | ".join(row[c] for c in columns) + " |" for row in ordered),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")

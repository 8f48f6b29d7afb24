"""Choose the base model: filter the catalogue by hardware, licence and need, score what is left, explain the choice.

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
from llmops.frame.artifacts import write_json
from llmops.frame.machine import GIB
from llmops.frame.records import Example
from llmops.frame.statistics import intervals
from llmops.frame.statistics.intervals import Interval, Measure
from llmops.model.base import weights
from llmops.model.base.catalog import Entry, catalogue
from llmops.model.base.hashes import hashes
from llmops.model.base.load import free_memory, load_model, load_tokenizer, nf4
from llmops.model.base.objections import capacity, local_weights, objections, revision_of
from llmops.model.base.packing import answer_nats
from llmops.model.scoring.answered import bits_per_byte, reference_tokens

log = logging.getLogger(__name__)

RESAMPLES, CONFIDENCE, SEED = 2000, 0.95, 0


@dataclass(frozen=True, slots=True)
class Score:
    """The score of an untuned model, item by item."""

    bits: Measure  #: per byte
    topics: tuple[str, ...]  #: of the items

    def interval(self) -> Interval:
        """Return the bits per byte with their interval."""
        return intervals.summarize(intervals.resample({"": self.bits}, self.topics, RESAMPLES, SEED)[""], CONFIDENCE)


def run(config: Select, *, annotate: Path, database: str, out: Path) -> dict[str, Any]:
    """Write `selection.json`, the table `selection.md`, and the model under `base/` if the catalogue has it.

    The hashes of what was taken go into `selection.json`; the database, whose URL is given, remembers them.

    Raises:
        ConfigError: if no model passes, with each one's reason.
    """
    items = nsmallest(config.score_items, read_examples(annotate / "validation.parquet"), key=lambda item: item.id)
    if config.model and Path(config.model).is_dir():
        taken = Path(config.model).absolute()
        chosen, path, rows = _take_folder(taken, items)
    else:
        chosen, path, rows, taken = _take_from_catalogue(config, items, out)
    found = hashes(taken, database)
    _write_report(rows, len(items), out / "selection.md")
    write_json(
        out / "selection.json", {**chosen, "path": path, "weights": found, "items": len(items), "considered": rows}
    )
    row = next(row for row in rows if row["model"] == chosen["model"])
    return {**chosen, "considered": len(rows), "why": row["why"]}


def score_untuned(folder: Path, items: Sequence[Example], four_bits: bool) -> Score:
    """Score a model folder on examples, loaded in NF4 where there is no room for bfloat16."""
    model, tokenizer = load_model(folder, nf4() if four_bits else None), load_tokenizer(folder)
    nats = [nats for nats, _ in answer_nats(model, reference_tokens(tokenizer, items))]
    del model
    free_memory()
    return Score(bits_per_byte(nats, [i.answer for i in items]), tuple(i.group for i in items))


def bits_saved(one: Score, other: Score) -> Interval:
    """Return how many bits per byte `one` needs less than `other`, on the same items, paired."""
    measures = {"one": one.bits, "other": other.bits}
    drawn = intervals.resample(measures, one.topics, RESAMPLES, SEED)
    return intervals.summarize(drawn["other"] - drawn["one"], CONFIDENCE)


def choose_base(fit: Sequence[Entry], scores: Mapping[str, Score]) -> tuple[Entry, dict[str, str]]:
    """Return the chosen model, and for each model the reason why it was taken or left.

    The largest model is chosen, unless a smaller one needs fewer bits per byte beyond chance. `scores` has the models
    whose weights are on this machine, by name.
    """
    ordered = sorted(fit, key=lambda e: -e.parameters)
    best = largest = ordered[0]
    for entry in ordered[1:]:
        both = entry.model in scores and best.model in scores
        if both and bits_saved(scores[entry.model], scores[best.model])["low"] > 0:
            best = entry
    why = {best.model: "chosen: the only one that passes" if len(fit) == 1 else "chosen: the largest that passes"}
    if best is not largest:
        why[best.model] = "chosen: better than the larger ones"
    elif len(fit) > 1 and best.model not in scores:
        why[best.model] += "; not compared, its weights are not here"
    for entry in ordered:
        if entry is not best:
            size = "smaller" if entry.parameters < best.parameters else "larger"
            why[entry.model] = f"passes, but is {size} than the chosen one" + _compared(entry, best, scores)
    return best, why


def _take_folder(folder: Path, items: Sequence[Example]) -> tuple[dict[str, str], str, list[dict[str, str]]]:
    found = score_untuned(folder, items, four_bits=False) if items else None
    rows = [{"model": folder.name, **_score_cells(found), "why": "named: a local folder"}]
    return {"model": folder.name, "revision": "local", "licence": "unknown"}, str(folder), rows


def _take_from_catalogue(
    config: Select, items: Sequence[Example], out: Path
) -> tuple[dict[str, str], str, list[dict[str, str]], Path]:
    """Return the chosen model's facts, the path of its weights below `out`, the table's rows, and its source."""
    entries, room = catalogue(), capacity(config)
    local = {e.model: found for e in entries if (found := local_weights(config, e))}
    reasons = objections(config, entries, room, local)
    fit = [e for e in entries if reasons.get(e.model) == ""]
    scratch = out / "candidates"
    scores: dict[str, Score] = {}
    for entry in fit:
        if items and entry.model in local:
            four_bits = 2 * entry.parameters * 1e9 / GIB > room.training_gib  # no room for two bytes a parameter
            scores[entry.model] = score_untuned(weights.unpack(local[entry.model], scratch), items, four_bits)
            log.info("%s: %s", entry.model, _score_cells(scores[entry.model]))
    best, why = choose_base(fit, scores)
    rows = [
        {
            "model": e.model,
            "revision": _source(config, e, local.get(e.model)),
            "licence": e.licence + (", gated" if e.gated else ""),
            "languages": " ".join(e.languages),
            "context": f"{e.context:,}",
            "parameters": f"{e.parameters:g} B",
            "training": f"{e.training_gib:.1f} GiB",
            "serving": f"{e.serving_gib:.1f} GiB",
            "weights": "here" if e.model in local else "to download",
            **_score_cells(scores.get(e.model)),
            "why": reasons[e.model] or why[e.model],
        }
        for e in entries
        if e.model in reasons
    ]
    taken = local.get(best.model) or weights.download(best, revision_of(config, best))
    if taken.is_file():
        weights.unpack(taken, scratch).rename(out / "base")
        revision = f"{_source(config, best, taken)}/{best.file}"
    else:
        weights.keep(taken, out / "base")
        revision = taken.name
    shutil.rmtree(scratch, ignore_errors=True)
    return {"model": best.model, "revision": revision, "licence": best.licence}, "base", rows, taken


def _compared(entry: Entry, best: Entry, scores: Mapping[str, Score]) -> str:
    if entry.model not in scores or best.model not in scores:
        return ""
    found = bits_saved(scores[entry.model], scores[best.model])
    verdict = "worse" if found["high"] < 0 else "better" if found["low"] > 0 else "not better beyond chance"
    return f" and {verdict}: {-found['mean']:+.3f} bits per byte ({-found['high']:+.3f} to {-found['low']:+.3f})"


def _source(config: Select, entry: Entry, found: Path | None) -> str:
    if found and found.is_file():
        return f"{entry.package}=={version(entry.package)}"
    return revision_of(config, entry)[:7] or "not pinned"


def _score_cells(score: Score | None) -> dict[str, str]:
    found = score and score.interval()
    return {"bits per byte": f"{found['mean']:.3f} ({found['low']:.3f} to {found['high']:.3f})" if found else ""}


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

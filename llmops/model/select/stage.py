"""Choose the base model: filter the catalogue by hardware, licence and need, score what is left, explain the choice.

    python -m llmops run select

Of the models that pass, the largest is taken, unless a smaller one is better beyond chance, untuned, on a slice of the
validation examples. Only models whose weights are on this machine are scored: nothing is downloaded to be compared.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from huggingface_hub import get_token

from llmops.artifacts import write_json
from llmops.config import Select
from llmops.errors import ConfigError
from llmops.model.base import weights
from llmops.model.base.catalog import GIB, Entry, catalogue
from llmops.model.select.zeroshot import Score, saved, score
from llmops.records import Example, read_rows

log = logging.getLogger(__name__)

#: Without a GPU a bigger model trains for days: 0.135 B at 300 tokens/s on two cores makes 0.5 B about 80 tokens/s.
CPU_PARAMETERS = 0.5


@dataclass(frozen=True, slots=True)
class Machine:
    """What models have to fit."""

    training_gib: float
    serving_gib: float
    gpu: bool
    token: bool  #: there is a token for the Hub


def run(config: Select, *, annotate: Path, out: Path) -> dict[str, Any]:
    """Write `selection.json`, the table `selection.md`, and for a packaged model its weights under `base/`.

    Raises:
        ConfigError: if no model passes, with each one's reason.
    """
    items = sorted(read_rows(annotate / "validation.parquet", Example), key=lambda item: item.id)[: config.score_items]
    if config.model and Path(config.model).is_dir():
        folder = Path(config.model).absolute()
        scores = {folder.name: score(folder, items, four_bits=False)} if items else {}
        chosen = {"model": folder.name, "revision": "local", "licence": "unknown"}
        rows = [{"model": folder.name, **_scored(scores.get(folder.name)), "why": "named: a local folder"}]
        path = str(folder)
    else:
        entry, rows, path, revision = _from_catalogue(config, items, out)
        chosen = {"model": entry.model, "revision": revision, "licence": entry.licence}
    (out / "selection.md").write_text(_report(rows, len(items)), encoding="utf-8")
    write_json(out / "selection.json", {**chosen, "path": path, "items": len(items), "considered": rows})
    taken = next(row for row in rows if row["model"] == chosen["model"])
    return {**chosen, "considered": len(rows), "why": taken["why"]}


def objections(config: Select, entries: Sequence[Entry], machine: Machine, here: Collection[str]) -> dict[str, str]:
    """Why each model cannot be taken; an empty text if it can.

    Args:
        config: licences, languages, context, and the model if it is named.
        entries: the catalogue.
        machine: what it has to fit.
        here: models whose weights need no download.

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
    found = {e.model: _objection(e, config, machine, e.model in here) for e in entries}
    if all(found.values()):
        raise ConfigError("No base model passes: " + "; ".join(f"{m}: {r}" for m, r in found.items()))
    return found


def choose(fit: Sequence[Entry], scores: Mapping[str, Score]) -> tuple[Entry, dict[str, str]]:
    """The largest model, unless a smaller one needs fewer bits per byte beyond chance.

    Args:
        fit: the models that pass.
        scores: of those whose weights are here.

    Returns:
        The model, and why each one was taken or left.
    """
    ordered = sorted(fit, key=lambda e: -e.parameters)
    best, largest = ordered[0], ordered[0]
    for entry in ordered[1:]:
        if entry.model in scores and best.model in scores and saved(scores[entry.model], scores[best.model])["low"] > 0:
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


def machine(config: Select) -> Machine:
    """What the configuration says that there is, else what the GPU, or without one the machine, has free."""
    gpu = torch.cuda.is_available()
    free = float(torch.cuda.mem_get_info()[0] if gpu else psutil.virtual_memory().available) / GIB
    training = config.max_memory_gib or free
    return Machine(training, config.max_serving_gib or training, gpu, get_token() is not None)


def _from_catalogue(
    config: Select, items: Sequence[Example], out: Path
) -> tuple[Entry, list[dict[str, str]], str, str]:
    """The chosen entry, the table, where its weights are (relative to `out` if there), and their revision."""
    entries, there = catalogue(), machine(config)
    here = {e.model: found for e in entries if (found := _here(config, e))}
    reasons = objections(config, entries, there, here)
    fit = [e for e in entries if reasons.get(e.model) == ""]
    scratch = out / "candidates"
    scores: dict[str, Score] = {}
    for entry in fit:
        if items and entry.model in here:
            folder = weights.unpack(here[entry.model], scratch)
            scores[entry.model] = score(folder, items, four_bits=2 * entry.parameters * 1e9 / GIB > there.training_gib)
            log.info("%s: %s", entry.model, _scored(scores[entry.model]))
    best, why = choose(fit, scores)
    rows = [
        {
            "model": e.model,
            "revision": _named(config, e, here.get(e.model)),
            "licence": e.licence + (", gated" if e.gated else ""),
            "languages": " ".join(e.languages),
            "context": f"{e.context:,}",
            "parameters": f"{e.parameters:g} B",
            "training": f"{e.training_gib:.1f} GiB",
            "serving": f"{e.serving_gib:.1f} GiB",
            "weights": "here" if e.model in here else "to download",
            **_scored(scores.get(e.model)),
            "why": reasons[e.model] or why[e.model],
        }
        for e in entries
        if e.model in reasons
    ]
    folder = here.get(best.model) or weights.download(best, _revision(config, best))
    if folder.is_file():
        weights.unpack(folder, scratch).rename(out / "base")
        path, revision = "base", f"{_named(config, best, folder)}/{best.file}"
    else:
        path, revision = str(folder), folder.name
    shutil.rmtree(scratch, ignore_errors=True)
    return best, rows, path, revision


def _objection(entry: Entry, config: Select, machine: Machine, here: bool) -> str:
    if entry.licence not in config.licences:
        return f"licence {entry.licence} is not among the allowed {', '.join(config.licences)}"
    if missing := [language for language in config.languages if language not in entry.languages]:
        return f"its vendor names no {', '.join(missing)} among its languages"
    if entry.context < config.min_context:
        return f"its context holds {entry.context:,} tokens, {config.min_context:,} are needed"
    if config.offline and not here:
        return "needs a download, and select.offline is on"
    if entry.gated and not here and not machine.token:
        return "gated: accept its licence on the Hub and set HF_TOKEN"
    if entry.training_gib > machine.training_gib:
        return f"needs {entry.training_gib:.1f} GiB to train in 4 bits, {machine.training_gib:.1f} GiB are there"
    if entry.serving_gib > machine.serving_gib:
        return f"needs {entry.serving_gib:.1f} GiB to be served in 4 bits, {machine.serving_gib:.1f} GiB are there"
    if not machine.gpu and not config.model and entry.parameters > CPU_PARAMETERS:
        return f"no GPU: over {CPU_PARAMETERS} B parameters would train for days; name it in select.model to insist"
    return ""


def _compared(entry: Entry, best: Entry, scores: Mapping[str, Score]) -> str:
    if entry.model not in scores or best.model not in scores:
        return ""
    found = saved(scores[entry.model], scores[best.model])
    verdict = "worse" if found["high"] < 0 else "better" if found["low"] > 0 else "not better beyond chance"
    return f" and {verdict}: {-found['mean']:+.3f} bits per byte ({-found['high']:+.3f} to {-found['low']:+.3f})"


def _scored(found: Score | None) -> dict[str, str]:
    """The table's cells of a score, of the untuned model."""
    if found is None:
        return {"bits per byte": "", "token F1": ""}
    intervals = {"bits per byte": found.interval("bits_per_byte"), "token F1": found.interval("token_f1")}
    return {name: f"{i['mean']:.3f} ({i['low']:.3f} to {i['high']:.3f})" for name, i in intervals.items()}


def _here(config: Select, entry: Entry) -> Path | None:
    """The weights of a model on this machine: a package's GGUF file, unless a revision is asked for, or a folder."""
    return (None if config.revision else entry.packaged()) or weights.cached(entry, _revision(config, entry))


def _named(config: Select, entry: Entry, found: Path | None) -> str:
    """The table's word for what of a model is taken: a package's version, or a revision as Git shortens it."""
    if found and found.is_file():
        return f"{entry.package}=={version(entry.package)}"
    return _revision(config, entry)[:7] or "not pinned"


def _revision(config: Select, entry: Entry) -> str:
    """What to take from the Hub: a commit, or a branch or tag that the configuration names; empty: not pinned."""
    return config.revision or entry.revision


def _report(rows: Sequence[Mapping[str, str]], items: int) -> str:
    """The table in Markdown, the chosen model first, then those that pass."""
    columns = list(rows[0])
    ordered = sorted(rows, key=lambda row: (not row["why"].startswith(("chosen", "named")), "passes" not in row["why"]))
    lines = [
        "# Base model",
        "",
        f"Memory is for 4-bit training and serving. Scores, with 95 % intervals, are of the untuned model on {items} "
        "validation examples; fewer bits per byte are better.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + " --- |" * len(columns),
        *("| " + " | ".join(row[c] for c in columns) + " |" for row in ordered),
    ]
    return "\n".join(lines) + "\n"

"""The page `report.html`: an evaluation's figures with intervals, its slices, and its worst answers side by side.

It needs only `evaluation.json` and `answers.parquet`, so that it can be written again when they have changed. It is one
file without scripts and without requests to the network. Answers are escaped.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from jinja2 import Environment, StrictUndefined

from llmops.config.model import DESCRIPTIVE, LOWER_IS_BETTER
from llmops.frame.artifacts import write_atomically
from llmops.model.evaluate.confusion import make_confusion
from llmops.model.scoring.metrics import normalise_words

PAGE_FILE = "report.html"
MODEL_ORDER = ("base", "champion", "candidate")


def write_page(folder: Path, worst: int) -> None:
    """Write the page of an evaluation into its folder, with at most `worst` items in each list of answers."""
    document = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    rows = pq.read_table(folder / "answers.parquet").to_pylist()
    write_atomically(folder / PAGE_FILE, render_page(document, rows, worst).encode())


def render_page(document: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], worst: int) -> str:
    """Return the page's HTML from the contents of `evaluation.json` and `answers.parquet`."""
    models = [name for name in MODEL_ORDER if name in document["models"]]
    primary, opponent = document["primary"], document["opponent"]
    items = _collect_items(rows, models, primary)
    worse_items = [item for item in items if item["scores"]["candidate"] < item["scores"][opponent]]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _format_number
    environment.filters["signed"] = lambda value: f"{value:+.3f}"
    environment.filters["words"] = _format_metric
    template = environment.from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    return template.render(
        document=document,
        retrieval=document.get("retrieval"),
        beside=document.get("beside", {}),
        models=models,
        primary=primary,
        opponent=opponent,
        confidence=f"{document['confidence']:.0%}",
        headline=_make_line(primary, document, models),
        metrics=[_make_line(metric, document, models) for metric in document["models"]["candidate"]],
        slices={
            kind: [part | {"line": _make_line(primary, part, models)} for part in parts]
            for kind, parts in document["slices"].items()
            if parts
        },
        spread=_make_histograms(items, models),
        confusion=make_confusion([row for row in rows if row["model"] == "candidate"])
        if document["task"] == "classification"
        else None,
        lists=[
            (
                "Worst answers",
                f"The candidate's lowest {_format_metric(primary)}.",
                sorted(items, key=_make_sort_key)[:worst],
            ),
            (
                f"Worse than the {opponent}",
                f"Where the candidate lost most: {len(worse_items)} of {len(items)} answers are worse.",
                sorted(
                    worse_items,
                    key=lambda item: (item["scores"]["candidate"] - item["scores"][opponent], _make_sort_key(item)),
                )[:worst],
            ),
        ],
    )


def _collect_items(rows: Sequence[Mapping[str, Any]], models: Sequence[str], primary: str) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        item = found.setdefault(row["id"], {**row, "answers": {}, "scores": {}})
        item["answers"][row["model"]] = _mark_shared_words(row["answer"], row["reference"])
        item["scores"][row["model"]] = row[primary]
    return [item for item in found.values() if set(models) <= item["scores"].keys()]


def _make_sort_key(item: Mapping[str, Any]) -> tuple[float, float, str]:
    """Return the key that sorts items by the candidate's score, then by the longer reference."""
    return item["scores"]["candidate"], -len(item["reference"]), item["id"]


def _mark_shared_words(answer: str, reference: str) -> list[tuple[str, bool]]:
    """Return the words of an answer, each with True if the reference has it."""
    known = set(normalise_words(reference))
    return [(word, bool(own := normalise_words(word)) and set(own) <= known) for word in answer.split()]


def _make_line(metric: str, part: Mapping[str, Any], models: Sequence[str]) -> dict[str, Any]:
    """Return one metric of all models on one scale, and the candidate's difference with its meaning."""
    figures: dict[str, dict[str, float]] = {
        name: part["models"][name][metric] for name in models if metric in part["models"][name]
    }
    low, high = min(f["low"] for f in figures.values()), max(f["high"] for f in figures.values())
    width = (high - low) or 1.0
    bars = {
        name: {edge: round(4 + 92 * (value - low) / width, 1) for edge, value in figure.items()}
        for name, figure in figures.items()
    }
    difference: dict[str, float] = part["differences"][metric]
    return {
        "metric": metric,
        "figures": figures,
        "bars": bars,
        "difference": difference,
        "verdict": _judge_difference(metric, difference),
    }


def _judge_difference(metric: str, difference: Mapping[str, float]) -> str:
    if metric in DESCRIPTIVE:
        return "describes"
    if difference["low"] <= 0 <= difference["high"]:
        return "open"
    return "better" if (difference["low"] > 0) != (metric in LOWER_IS_BETTER) else "worse"


def _make_histograms(items: Sequence[Mapping[str, Any]], models: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return a histogram of each model's scores in tenths; heights are in percent of the highest bar."""
    counts = {name: [0] * 10 for name in models}
    for item in items:
        for name in models:
            counts[name][min(9, int(10 * item["scores"][name]))] += 1
    highest = max((n for found in counts.values() for n in found), default=0) or 1
    return {
        name: [
            {"count": n, "height": round(100 * n / highest, 1), "span": f"{i / 10:g} to {(i + 1) / 10:g}"}
            for i, n in enumerate(found)
        ]
        for name, found in counts.items()
    }


def _format_metric(metric: str) -> str:
    known = {"f1": "F1", "bleu": "BLEU", "rouge": "ROUGE", "l": "L"}
    return " ".join(known.get(part, part) for part in metric.split("_")).replace("ROUGE ", "ROUGE-")


def _format_number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 20 else f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"

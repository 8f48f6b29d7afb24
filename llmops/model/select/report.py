"""The table of a selection: a row for each model that was considered, with its score and why it was taken or left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from llmops.model.base.catalog import Entry
from llmops.model.select.zeroshot import Score


def catalogue_row(entry: Entry, source: str, local: bool, score: Score | None, why: str) -> dict[str, str]:
    """The cells of a model of the catalogue: column → text.

    Args:
        entry: the model.
        source: what of it is taken, a revision or a package's version.
        local: whether its weights are on this machine.
        score: what the untuned model scored; None if it was not scored.
        why: it was taken or left.
    """
    return {
        "model": entry.model,
        "revision": source,
        "licence": entry.licence + (", gated" if entry.gated else ""),
        "languages": " ".join(entry.languages),
        "context": f"{entry.context:,}",
        "parameters": f"{entry.parameters:g} B",
        "training": f"{entry.training_gib:.1f} GiB",
        "serving": f"{entry.serving_gib:.1f} GiB",
        "weights": "here" if local else "to download",
        **score_cells(score),
        "why": why,
    }


def score_cells(score: Score | None) -> dict[str, str]:
    """The cells of an untuned model's score; empty ones if it was not scored."""
    found = score and score.interval()
    return {"bits per byte": f"{found['mean']:.3f} ({found['low']:.3f} to {found['high']:.3f})" if found else ""}


def write_report(rows: Sequence[Mapping[str, str]], items: int, path: Path) -> None:
    """Write the table as Markdown, the chosen model first, then the others that pass.

    Args:
        rows: all with the same columns.
        items: how many validation examples the models were scored on.
        path: the file.
    """
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

"""The report of `compress`: a table of the variants, and a plot of size against quality."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_report(document: Mapping[str, Any], out: Path) -> None:
    """Write `report.md` and `compression.png` into `out` from the content of `compression.json`."""
    rows, batch = document["variants"], document["batch"]
    lines = [
        "# Compression",
        "",
        f"Chosen: **{document['chosen']}** ({document['rule']}). Measured on {document['items']} validation items; "
        f"differences from the full model with {document['confidence']:.0%} intervals.",
        "",
        f"| form | on disk | peak memory | tokens/s at 1 | tokens/s at {batch} | loss | added loss | token F1 | "
        "added token F1 | same answers | |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        full = row is rows[0]
        within = full or row["loss_added"]["high"] <= document["within"]
        verdict = "chosen" if row["variant"] == document["chosen"] else "within" if within else "loses too much"
        lines.append(
            f"| {row['variant']} | {row['size_mib']:.0f} MiB | {row['memory_mib']:.0f} MiB | "
            f"{row['tokens_per_second_1']:.1f} | {row['tokens_per_second_batch']:.1f} | {row['loss']:.4f} | "
            f"{'' if full else _format_interval(row['loss_added'])} | {row['token_f1']:.3f} | "
            f"{'' if full else _format_interval(row['token_f1_added'])} | "
            f"{'' if full else format(row['same_answers'], '.0%')} | {verdict} |"
        )
    lines += ["", "![Size and quality](compression.png)", ""]
    (out / "report.md").write_text("\n".join(lines), encoding="utf-8")
    _plot(document, out / "compression.png")


def _format_interval(interval: Mapping[str, float]) -> str:
    return f"{interval['mean']:+.4f} ({interval['low']:+.4f} to {interval['high']:+.4f})"


def _plot(document: Mapping[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for row in document["variants"]:
        added, colour = row["loss_added"], "#124" if row["variant"] == document["chosen"] else "#9ab"
        axes.plot([row["size_mib"]] * 2, [added["low"], added["high"]], color=colour, linewidth=2)
        axes.plot(row["size_mib"], added["mean"], "o", color=colour)
        label = f"{row['variant']}\n{row['tokens_per_second_batch']:.0f} tokens/s"
        axes.annotate(label, (row["size_mib"], added["mean"]), xytext=(8, 0), textcoords="offset points", va="center")
    axes.axhline(document["within"], color="#c66", linewidth=1, linestyle="--")
    axes.set(xlabel="size on disk (MiB)", ylabel="added loss (nats per answer token)", xlim=(0, None))
    axes.margins(x=0.25)
    figure.savefig(path, dpi=120)

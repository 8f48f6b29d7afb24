"""The report of `compress`: tables of the variants and of a classifier's thresholds, and a plot of both."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmops.model.base.classifier import format_threshold


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
    calibration = document.get("calibration", {})
    lines += [
        "",
        "![Size and quality](compression.png)",
        "",
        *(_describe_threshold(calibration) if calibration else ()),
    ]
    (out / "report.md").write_text("\n".join(lines), encoding="utf-8")
    _plot(document, out / "compression.png")


def _describe_threshold(calibration: Mapping[str, Any]) -> list[str]:
    threshold, outside = calibration["threshold"], calibration["out_of_scope_measured"]
    shown = format_threshold(threshold)
    rule = f"A text whose likeliest label has a probability below **{shown}** gets no label."
    lines = [
        "## Threshold",
        "",
        rule if threshold else "The threshold is 0: every text gets a label, however unlikely it is.",
        "`serving.classify_threshold` sets another one without a new version. Measured on validation texts"
        + (f", and on {outside} out-of-scope texts that did not choose the threshold:" if outside else ":"),
        "",
        "| threshold | refused | right of the given labels |" + (" out-of-scope texts refused |" if outside else ""),
        "|---|---|---|" + ("---|" if outside else ""),
    ]
    for point in calibration["curve"]:
        cell = format_threshold(point["threshold"])
        cells = [f"**{cell}**" if point["threshold"] == threshold else cell, f"{point['refused']:.1%}"]
        cells.append(f"{point['accuracy']:.1%}" if "accuracy" in point else "")
        cells += [f"{point['out_of_scope_refused']:.1%}"] if outside else []
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _format_interval(interval: Mapping[str, float]) -> str:
    return f"{interval['mean']:+.4f} ({interval['low']:+.4f} to {interval['high']:+.4f})"


def _plot(document: Mapping[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    calibration = document.get("calibration", {})
    figure = Figure(figsize=(11 if calibration else 7, 3.5), layout="constrained")
    axes, *others = figure.subplots(1, 2 if calibration else 1, squeeze=False)[0]
    for row in document["variants"]:
        added, colour = row["loss_added"], "#124" if row["variant"] == document["chosen"] else "#9ab"
        axes.plot([row["size_mib"]] * 2, [added["low"], added["high"]], color=colour, linewidth=2)
        axes.plot(row["size_mib"], added["mean"], "o", color=colour)
        label = f"{row['variant']}\n{row['tokens_per_second_batch']:.0f} tokens/s"
        axes.annotate(label, (row["size_mib"], added["mean"]), xytext=(8, 0), textcoords="offset points", va="center")
    axes.axhline(document["within"], color="#c66", linewidth=1, linestyle="--")
    axes.set(xlabel="size on disk (MiB)", ylabel="added loss (nats per answer token)", xlim=(0, None))
    axes.margins(x=0.25)
    if calibration:
        _plot_thresholds(calibration, others[0])
    figure.savefig(path, dpi=120)


def _plot_thresholds(calibration: Mapping[str, Any], axes: Any) -> None:
    lines = {
        "accuracy": ("right of the given labels", "#124"),
        "refused": ("refused", "#c66"),
        "out_of_scope_refused": ("out-of-scope texts refused", "#2f6f8f"),
    }
    for key, (label, colour) in lines.items():
        points = [(point["threshold"], point[key]) for point in calibration["curve"] if key in point]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color=colour, label=label, markersize=3)
    axes.axvline(calibration["threshold"], color="#999", linewidth=1, linestyle="--", label="chosen")
    axes.set(xlabel="threshold", ylabel="share of texts", ylim=(-0.03, 1.03))
    axes.legend(fontsize=8)

"""The report of a training for a person: its figures and the loss, drawn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def plot_loss(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw loss over optimiser steps, with its running mean, and the measured validation losses."""
    from matplotlib.figure import Figure

    rows = [(row["step"], row["loss"]) for row in history if "loss" in row]
    validations = [(row["step"], row["validation_loss"]) for row in history if "validation_loss" in row]
    steps, losses = zip(*rows, strict=True)
    smooth = losses[0]
    running = [smooth := 0.8 * smooth + 0.2 * value for value in losses]
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color="#9ab", linewidth=1, label="step")
    axes.plot(steps, running, color="#124", linewidth=2, label="running mean")
    if validations:
        axes.plot(*zip(*validations, strict=True), color="#c52", marker="o", label="validation")
    axes.set(xlabel="optimiser step", ylabel="loss per answer token (nats)", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def write_report(metrics: Mapping[str, Any], path: Path) -> None:
    """Write the figures as a table, and the plot below them."""
    rows = [f"| {name.replace('_', ' ')} | {'–' if value is None else value} |" for name, value in metrics.items()]
    lines = ["# Training", "", "| | |", "| --- | --- |", *rows, "", "![Loss over optimiser steps](loss.png)", ""]
    if smoothing := metrics["label_smoothing"]:
        lines += [
            f"Training smooths the labels by {smoothing}, validation does not. So the loss of training is higher.",
            "",
        ]
    if metrics["truncated"]:
        share = 100 * metrics["truncated_share"]
        lines += [f"**{metrics['truncated']} examples ({share:.1f} %) lost a part of their context: raise "]
        lines[-1] += "`features.max_tokens` if the base model's context allows.**"
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")

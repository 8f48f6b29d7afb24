"""The report of a search: a table of its trials, and a plot of how each learned and where the good ones lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmops.artifacts import write_whole
from llmops.model.tune.halving import Trial, best_trial, standing

PLOT = "trials.png"


def report(trials: Sequence[Trial], ladder: Sequence[int], out: Path) -> None:
    """Write `report.md` and `trials.png`, the best trials first; without trials only the words.

    Args:
        trials: in the order in which they began.
        ladder: the optimiser steps after which trials were compared.
        out: the folder to write to.
    """
    if not trials:
        write_whole(out / "report.md", b"# Search\n\nNothing was searched: the starting point was taken.\n")
        return
    spent = sum(trial.steps for trial in trials)
    ordered = [trial for _, trial in sorted(zip(standing(trials), trials, strict=True), key=lambda pair: pair[0])]
    head = ["trial", "learning rate", "rank", "batch", *(f"loss at {rung}" for rung in ladder), "what became of it"]
    winner = best_trial(trials)
    rows = [" | ".join(head), "---:|" * (len(head) - 1) + "---", *(_row(t, winner, ladder) for t in ordered)]
    text = (
        f"# Search\n\n{len(trials)} trials, {spent} optimiser steps; all of them whole would have been "
        f"{len(trials) * ladder[-1]}. Losses are nats per answer token of validation examples.\n\n"
        + "\n".join(f"| {row} |" for row in rows)
        + f"\n\n![Loss over optimiser steps, and over the learning rate]({PLOT})\n"
    )
    write_whole(out / "report.md", text.encode())
    _plot(trials, out / PLOT)


def _row(trial: Trial, winner: Trial, ladder: Sequence[int]) -> str:
    if trial.error:
        fate = "failed: " + trial.error.replace("|", "\\|").replace("\n", " ")
    elif trial is winner:
        fate = "**best**"
    else:
        fate = "trained whole" if trial.steps == ladder[-1] else f"stopped at {trial.steps}"
    losses = [f"{trial.losses[rung]:.4f}" if rung in trial.losses else "" for rung in ladder]
    found = trial.found
    return " | ".join(
        [str(trial.number), f"{found.learning_rate:.2e}", str(found.rank), str(found.batch), *losses, fate]
    )


def _plot(trials: Sequence[Trial], path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    curves, rates = figure.subplots(1, 2, sharey=True)
    judged, winner = [trial for trial in trials if trial.losses], best_trial(trials)
    whole = max((trial.steps for trial in judged), default=0)
    for trial in judged:
        colour = "#c2571a" if trial is winner else "#2f6f8f" if trial.steps == whole else "#9ab"
        steps = sorted(trial.losses)
        curves.plot(steps, [trial.losses[s] for s in steps], color=colour, marker="o", markersize=4, linewidth=1.2)
        rates.plot(
            trial.found.learning_rate, trial.loss, color=colour, marker="o", markersize=3 + trial.found.rank**0.5
        )
    curves.set(xlabel="optimiser steps", ylabel="validation loss (nats per answer token)")
    curves.xaxis.set_major_locator(MaxNLocator(integer=True))
    rates.set(xlabel="learning rate (larger mark: higher rank)", xscale="log")
    for axes in (curves, rates):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("best: orange; trained whole: blue; stopped: grey", fontsize=9)
    figure.savefig(path, dpi=110, metadata={"Software": None})

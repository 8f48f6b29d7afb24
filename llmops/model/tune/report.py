"""The report of a search: a table of its trials, and a plot of their losses and of the good points."""

from collections.abc import Sequence
from pathlib import Path

from llmops.frame.artifacts import write_atomically
from llmops.model.training.space import SearchSpace
from llmops.model.tune.halving import Trial, find_best_trial, score_trials
from llmops.model.tune.noise import Gain

PLOT_FILE = "trials.png"


def write_report(
    trials: Sequence[Trial], space: SearchSpace, ladder: Sequence[int], gain: Gain | None, out: Path
) -> None:
    """Write `report.md` and `trials.png`, the best trials first. Without trials write only the text.

    `ladder` are the optimiser steps after which trials were compared; 0 is the end. `gain` is that of the best trial
    over the start; None if the best is the start, or the start failed.
    """
    if not trials:
        write_atomically(out / "report.md", b"# Search\n\nNothing was searched: the starting point was taken.\n")
        return
    spent = sum(trial.trained for trial in trials)
    ordered = [trial for _, trial in sorted(zip(score_trials(trials), trials, strict=True), key=lambda pair: pair[0])]
    winner, names = find_best_trial(trials), [d.name for d in space.dimensions]
    measured = [f"loss at {rung}" if rung else "loss" for rung in ladder]
    head = ["trial", *(name.replace("_", " ") for name in names), "steps", *measured, "what became of it"]
    rows = [
        " | ".join(head),
        "---:|" * (len(head) - 1) + "---",
        *(_format_row(t, winner, names, ladder) for t in ordered),
    ]
    whole = f"; all of them whole would have been {len(trials) * ladder[-1]}" if ladder[-1] else ""
    text = (
        f"# Search\n\n{len(trials)} trials, {spent} optimiser steps{whole}. Losses are nats per answer token of "
        f"validation examples.\n\n{_describe_result(winner, gain)}\n\n"
        + "\n".join(f"| {row} |" for row in rows)
        + f"\n\n![Loss over optimiser steps, and over the learning rate]({PLOT_FILE})\n"
    )
    write_atomically(out / "report.md", text.encode())
    _plot(trials, out / PLOT_FILE)


def _describe_result(winner: Trial, gain: Gain | None) -> str:
    if gain is None:
        return f"Trial {winner.number} leads, and its point is taken."
    figures = (
        f"{gain.nats:.4f} nats below the starting point, lower bound {gain.low:.4f} at a level of {gain.level:.2g}"
    )
    if gain.beyond_noise:
        return f"Trial {winner.number} leads, {figures}: its point is taken."
    return (
        f"Trial {winner.number} leads, {figures}: that may be noise of the validation items, so **the starting point "
        "is taken**. More `tune.validation_items` or longer trials would tell more."
    )


def _format_row(trial: Trial, winner: Trial, names: Sequence[str], ladder: Sequence[int]) -> str:
    if trial.error:
        outcome = "failed: " + trial.error.replace("|", "\\|").replace("\n", " ")
    elif trial is winner:
        outcome = "**best**"
    else:
        outcome = "trained whole" if trial.steps == ladder[-1] else f"stopped at {trial.steps}"
    losses = [f"{trial.losses[rung]:.4f}" if rung in trial.losses else "" for rung in ladder]
    values = [f"{getattr(trial.found, name):.3g}" for name in names]
    return " | ".join([str(trial.number), *values, str(trial.trained), *losses, outcome])


def _plot(trials: Sequence[Trial], path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    curves, rates = figure.subplots(1, 2, sharey=True)
    judged, winner = [trial for trial in trials if trial.losses], find_best_trial(trials)
    whole = max((trial.steps for trial in judged), default=0)
    for trial in judged:
        colour = "#c2571a" if trial is winner else "#2f6f8f" if trial.steps == whole else "#9ab"
        rungs = sorted(trial.losses)
        steps = [rung or trial.trained for rung in rungs]
        curves.plot(
            steps, [trial.losses[rung] for rung in rungs], color=colour, marker="o", markersize=4, linewidth=1.2
        )
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

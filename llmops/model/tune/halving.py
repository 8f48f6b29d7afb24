"""Successive halving: short trainings for many, long ones for the few that lead.

Jamieson & Talwalkar, arXiv:1502.07943; with a rung's best promoted as soon as it leads, so that a trial need not wait
for others: Li et al., "A System for Massively Parallel Hyperparameter Tuning" (ASHA), arXiv:1810.05934. At least one of
a rung is always promoted, so the first trial, which starts at a good point, is trained whole.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llmops.config import Tune
from llmops.model.training.qlora import Hyperparameters


@dataclass(frozen=True, slots=True)
class Trial:
    """One point of the space, and its results so far."""

    number: int
    found: Hyperparameters
    losses: dict[int, float] = field(default_factory=dict)  #: rung → validation loss (nats per answer token)
    error: str = ""  #: the error that ended its training
    nats: tuple[float, ...] = ()  #: of each validation item's answer, at the last measurement
    trained: int = 0  #: optimiser steps until the last measurement

    @property
    def steps(self) -> int:
        """Return the rung that the trial has reached, in optimiser steps; 0 if every trial trains its own epochs."""
        return max(self.losses, default=0)

    @property
    def loss(self) -> float:
        """Return the trial's last validation loss."""
        return self.losses.get(self.steps, math.inf)


@dataclass(frozen=True, slots=True)
class TrialJob:
    """A trial to train further, up to the optimiser step `steps`."""

    trial: Trial
    steps: int


#: Runs jobs and returns their trials, each with a new loss or an error.
RunTrialJobs = Callable[[Sequence[TrialJob]], list[Trial]]


def list_rungs(config: Tune) -> list[int]:
    """Return the steps after which trials are compared: from `rung` or more to `steps`, each `halving` times the last.

    If every trial trains its own epochs, the list has only 0, which stands for the end.
    """
    rungs = [config.steps]
    while config.halving > 1 and rungs[0] // config.halving >= config.rung:
        rungs.insert(0, rungs[0] // config.halving)
    return rungs


def choose_promoted(trials: Sequence[Trial], ladder: Sequence[int], factor: int) -> Trial | None:
    """Return the trial to train further, None if there is none.

    It is the best trial that waits in the top 1/`factor` of a rung, of the highest rung with such a trial. At least one
    trial of a rung is promoted.
    """
    for rung in reversed(ladder[:-1]):
        reached = rank_trials(trials, rung)
        for trial in reached[: max(1, len(reached) // factor)]:
            if trial.steps == rung:
                return trial
    return None


def find_stopped(trials: Sequence[Trial], ladder: Sequence[int], factor: int, total: int) -> list[Trial]:
    """Return the trials that can never be promoted, even if all of the `total` trials reach their rung."""
    promotable = {
        trial.number
        for rung in ladder[:-1]
        for trial in rank_trials(trials, rung)[: max(1, total // factor)]
        if trial.steps == rung
    }
    return [trial for trial in trials if trial.number not in promotable]


def rank_trials(trials: Sequence[Trial], rung: int) -> list[Trial]:
    """Return the trials that reached a rung and have not failed, sorted by their loss there."""
    reached = [trial for trial in trials if rung in trial.losses and not trial.error]
    return sorted(reached, key=lambda trial: (trial.losses[rung], trial.number))


def score_trials(trials: Sequence[Trial]) -> list[float]:
    """Return a score per trial: its rank, 0 for the best, or infinity for a failed trial.

    Trials that were trained further come first, because they have beaten the others on their rung. Trials that were
    trained equally far are sorted by loss.
    """
    order = sorted((t for t in trials if not t.error), key=lambda t: (-t.steps, t.loss, t.number))
    ranks = {trial.number: float(rank) for rank, trial in enumerate(order)}
    return [ranks.get(trial.number, math.inf) for trial in trials]


def find_best_trial(trials: Sequence[Trial]) -> Trial:
    """Return the trial with the best score."""
    return min(zip(score_trials(trials), trials, strict=True), key=lambda pair: (pair[0], pair[1].number))[1]

"""Successive halving: short trainings for many, long ones for the few that lead.

Jamieson & Talwalkar, arXiv:1502.07943; with a rung's best promoted as soon as it leads, so that a trial need not wait
for others: Li et al., "A System for Massively Parallel Hyperparameter Tuning" (ASHA), arXiv:1810.05934. At least one of
a rung is always promoted, so the first trial, which starts at a good point, is trained whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llmops.config import Tune
from llmops.model.training.qlora import Hyperparameters


@dataclass(frozen=True, slots=True)
class Trial:
    """One point of the space, and how it has done so far."""

    number: int
    found: Hyperparameters
    losses: dict[int, float] = field(default_factory=dict)  #: rung → validation loss (nats per answer token)
    error: str = ""  #: why its training could not go on
    nats: tuple[float, ...] = ()  #: of each validation item's answer, when it was measured last
    trained: int = 0  #: optimiser steps until then

    @property
    def steps(self) -> int:
        """The rung it has reached: the optimiser steps it was trained, 0 where every trial trains its own epochs."""
        return max(self.losses, default=0)

    @property
    def loss(self) -> float:
        """Its last validation loss."""
        return self.losses.get(self.steps, math.inf)


@dataclass(frozen=True, slots=True)
class TrialJob:
    """A trial to train on, up to the optimiser step `steps`."""

    trial: Trial
    steps: int


#: Trains what the jobs say; returns their trials, each with a loss or an error more.
RunTrialJobs = Callable[[Sequence[TrialJob]], list[Trial]]


def rungs(config: Tune) -> list[int]:
    """The optimiser steps after which trials are compared, `halving` times apart, from `rung` or more up to `steps`.

    Only 0, which stands for the end, where every trial trains its own epochs.
    """
    found = [config.steps]
    while config.halving > 1 and found[0] // config.halving >= config.rung:
        found.insert(0, found[0] // config.halving)
    return found


def promote(trials: Sequence[Trial], ladder: Sequence[int], factor: int) -> Trial | None:
    """The trial to train on: of the highest rung that has one, the best trial that waits there in its top 1/`factor`.

    At least one of a rung is promoted. None if no trial is to go on.
    """
    for rung in reversed(ladder[:-1]):
        reached = ranking(trials, rung)
        for trial in reached[: max(1, len(reached) // factor)]:
            if trial.steps == rung:
                return trial
    return None


def stopped(trials: Sequence[Trial], ladder: Sequence[int], factor: int, total: int) -> list[Trial]:
    """The trials that will never go on, even if all of the `total` trials reach their rung."""
    going = {
        trial.number
        for rung in ladder[:-1]
        for trial in ranking(trials, rung)[: max(1, total // factor)]
        if trial.steps == rung
    }
    return [trial for trial in trials if trial.number not in going]


def ranking(trials: Sequence[Trial], rung: int) -> list[Trial]:
    """The trials that reached a rung and did not fail since, by their loss there."""
    reached = [trial for trial in trials if rung in trial.losses and not trial.error]
    return sorted(reached, key=lambda trial: (trial.losses[rung], trial.number))


def standing(trials: Sequence[Trial]) -> list[float]:
    """A score per trial, smaller is better; infinite for one that failed.

    It is the trial's place. Those that were trained further come first, since they won against all that they left
    behind; of those trained as far, the one with the lower loss.
    """
    order = sorted((t for t in trials if not t.error), key=lambda t: (-t.steps, t.loss, t.number))
    places = {trial.number: float(place) for place, trial in enumerate(order)}
    return [places.get(trial.number, math.inf) for trial in trials]


def best_trial(trials: Sequence[Trial]) -> Trial:
    """The trial that leads."""
    return min(zip(standing(trials), trials, strict=True), key=lambda pair: (pair[0], pair[1].number))[1]

"""Search: the loss that optimiser steps buy. Ours, plain HyperOpt, and Optuna with its pruners, on the same trainings.

A small Llama, which has read the example's questions and contexts, learns its answers with QLoRA, through the very code
that the stage `tune` trains a trial with. That is done once for a grid of learning rates, ranks and batches, and the
losses after 3, 12 and 48 optimiser steps are kept; between two learning rates they are interpolated. The searches then
pay for the steps that they would have trained and get the losses from there: all arms see the same trainings, and seeds
cost nothing. Every arm spends the steps of 24 whole trials.

    python benchmarks/tuning.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np  # noqa: E402
from grid import (  # noqa: E402
    BATCHES,
    CONFIG,
    LADDER,
    RANKS,
    RATES,
    SPACE,
    Curves,
    Point,
    inputs,
    loss_at,
    read_curves,
    train_grid,
    write_curves,
)  # fmt: skip
from peers import Peer, attempted, in_process  # noqa: E402
from report import divided, finish, parser  # noqa: E402

from llmops.model.tune import stage as tune  # noqa: E402
from llmops.model.tune.halving import Trial, TrialJob  # noqa: E402

OPTUNA = Peer("optuna", ("optuna>=5.0",), beside=True)
BUDGET = 24 * CONFIG.steps  #: optimiser steps that every arm spends
OURS, HYPEROPT = "ours", "HyperOpt TPE"


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__file__, __doc__, "11 learning rates and 5 seeds, not 21 and 50")
    made.add_argument("--arm", help=argparse.SUPPRESS)
    made.add_argument("--curves", type=Path, help=argparse.SUPPRESS)
    made.add_argument("--seeds", type=int, help=argparse.SUPPRESS)
    return made.parse_args(arguments)


def main() -> None:
    """Train the grid, run all arms on it and print the table."""
    told = options()
    if told.arm:
        curves = read_curves(told.curves)
        print(json.dumps([ARMS[told.arm](curves, seed).told() for seed in range(told.seeds)]))
        return
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}  # the trainings run side by side, one a core
    seeds = 5 if told.quick else 50
    arms: dict[str, dict[str, float]] = {}
    failed: dict[str, str] = {}
    traces: dict[str, list[dict[str, Any]]] = {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        features, base = inputs(Path(folder))
        curves = train_grid(features, base, 11 if told.quick else 21)
        print(f"{len(curves)} trainings of {CONFIG.steps} steps took {time.monotonic() - began:.0f} s", flush=True)
        write_curves(curves, kept := Path(folder) / "curves.json")
        for arm in ARMS:
            print(f"  {arm}: {seeds} seeds …", file=sys.stderr, flush=True)
            with attempted(arm, failed):
                python = OPTUNA.python() if arm.startswith("Optuna") else sys.executable
                given = ("--arm", arm, "--curves", kept, "--seeds", str(seeds))
                traces[arm] = in_process(__file__, *given, python=python)
                arms[arm] = figures(traces[arm])
    ratios = divided(
        arms, {f"final loss, ours over {arm}": ((OURS, "loss"), (arm, "loss")) for arm in ARMS if arm != OURS}
    )
    if traces.keys() >= {OURS, HYPEROPT}:
        ratios["steps that ours needs for plain HyperOpt's final loss, of plain HyperOpt's"] = statistics.median(
            steps_to(ours, theirs["best"]) / BUDGET for ours, theirs in zip(traces[OURS], traces[HYPEROPT], strict=True)
        )
    best = min(curves, key=lambda point: curves[point][-1])
    print(f"{seeds} seeds of {BUDGET} steps; a trial has {CONFIG.steps} and is compared after {LADDER[:-1]}")
    print(f"best of the grid: {curves[best][-1]:.3f}, learning rate {best[0]:.1e}, rank {best[1]}, batch {best[2]}")
    finish(told, arms, ratios, failed, ("hyperopt", "torch"), [OPTUNA])


@dataclass
class Trace:
    """What a search has spent and what it has found."""

    curves: Curves
    steps: int = 0
    best: float = math.inf  #: lowest loss of a whole trial
    found: list[tuple[int, float]] = field(default_factory=list)  #: steps spent, and the best loss then
    whole: int = 0  #: whole trials

    def pay(self, point: Point, rung: int, done: int = -1) -> float:
        """Train from rung `done` to `rung` and get the loss there; what lies beyond the budget counts for nothing."""
        self.steps += LADDER[rung] - (LADDER[done] if done >= 0 else 0)
        loss = loss_at(self.curves, point, rung)
        if rung == len(LADDER) - 1 and self.steps <= BUDGET:
            self.best, self.whole = min(self.best, loss), self.whole + 1
            self.found.append((self.steps, self.best))
        return loss

    def told(self) -> dict[str, Any]:
        """Its figures, for the process that compares the arms."""
        return {"best": self.best, "found": self.found, "whole": self.whole}


def ours(curves: Curves, seed: int) -> Trace:
    """The stage's own search, its measuring replaced."""
    trace = Trace(curves)

    def measure(jobs: Sequence[TrialJob]) -> list[Trial]:
        (job,) = jobs
        rung, found = LADDER.index(job.steps), job.trial.found
        done = LADDER.index(job.trial.steps) if job.trial.steps else -1
        loss = trace.pay((found.learning_rate, found.rank, found.batch), rung, done)
        return [replace(job.trial, losses={**job.trial.losses, job.steps: loss})]

    for _ in tune.run_search(CONFIG.model_copy(update={"seed": seed}), SPACE, [], measure):
        if trace.steps >= BUDGET:
            break
    return trace


def plain_hyperopt(curves: Curves, seed: int) -> Trace:
    """HyperOpt as its documentation shows it: every trial whole."""
    import hyperopt

    trace = Trace(curves)

    def objective(values: dict[str, Any]) -> float:
        return trace.pay((values["learning_rate"], values["rank"], values["batch"]), len(LADDER) - 1)

    space = {
        "learning_rate": hyperopt.hp.loguniform("learning_rate", *map(math.log, RATES)),
        "rank": hyperopt.hp.choice("rank", RANKS),
        "batch": hyperopt.hp.choice("batch", BATCHES),
    }
    hyperopt.fmin(
        objective,
        space,
        hyperopt.tpe.suggest,
        BUDGET // CONFIG.steps,
        rstate=np.random.default_rng(seed),
        show_progressbar=False,
        verbose=False,
    )
    return trace


def with_optuna(curves: Curves, seed: int, pruner: str) -> Trace:
    """Optuna's TPE, which reports at the same rungs and stops when its pruner says so."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruners: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
        "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(
            min_resource=LADDER[0], reduction_factor=CONFIG.halving
        ),
        "hyperband": lambda: optuna.pruners.HyperbandPruner(LADDER[0], LADDER[-1], CONFIG.halving),
    }
    trace = Trace(curves)

    def objective(trial: optuna.Trial) -> float:
        point = (
            trial.suggest_float("learning_rate", *RATES, log=True),
            trial.suggest_categorical("rank", RANKS),
            trial.suggest_categorical("batch", BATCHES),
        )
        for rung, steps in enumerate(LADDER):
            loss = trace.pay(point, rung, rung - 1)
            trial.report(loss, steps)
            if rung < len(LADDER) - 1 and trial.should_prune():
                raise optuna.TrialPruned
        return loss

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed), pruner=pruners[pruner]())
    study.optimize(objective, callbacks=[lambda study, _: study.stop() if trace.steps >= BUDGET else None])
    return trace


ARMS: dict[str, Callable[[Curves, int], Trace]] = {
    OURS: ours,
    HYPEROPT: plain_hyperopt,
    "Optuna TPE + halving": partial(with_optuna, pruner="halving"),
    "Optuna TPE + Hyperband": partial(with_optuna, pruner="hyperband"),
}


def steps_to(trace: dict[str, Any], loss: float) -> float:
    """The steps after which the best loss was as low as `loss`; infinite if it never was."""
    return next((steps for steps, best in trace["found"] if best <= loss), math.inf)


def figures(traces: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Over seeds: the median loss after parts of the budget and at its end, the lowest and highest there, and how many
    trials were trained whole."""
    ends = [trace["best"] for trace in traces]

    def at(share: float) -> float:
        return statistics.median(
            min((best for steps, best in trace["found"] if steps <= share * BUDGET), default=math.inf)
            for trace in traces
        )

    return {
        "loss at 1/8": at(1 / 8),
        "loss at 1/4": at(1 / 4),
        "loss at 1/2": at(1 / 2),
        "loss": statistics.median(ends),
        "lowest": min(ends),
        "highest": max(ends),
        "whole trials": statistics.median(trace["whole"] for trace in traces),
    }


if __name__ == "__main__":
    main()

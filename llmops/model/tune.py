"""Search learning rate, rank and batch with HyperOpt's TPE. A killed search goes on from the trials it finished.

python -m llmops run tune
"""

from __future__ import annotations

import gc
import logging
import math
import pickle
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hyperopt import STATUS_OK, Trials, fmin, hp, space_eval, tpe

from llmops.artifacts import write_json, write_whole
from llmops.config import Train, Tune
from llmops.features.store import read_offline
from llmops.features.tokenize import Tokens
from llmops.model.fit import fit
from llmops.model.packing import mean_loss
from llmops.model.qlora import Hyperparameters, trainable
from llmops.model.select import base_path

log = logging.getLogger(__name__)

TRIALS = "trials.pickle"  #: HyperOpt's own state, rewritten after every trial


def run(config: Tune, *, features: Path, select: Path, out: Path) -> dict[str, Any]:
    """Write `best.json` and `trials.json`: the loss on validation examples after `config.steps` optimiser steps."""
    if not config.trials:
        best = start(config)
        write_json(out / "best.json", best)
        return {"trials": 0, **best}
    examples = read_offline(features, "train")
    held_out = read_offline(features, "validation")[: config.validation_items]
    objective = partial(try_out, config=config, base=base_path(select), examples=examples, held_out=held_out, out=out)
    space = {
        "learning_rate": hp.loguniform("learning_rate", *(math.log(bound) for bound in config.learning_rate)),
        "rank": hp.choice("rank", config.rank),
        "batch": hp.choice("batch", config.batch),
    }
    trials = read_trials(out)
    for number in range(len(trials), config.trials):
        fmin(
            objective,
            space,
            # TPE's own 20 random start-up trials would make a small search a random one.
            algo=partial(tpe.suggest, n_startup_jobs=5) if number else partial(suggest_start, config=config),
            max_evals=number + 1,
            trials=trials,
            # A generator a trial, so that a killed search draws what it would have drawn.
            rstate=np.random.default_rng([config.seed, number]),
            show_progressbar=False,
            verbose=False,
        )
        write_trials(out, trials)
    rows = [
        {"trial": t["tid"], **plain(values_of(t, space)), "loss": round(float(t["result"]["loss"]), 4)}
        for t in trials.trials
    ]
    best = plain(values_of(trials.best_trial, space))
    (out / TRIALS).unlink()
    write_json(out / "best.json", best)
    write_json(out / "trials.json", rows)
    return {"trials": len(rows), "best_loss": min(row["loss"] for row in rows), **best}


def start(config: Tune) -> dict[str, Any]:
    """Where a search begins, and what is used without one: three quarters up the logarithmic range of learning rates
    (3.2e-4 by default; QLoRA, arXiv:2305.14314, table 9, has 2e-4 for 7 B, and smaller models bear more), the largest
    rank and batch.
    """
    low, high = (math.log(bound) for bound in config.learning_rate)
    return {"learning_rate": math.exp(low + 0.75 * (high - low)), "rank": max(config.rank), "batch": max(config.batch)}


def suggest_start(new_ids: list[int], domain: Any, trials: Trials, seed: int, *, config: Tune) -> list[dict[str, Any]]:
    """HyperOpt's suggestion algorithm that suggests the starting point; of a choice, it takes the index."""
    values = start(config)
    drawn = {**values, "rank": config.rank.index(values["rank"]), "batch": config.batch.index(values["batch"])}
    miscs = [
        {
            "tid": tid,
            "cmd": domain.cmd,
            "workdir": domain.workdir,
            "idxs": {name: [tid] for name in drawn},
            "vals": {name: [value] for name, value in drawn.items()},
        }
        for tid in new_ids
    ]
    documents: list[dict[str, Any]] = trials.new_trial_docs(
        new_ids, [None for _ in new_ids], [domain.new_result() for _ in new_ids], miscs
    )
    return documents


def try_out(
    values: dict[str, Any], *, config: Tune, base: str, examples: list[Tokens], held_out: list[Tokens], out: Path
) -> dict[str, Any]:
    """Train a fresh model for `config.steps` steps and return its validation loss (nats per answer token)."""
    found = Hyperparameters(float(values["learning_rate"]), int(values["rank"]), int(values["batch"]))
    training = Train(seed=config.seed)
    model = trainable(base, training, found)
    scratch = out / ".trial"
    fit(model, examples, training, found, scratch, max_steps=config.steps)
    shutil.rmtree(scratch, ignore_errors=True)
    loss = mean_loss(model, held_out)
    del model
    gc.collect()
    log.info("trial %s: validation loss %.4f", found, loss)
    return {"loss": loss, "status": STATUS_OK}


def values_of(trial: dict[str, Any], space: dict[str, Any]) -> dict[str, Any]:
    """What a trial tried: HyperOpt keeps the index of a choice."""
    values: dict[str, Any] = space_eval(space, {name: drawn[0] for name, drawn in trial["misc"]["vals"].items()})
    return values


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """The values as JSON can hold them."""
    return {
        "learning_rate": float(values["learning_rate"]),
        "rank": int(values["rank"]),
        "batch": int(values["batch"]),
    }


def read_trials(out: Path) -> Trials:
    """The trials that an interrupted search finished."""
    file = out / TRIALS
    return pickle.loads(file.read_bytes()) if file.is_file() else Trials()


def write_trials(out: Path, trials: Trials) -> None:
    """Keep the finished trials, whole or not at all."""
    write_whole(out / TRIALS, pickle.dumps(trials))

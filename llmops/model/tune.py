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
from hyperopt import STATUS_OK, fmin, hp, space_eval, tpe

from llmops.artifacts import write_json
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
        best = midpoint(config)
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
    found = fmin(
        objective,
        space,
        # TPE's own 20 random start-up trials would make a small search a random one.
        algo=partial(tpe.suggest, n_startup_jobs=min(5, max(1, config.trials // 2))),
        max_evals=config.trials,
        rstate=np.random.default_rng(config.seed),
        trials_save_file=str(out / TRIALS),
        show_progressbar=False,
        verbose=False,
    )
    trials = read_trials(out, space)
    (out / TRIALS).unlink()
    best = space_eval(space, found)
    best = {"learning_rate": float(best["learning_rate"]), "rank": int(best["rank"]), "batch": int(best["batch"])}
    write_json(out / "best.json", best)
    write_json(out / "trials.json", trials)
    return {"trials": len(trials), "best_loss": min(t["loss"] for t in trials), **best}


def midpoint(config: Tune) -> dict[str, Any]:
    """What is used without a search: the geometric middle of the learning rates, the largest rank and batch."""
    low, high = config.learning_rate
    return {"learning_rate": math.sqrt(low * high), "rank": max(config.rank), "batch": max(config.batch)}


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


def read_trials(out: Path, space: dict[str, Any]) -> list[dict[str, Any]]:
    """Every finished trial with its values and loss, in order."""
    trials = pickle.loads((out / TRIALS).read_bytes())
    rows = []
    for trial in trials.trials:
        values = space_eval(space, {k: v[0] for k, v in trial["misc"]["vals"].items()})
        rows.append({"trial": trial["tid"], **values, "loss": round(float(trial["result"]["loss"]), 4)})
    return rows

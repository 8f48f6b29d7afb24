"""Search hyperparameters: grid, random or TPE, with successive halving or on Spark.

The best point is taken only if it beats the starting point by more than the noise of the validation items. A killed
search continues after its last measured trial.

    python -m llmops run tune
"""

import gc
import json
import logging
import math
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from llmops.config import Train, Tune
from llmops.data.features.examples import read_offline
from llmops.data.features.tokenize import Tokens
from llmops.frame.artifacts import write_json
from llmops.frame.errors import TrainingError
from llmops.frame.records import get_base_path
from llmops.model.base.packing import average_per_token, compute_answer_nats
from llmops.model.training.fit import fit
from llmops.model.training.qlora import Hyperparameters, load_trainable_model
from llmops.model.training.reuse import keep_training
from llmops.model.training.space import SearchSpace, build_search_space, count_points, make_start_point
from llmops.model.tune.halving import (
    RunTrialJobs,
    Trial,
    TrialJob,
    choose_promoted,
    find_best_trial,
    find_stopped,
    list_rungs,
    score_trials,
)
from llmops.model.tune.noise import Gain, compute_gain
from llmops.model.tune.report import write_report
from llmops.model.tune.search import propose_point

log = logging.getLogger(__name__)

PATIENCE = 3  #: whole trials in a row that may be no better than an earlier one
TRIALS_FILE = "trials.json"  #: rewritten after every measurement; an interrupted search continues from it
CHECKPOINTS_FOLDER = ".trials"  #: folder of the trials' checkpoints, deleted at the end of the search


def run(config: Tune, *, train: Train, features: Path, select: Path, out: Path) -> dict[str, Any]:
    """Write `best.json`, `trials.json`, the table `report.md` and the plot `trials.png`.

    A trial trains with the settings of the section `train`, for at most `config.steps` optimiser steps. It is judged by
    its loss on validation examples. Hyperparameters that the section fixes are not searched. Nothing is trained if
    there are fewer than two points to compare. If trials are trained whole, the last checkpoint of the chosen one is
    kept for the stage train: see `training.reuse`.

    Raises:
        ConfigError: if a grid has more points than `config.trials`.
        ArtifactError: if there are no examples to train or to validate on.
        TrainingError: if every trial failed.
    """
    space, ladder = build_search_space(config, train), list_rungs(config)
    total = count_points(config, space)
    hyperparameters, gain = make_start_point(space), None
    trials = measured = _read_trials(out)
    if total > 1:
        with _open_job_runner(config, train, features, select, out) as run_jobs:
            for trials in run_search(config, space, measured, run_jobs):
                write_json(out / TRIALS_FILE, [asdict(trial) for trial in trials])
                for trial in find_stopped(trials, ladder, config.halving, total):
                    if config.steps or trial not in (trials[0], find_best_trial(trials)):
                        shutil.rmtree(_get_folder(trial, out), ignore_errors=True)
        chosen, gain = choose_trial(trials, config, features)
        hyperparameters = chosen.found
        if not config.steps:
            keep_training(_get_folder(chosen, out), out)
        shutil.rmtree(out / CHECKPOINTS_FOLDER, ignore_errors=True)
        if chosen.error:
            raise TrainingError(f"All {len(trials)} trials of the search failed; the first: {trials[0].error}")
    write_json(out / "best.json", asdict(hyperparameters))
    write_report(trials, space, ladder, gain, out)
    metrics: dict[str, Any] = {"trials": len(trials), "steps": sum(trial.trained for trial in trials)}
    if trials:
        metrics["best_loss"] = round(find_best_trial(trials).loss, 4)
    if gain:
        metrics |= {"gain": round(gain.nats, 4), "gain_low": round(gain.low, 4), "beyond_noise": gain.beyond_noise}
    return metrics | asdict(hyperparameters)


def choose_trial(trials: Sequence[Trial], config: Tune, features: Path) -> tuple[Trial, Gain | None]:
    """Return the best trial if it beats the start by more than noise, otherwise the start.

    The second value is the gain of the best trial; None if the best trial is the start, or the start failed.
    """
    start, best = min(trials, key=lambda trial: trial.number), find_best_trial(trials)
    if best is start or start.error:
        return best, None
    held_out = draw_examples(features, config.validation_items, config.seed)[1]
    gain = compute_gain(best, start, [len(e.token_ids) - e.prompt_tokens for e in held_out], len(trials) - 1)
    return (best if gain.beyond_noise else start), gain


def run_search(
    config: Tune, space: SearchSpace, trials: Sequence[Trial], run_jobs: RunTrialJobs
) -> Iterator[list[Trial]]:
    """Continue from `trials` until no job is left. Yield all trials after each measurement."""
    current = {trial.number: trial for trial in trials}
    while jobs := choose_jobs(config, space, list(current.values())):
        current |= {trial.number: trial for trial in run_jobs(jobs)}
        yield list(current.values())


def choose_jobs(config: Tune, space: SearchSpace, trials: Sequence[Trial]) -> list[TrialJob]:
    """Return the next jobs: a promoted trial, otherwise up to `config.parallel` new trials; none at the end.

    A search by whole trials, except a grid, also ends when the last `PATIENCE` trials were no better than one before.
    """
    if not config.steps and config.search != "grid" and _is_fruitless(trials):
        return []
    ladder, total = list_rungs(config), count_points(config, space)
    if promoted := choose_promoted(trials, ladder, config.halving):
        return [TrialJob(promoted, ladder[ladder.index(promoted.steps) + 1])]
    tried = list(zip((trial.found for trial in trials), score_trials(trials), strict=True))
    for _ in range(min(config.parallel, total - len(trials))):
        tried.append((propose_point(config, space, tried), math.inf))
    return [
        TrialJob(Trial(number, point), ladder[0]) for number, (point, _) in enumerate(tried) if number >= len(trials)
    ]


@contextmanager
def _open_job_runner(config: Tune, train: Train, features: Path, select: Path, out: Path) -> Iterator[RunTrialJobs]:
    """Yield a function that runs jobs: one after another here, or on Spark."""
    attempt = partial(attempt_job, config=config, train=train, features=features, base=get_base_path(select))
    if config.spark:
        from llmops.model.tune.spark_trials import open_spark_runner

        with open_spark_runner(config, attempt) as run_jobs:
            yield run_jobs
    else:
        yield lambda jobs: [attempt(job, _get_folder(job.trial, out)) for job in jobs]


def attempt_job(job: TrialJob, folder: Path, *, config: Tune, train: Train, features: Path, base: str) -> Trial:
    """Train a trial further from its checkpoint in `folder`; return it with its new validation loss.

    If the loss is no number, or the training fails otherwise, the trial gets an error.
    """
    trial = job.trial
    examples, held_out = draw_examples(features, config.validation_items, config.seed)
    training = train.model_copy(update={"seed": config.seed})
    for path in (folder / "checkpoints").glob("checkpoint-*"):
        # The last run was killed before it judged this checkpoint. A training of whole epochs continues from it.
        if job.steps and int(path.name.split("-")[1]) > trial.steps:
            shutil.rmtree(path)
    try:
        model = load_trainable_model(base, training, trial.found)
        pause = job.steps if job.steps < config.steps else 0
        history = fit(model, examples, training, trial.found, folder, max_steps=config.steps, pause=pause)
        measured = compute_answer_nats(model, held_out)
        loss = average_per_token(measured)
        trained = int(max(row["step"] for row in history))
        del model
        gc.collect()
        if not math.isfinite(loss):
            raise TrainingError(f"The validation loss is {loss} after {trained} steps.")
    except TrainingError as error:
        log.warning("trial %d failed, %s: %s", trial.number, trial.found, error)
        return replace(trial, error=str(error))
    log.info("trial %d after %d steps: validation loss %.4f, %s", trial.number, trained, loss, trial.found)
    nats = tuple(nats for nats, _ in measured)
    return replace(trial, losses={**trial.losses, job.steps: loss}, nats=nats, trained=trained)


@lru_cache(maxsize=1)
def draw_examples(features: Path, items: int, seed: int) -> tuple[Sequence[Tokens], list[Tokens]]:
    """Return the training examples, and `items` validation examples drawn at random."""
    examples, held_out = read_offline(features, "train"), read_offline(features, "validation")
    return examples, random.Random(seed).sample(held_out, min(items, len(held_out)))


def _is_fruitless(trials: Sequence[Trial]) -> bool:
    best = find_best_trial(trials) if trials else None
    return best is not None and not best.error and best.number < len(trials) - PATIENCE


def _get_folder(trial: Trial, out: Path) -> Path:
    return out / CHECKPOINTS_FOLDER / str(trial.number)


def _read_trials(out: Path) -> list[Trial]:
    if not (out / TRIALS_FILE).is_file():
        return []
    rows = json.loads((out / TRIALS_FILE).read_text(encoding="utf-8"))
    return [
        Trial(
            number=row["number"],
            found=Hyperparameters(**row["found"]),
            losses={int(steps): loss for steps, loss in row["losses"].items()},
            error=row["error"],
            nats=tuple(row["nats"]),
            trained=row["trained"],
        )
        for row in rows
    ]

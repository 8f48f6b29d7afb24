"""Trials on a real Spark session through HyperOpt's SparkTrials."""

import errno
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmops.config import Train, Tune
from llmops.frame.errors import DiskFullError, LlmopsError, TrainingError, TransientError
from llmops.model.training.space import build_search_space
from llmops.model.tune import stage as tune
from llmops.model.tune.halving import Trial, TrialJob
from llmops.model.tune.spark_trials import _make_task_error, open_spark_runner

SPACE: Any = {**Tune().space, "learning_rate": ("loguniform", 1e-5, 1e-2)}
CONFIG = Tune(trials=3, halving=1, spark="local[2]", parallel=2, space=SPACE)


def make_objective() -> Callable[[TrialJob, Path], Trial]:
    """Return a function that travels to the workers by value; its loss is how far the learning rate is from 1e-4."""

    def attempt(job: TrialJob, folder: Path) -> Trial:
        assert folder.is_dir() and os.environ["OMP_NUM_THREADS"] == "1"
        if job.trial.found.rank == 3:
            return replace(job.trial, error="The loss is nan.")
        if job.trial.found.rank == 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(job.trial, losses={job.steps: abs(math.log10(job.trial.found.learning_rate) + 4)})

    return attempt


def run_search(config: Tune, before: list[Trial]) -> list[Trial]:
    with open_spark_runner(config, make_objective()) as measure:
        states = [before, *tune.run_search(config, build_search_space(config, Train()), before, measure)]
    assert all(0 < len(b) - len(a) <= config.parallel for a, b in zip(states, states[1:], strict=False))
    return states[-1]


@pytest.fixture(scope="module")
def session() -> Any:
    """One Spark session for all tests here."""
    from llmops.config import Clean
    from llmops.data.spark import open_spark_session

    with open_spark_session(
        Clean(master="local[2]", driver_memory="512m", spark={"spark.executorEnv.OMP_NUM_THREADS": "1"})
    ) as s:
        yield s


@pytest.mark.journey
def test_finds_the_same_and_goes_on_after_a_kill(session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    whole = run_search(CONFIG, [])
    assert [t.number for t in whole] == list(range(3)) and all(8 in t.losses for t in whole)
    assert run_search(CONFIG, whole[:2]) == whole  # killed after the first batch

    *_, local = tune.run_search(
        CONFIG, build_search_space(CONFIG, Train()), [], lambda jobs: [make_objective()(job, tmp_path) for job in jobs]
    )
    assert local == whole


@pytest.mark.journey
def test_a_training_that_fails_is_a_failed_trial_and_a_broken_task_an_error(session: Any) -> None:
    failing, full = (CONFIG.model_copy(update={"trials": 2, "space": {**SPACE, "rank": ("choice", n)}}) for n in (3, 6))
    assert all(trial.error for trial in run_search(failing, []))
    with pytest.raises(DiskFullError, match="No space left"):
        run_search(full, [])


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("ExecutorLostFailure (executor 3 exited)", TransientError),
        (("<class 'llmops.frame.errors.DiskFullError'>", "A checkpoint could not be written"), DiskFullError),
        (("<class 'ModuleNotFoundError'>", "No module named 'llmops'"), TrainingError),
    ],
)
def test_what_befell_a_task_decides_whether_it_is_tried_again(error: Any, kind: type[LlmopsError]) -> None:
    assert type(_make_task_error(error)) is kind

"""Whole trials on Spark, many at once, through HyperOpt's `SparkTrials`."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from hyperopt import STATUS_OK, SparkTrials, Trials, fmin, hp
from hyperopt.base import JOB_STATE_DONE

from llmops.config import Clean, Tune
from llmops.data.spark import open_spark_session
from llmops.frame.errors import DiskFullError, LlmopsError, TrainingError, TransientError
from llmops.frame.transient import is_disk_full
from llmops.model.tune.halving import RunTrialJobs, Trial, TrialJob

#: Spark's words for a task that ended without an error of its own
_LOST_TASK = ("cancelled", "ExecutorLostFailure", "Lost executor", "executor lost")


@contextmanager
def open_spark_runner(config: Tune, attempt: Callable[[TrialJob, Path], Trial]) -> Iterator[RunTrialJobs]:
    """Yield a function that runs several jobs at once, each as a Spark task.

    Executors need this project's packages. They read the artifacts and the base model by the driver's paths.
    """
    # Several trainings on one machine starve each other unless each keeps to its own core: see llmops/frame/machine.py.
    threads = {f"spark.executorEnv.{name}": "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    with open_spark_session(Clean(master=config.spark, spark=threads)) as spark:
        yield lambda jobs: _run_on_spark(jobs, attempt, SparkTrials(parallelism=len(jobs), spark_session=spark))


def _run_on_spark(
    jobs: Sequence[TrialJob], attempt: Callable[[TrialJob, Path], Trial], trials: SparkTrials
) -> list[Trial]:
    """Run each job in a trial of `trials`. HyperOpt only distributes the jobs.

    The points were chosen before, so that a killed search continues with the same points.
    """

    def run_job(number: Any) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            trial = attempt(jobs[int(number)], Path(folder))
        return {"status": STATUS_OK, "loss": trial.loss, "trial": trial}

    fmin(
        run_job,
        hp.randint("number", len(jobs)),
        algo=_suggest_in_order,
        max_evals=len(jobs),
        max_queue_len=len(jobs),
        trials=trials,
        rstate=np.random.default_rng(0),
        return_argmin=False,
        show_progressbar=False,
        verbose=False,
    )
    # Iterating over `trials` would leave out those that failed.
    documents = sorted(trials._dynamic_trials, key=lambda document: document["tid"])
    for document in documents:
        if document["state"] != JOB_STATE_DONE:
            raise _make_task_error(document["misc"].get("error", ""))
    return [document["result"]["trial"] for document in documents]


def _make_task_error(error: Any) -> LlmopsError:
    """Return the error to raise for a failed task. `error` is its exception, or Spark's text of it."""
    message = f"A trial on Spark broke off: {error or 'it was cancelled'}"
    if DiskFullError.__name__ in message or is_disk_full(RuntimeError(message)):
        return DiskFullError(f"{message}. Make room and run it again; what is measured is kept.")
    if not error or any(word in message for word in _LOST_TASK):
        return TransientError(f"{message}. Run it again; what is measured is kept.")
    return TrainingError(message)


def _suggest_in_order(new_ids: list[int], domain: Any, trials: Trials, seed: int) -> list[dict[str, Any]]:
    """Suggest number n for HyperOpt's trial n."""
    miscs = [
        {"tid": i, "cmd": domain.cmd, "workdir": domain.workdir, "idxs": {"number": [i]}, "vals": {"number": [i]}}
        for i in new_ids
    ]
    documents: list[dict[str, Any]] = trials.new_trial_docs(
        new_ids, [None for _ in new_ids], [domain.new_result() for _ in new_ids], miscs
    )
    return documents

"""The point of a space to try next: by grid, at random, or by HyperOpt's TPE.

The next point depends only on the trials before it, so a killed search continues with the same points.
TPE: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hyperopt import STATUS_OK, rand, tpe
from hyperopt.base import JOB_STATE_DONE, Domain, Trials, trials_from_docs

from llmops.config import Tune
from llmops.config.model import TPE_STARTUP
from llmops.model.training.qlora import Hyperparameters
from llmops.model.training.space import SearchSpace, make_grid, make_start_point

MAX_REDRAWS = 100  #: draws of tried points before the first untried point of a small space is taken


def propose_point(config: Tune, space: SearchSpace, tried: Sequence[tuple[Hyperparameters, float]]) -> Hyperparameters:
    """Return the next point. It differs from all that were tried, which are given in order, each with its score.

    A smaller score is better. It is infinite if it is unknown or the trial failed.
    """
    if config.search == "grid":
        return make_grid(space, config.trials)[len(tried)]
    tried_points = {point for point, _ in tried}
    if (first := make_start_point(space)) not in tried_points:
        return first
    domain, history = (
        Domain(dict, {d.name: d.make_hyperopt_node() for d in space.dimensions}),
        _build_history(space, tried),
    )
    for draw in range(MAX_REDRAWS):
        seed = int(np.random.default_rng([config.seed, len(tried), draw]).integers(2**31 - 1))
        point = _draw_point(config.search, space, domain, history, seed)
        if point not in tried_points:
            return point
    return next(point for point in make_grid(space, int(space.size)) if point not in tried_points)


def _build_history(space: SearchSpace, tried: Sequence[tuple[Hyperparameters, float]]) -> Trials:
    documents = []
    for number, (point, score) in enumerate(tried):
        values = {d.name: d.encode(getattr(point, d.name)) for d in space.dimensions}
        documents.append(
            {
                "tid": number,
                "state": JOB_STATE_DONE,
                "spec": None,
                "result": {"status": STATUS_OK, "loss": score},
                "misc": {
                    "tid": number,
                    "cmd": ("domain_attachment", "FMinIter_Domain"),
                    "workdir": None,
                    "idxs": {name: [number] for name in values},
                    "vals": {name: [value] for name, value in values.items()},
                },
                "exp_key": None,
                "owner": None,
                "version": 0,
                "book_time": None,
                "refresh_time": None,
            }
        )
    return trials_from_docs(documents)


def _draw_point(search: str, space: SearchSpace, domain: Domain, history: Trials, seed: int) -> Hyperparameters:
    suggest: Callable[..., Any] = {
        "random": lambda *a: rand.suggest(*a),
        "tpe": lambda *a: tpe.suggest(*a, n_startup_jobs=TPE_STARTUP, verbose=False),
    }[search]
    drawn = {
        name: value[0] for name, value in suggest([len(history)], domain, history, seed)[0]["misc"]["vals"].items()
    }
    return space.make_point({d.name: d.decode(float(drawn[d.name])) for d in space.dimensions})

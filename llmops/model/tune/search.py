"""The space that is searched, and the point of it to try next: by grid, at random, or by HyperOpt's TPE.

What comes next depends on the trials before it and on nothing else, so a killed search goes on as if nothing had been.
TPE: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hyperopt import STATUS_OK, hp, rand, tpe
from hyperopt.base import JOB_STATE_DONE, Domain, Trials, trials_from_docs

from llmops.config import Train, Tune
from llmops.errors import ConfigError
from llmops.model.training.qlora import Hyperparameters

#: Trials before TPE begins to model. HyperOpt's own 20 would make a search of 20 a random one.
STARTUP = 5
START = 0.75  #: of the logarithmic range of learning rates
REDRAWS = 100  #: draws that may all be of tried points, before the first untried one of a small space is taken


@dataclass(frozen=True, slots=True)
class Space:
    """What may be tried: the bounds of the log-uniform learning rate, and the choices of rank and batch."""

    learning_rate: tuple[float, float]
    rank: tuple[int, ...]
    batch: tuple[int, ...]

    @property
    def size(self) -> float:
        """How many points it has; infinite unless the learning rate is fixed."""
        return math.inf if self.learning_rate[0] < self.learning_rate[1] else len(self.rank) * len(self.batch)


def declared_space(config: Tune, train: Train) -> Space:
    """The space of the section `tune`, without what the section `train` fixes."""
    return Space(
        (train.learning_rate, train.learning_rate) if train.learning_rate else config.learning_rate,
        (train.rank,) if train.rank else tuple(sorted(set(config.rank))),
        (train.batch,) if train.batch else tuple(sorted(set(config.batch))),
    )


def start_point(space: Space) -> Hyperparameters:
    """Where a search begins, and what is used without one: three quarters up the logarithmic range of learning rates
    (3.2e-4 by default; QLoRA, arXiv:2305.14314, table 9, has 2e-4 for 7 B, and smaller models bear more), the largest
    rank and batch.
    """
    return Hyperparameters(_between(space.learning_rate, START), max(space.rank), max(space.batch))


def grid(space: Space, trials: int) -> list[Hyperparameters]:
    """All combinations, with as many learning rates as `trials` allow, each in the middle of an equal slice of the
    logarithmic range; with one, that of `start_point`.

    Raises:
        ConfigError: if there are more ranks and batches than trials.
    """
    pairs = len(space.rank) * len(space.batch)
    if pairs > trials:
        raise ConfigError(
            f"A grid of {len(space.rank)} ranks and {len(space.batch)} batches has {pairs} points for each learning "
            f"rate, and tune.trials allows {trials}; raise it, or name fewer in tune.rank and tune.batch."
        )
    count = trials // pairs if space.size == math.inf else 1
    shares = [(i + 0.5) / count for i in range(count)] if count > 1 else [START]
    rates = [_between(space.learning_rate, share) for share in shares]
    return [Hyperparameters(*point) for point in itertools.product(rates, space.rank, space.batch)]


def count_points(config: Tune, space: Space) -> int:
    """How many different points the search will try."""
    return len(grid(space, config.trials)) if config.search == "grid" else int(min(config.trials, space.size))


def propose(config: Tune, space: Space, tried: Sequence[tuple[Hyperparameters, float]]) -> Hyperparameters:
    """The next point, another than those tried.

    Args:
        config: how to search, and the seed.
        space: what may be tried.
        tried: the points so far, in order, each with its score: smaller is better, infinite is unknown or failed.
    """
    if config.search == "grid":
        return grid(space, config.trials)[len(tried)]
    before = {found for found, _ in tried}
    if (first := start_point(space)) not in before:
        return first
    tree, history = _tree(space), _history(space, tried)
    for draw in range(REDRAWS):
        seed = int(np.random.default_rng([config.seed, len(tried), draw]).integers(2**31 - 1))
        point = _draw(config.search, space, tree, history, seed)
        if point not in before:
            return point
    return next(point for point in grid(space, len(space.rank) * len(space.batch)) if point not in before)


def _between(bounds: tuple[float, float], share: float) -> float:
    """The value `share` of the way up a logarithmic range."""
    low, high = bounds
    return low if low == high else math.exp(math.log(low) + share * math.log(high / low))


def _tree(space: Space) -> Domain:
    """The space in HyperOpt's terms; what can have only one value is left out."""
    nodes: dict[str, Any] = {}
    if space.size == math.inf:
        nodes["learning_rate"] = hp.loguniform("learning_rate", *map(math.log, space.learning_rate))
    for name in ("rank", "batch"):
        if len(choices := getattr(space, name)) > 1:
            nodes[name] = hp.choice(name, choices)
    return Domain(dict, nodes)


def _history(space: Space, tried: Sequence[tuple[Hyperparameters, float]]) -> Trials:
    """The trials as HyperOpt keeps them, which has the index of a choice and not its value."""
    documents = []
    for number, (found, score) in enumerate(tried):
        values: dict[str, Any] = {}
        if space.size == math.inf:
            values["learning_rate"] = found.learning_rate
        for name in ("rank", "batch"):
            if len(choices := getattr(space, name)) > 1:
                values[name] = choices.index(getattr(found, name))
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


def _draw(search: str, space: Space, tree: Domain, history: Trials, seed: int) -> Hyperparameters:
    suggest: Callable[..., Any] = {
        "random": lambda *a: rand.suggest(*a),
        "tpe": lambda *a: tpe.suggest(*a, n_startup_jobs=STARTUP, verbose=False),
    }[search]
    drawn = {name: value[0] for name, value in suggest([len(history)], tree, history, seed)[0]["misc"]["vals"].items()}
    return Hyperparameters(
        float(drawn.get("learning_rate", space.learning_rate[0])),
        space.rank[int(drawn.get("rank", 0))],
        space.batch[int(drawn.get("batch", 0))],
    )

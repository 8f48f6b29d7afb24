"""The search space: the range of each searched hyperparameter by HyperOpt's expressions, and values of the others."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hyperopt import hp

from llmops.config import Train, Tune
from llmops.config.space import INTEGERS
from llmops.frame.errors import ConfigError
from llmops.model.training.qlora import Hyperparameters, apply_fixed_values, find_fixed_values

#: usual values without a search; QLoRA, arXiv:2305.14314, table 9, has 2e-4 for 7 B, and smaller models bear
#: more
DEFAULT_VALUES = Hyperparameters(learning_rate=3.2e-4, rank=16, batch=8)
#: start of a search, as a share of each range: 0.75 of the default range of learning rates is 3.2e-4
START_SHARES = {
    "learning_rate": 0.75, "rank": 1.0, "batch": 1.0, "epochs": 0.5, "alpha": 1.0, "dropout": 0.0, "warmup": 0.5,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dimension:
    """One hyperparameter that is searched."""

    name: str
    kind: str  #: the name of the expression
    numbers: tuple[float, ...]

    @property
    def values(self) -> tuple[float, ...]:
        """Return all values of the dimension, from low to high; none if there are infinitely many."""
        if self.kind == "choice":
            return tuple(sorted({self.round_value(n) for n in self.numbers}))
        low, high, *rest = self.numbers
        if low == high:
            return (self.round_value(low),)
        if self.kind in ("uniform", "loguniform"):
            return ()
        step = rest[0] if rest else 1.0
        return tuple(self.round_value(k * step) for k in range(round(low / step), round(high / step) + 1))

    def interpolate(self, share: float) -> float:
        """Return the value at `share` (0 to 1) of the range, on a logarithmic scale if the expression has one."""
        if self.values:
            return self.values[round(share * (len(self.values) - 1))]
        low, high = self.numbers
        if self.kind == "loguniform":
            return self.round_value(math.exp(math.log(low) + share * math.log(high / low)))
        return self.round_value(low + share * (high - low))

    def make_hyperopt_node(self) -> Any:
        """Return the dimension as a node of HyperOpt's search space."""
        if self.kind == "choice":
            return hp.choice(self.name, self.values)
        low, high, *step = self.numbers
        if self.kind in ("loguniform", "qloguniform"):
            low, high = math.log(low), math.log(high)
        return getattr(hp, self.kind)(self.name, low, high, *step)

    def encode(self, value: float) -> float:
        """Return a value as HyperOpt stores it: the index for a choice."""
        return self.values.index(value) if self.kind == "choice" else value

    def decode(self, value: float) -> float:
        """Return the value that HyperOpt's `value` stands for."""
        return self.values[int(value)] if self.kind == "choice" else self.round_value(value)

    def round_value(self, value: float) -> float:
        """Return a value without floating point noise (0.30000000000000004); an integer for whole-number dimensions."""
        return int(value) if self.name in INTEGERS else float(f"{value:.12g}")


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The points that a search may try."""

    unsearched: Hyperparameters  #: values of the hyperparameters that are not searched
    dimensions: tuple[Dimension, ...]

    @property
    def size(self) -> float:
        """Return the number of points; infinite if a dimension is continuous."""
        counts = [len(d.values) or math.inf for d in self.dimensions]
        return math.prod(counts)

    def make_point(self, values: Mapping[str, float]) -> Hyperparameters:
        """Return the point with these values of the dimensions."""
        return replace(self.unsearched, **values)  # type: ignore[arg-type]  # `round_value` made the right type of each


def build_search_space(config: Tune, train: Train) -> SearchSpace:
    """Return the space of the section `tune`, without values that `train` fixes and dimensions of one value."""
    unsearched = apply_fixed_values(DEFAULT_VALUES, train)
    searched = {name: e for name, e in config.space.items() if name not in find_fixed_values(train)}
    declared = [Dimension(name, str(kind), tuple(map(float, numbers))) for name, (kind, *numbers) in searched.items()]
    single = {d.name: d.values[0] for d in declared if len(d.values) == 1}
    return SearchSpace(replace(unsearched, **single), tuple(d for d in declared if len(d.values) != 1))  # type: ignore[arg-type]


def make_start_point(space: SearchSpace) -> Hyperparameters:
    """Return the start of a search, which is also used without one."""
    return space.make_point({d.name: d.interpolate(START_SHARES[d.name]) for d in space.dimensions})


def make_grid(space: SearchSpace, trials: int) -> list[Hyperparameters]:
    """Return all combinations, with as many values of each continuous dimension as `trials` allow.

    The values are in the middle of equal slices of the range; a single value is that of `make_start_point`.

    Raises:
        ConfigError: if the dimensions that are not continuous have more combinations than trials.
    """
    finite = math.prod(len(d.values) for d in space.dimensions if d.values)
    continuous = [d for d in space.dimensions if not d.values]
    if finite > trials:
        parts = ", ".join(f"{len(d.values)} of {d.name}" for d in space.dimensions if d.values)
        raise ConfigError(
            f"A grid of {parts} has {finite} points, and tune.trials allows {trials}; raise it, or name fewer values "
            "in tune.space."
        )
    count = int((trials // finite) ** (1 / len(continuous)) + 1e-9) if continuous else 1
    shares = [(i + 0.5) / count for i in range(count)]
    axes = [
        d.values or [d.interpolate(share) for share in (shares if count > 1 else [START_SHARES[d.name]])]
        for d in space.dimensions
    ]
    names = [d.name for d in space.dimensions]
    return [space.make_point(dict(zip(names, values, strict=True))) for values in itertools.product(*axes)]


def count_points(config: Tune, space: SearchSpace) -> int:
    """Count the different points that the search will try."""
    return len(make_grid(space, config.trials)) if config.search == "grid" else int(min(config.trials, space.size))

"""The space that is searched: what each hyperparameter may be, in HyperOpt's expressions, and what the others are."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hyperopt import hp

from llmops.config import Train, Tune
from llmops.config.space import WHOLE
from llmops.frame.errors import ConfigError
from llmops.model.training.qlora import Hyperparameters, fixed, overruled

#: usual values where nothing is searched; QLoRA, arXiv:2305.14314, table 9, has 2e-4 for 7 B, and smaller models bear
#: more
DEFAULT = Hyperparameters(learning_rate=3.2e-4, rank=16, batch=8)
#: start of a search: so far up the range of each. Three quarters up the default range of learning rates is 3.2e-4.
START = {"learning_rate": 0.75, "rank": 1.0, "batch": 1.0, "epochs": 0.5, "alpha": 1.0, "dropout": 0.0, "warmup": 0.5}


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
            return tuple(sorted({self.clean(n) for n in self.numbers}))
        low, high, *rest = self.numbers
        if low == high:
            return (self.clean(low),)
        if self.kind in ("uniform", "loguniform"):
            return ()
        step = rest[0] if rest else 1.0
        return tuple(self.clean(k * step) for k in range(round(low / step), round(high / step) + 1))

    def at(self, share: float) -> float:
        """Return the value `share` of the way up, by logarithm where the expression is of logarithms."""
        if self.values:
            return self.values[round(share * (len(self.values) - 1))]
        low, high = self.numbers
        if self.kind == "loguniform":
            return self.clean(math.exp(math.log(low) + share * math.log(high / low)))
        return self.clean(low + share * (high - low))

    def node(self) -> Any:
        """Return the dimension in HyperOpt's terms."""
        if self.kind == "choice":
            return hp.choice(self.name, self.values)
        low, high, *step = self.numbers
        if self.kind in ("loguniform", "qloguniform"):
            low, high = math.log(low), math.log(high)
        return getattr(hp, self.kind)(self.name, low, high, *step)

    def kept(self, value: float) -> float:
        """Return a value as HyperOpt keeps it: of a choice, its index."""
        return self.values.index(value) if self.kind == "choice" else value

    def drawn(self, value: float) -> float:
        """Return the value that HyperOpt's `value` stands for."""
        return self.values[int(value)] if self.kind == "choice" else self.clean(value)

    def clean(self, value: float) -> float:
        """Return a value without the rest of rounding to a step (0.30000000000000004); whole where it has to be."""
        return int(value) if self.name in WHOLE else float(f"{value:.12g}")


@dataclass(frozen=True, slots=True)
class Space:
    """The points that may be tried."""

    others: Hyperparameters  #: gives what is not searched
    dimensions: tuple[Dimension, ...]

    @property
    def size(self) -> float:
        """Return the number of points; infinite if a dimension is continuous."""
        counts = [len(d.values) or math.inf for d in self.dimensions]
        return math.prod(counts)

    def point(self, values: Mapping[str, float]) -> Hyperparameters:
        """Return the point with these values of the dimensions."""
        return replace(self.others, **values)  # type: ignore[arg-type]  # `clean` made the right type of each


def declared_space(config: Tune, train: Train) -> Space:
    """Return the space of the section `tune`, without values that `train` fixes and dimensions of one value."""
    others = overruled(DEFAULT, train)
    left = {name: e for name, e in config.space.items() if name not in fixed(train)}
    declared = [Dimension(name, str(kind), tuple(map(float, numbers))) for name, (kind, *numbers) in left.items()]
    single = {d.name: d.values[0] for d in declared if len(d.values) == 1}
    return Space(replace(others, **single), tuple(d for d in declared if len(d.values) != 1))  # type: ignore[arg-type]


def start_point(space: Space) -> Hyperparameters:
    """Return the start of a search, which is also used without one."""
    return space.point({d.name: d.at(START[d.name]) for d in space.dimensions})


def grid(space: Space, trials: int) -> list[Hyperparameters]:
    """Return all combinations, with as many values of each continuous dimension as `trials` allow.

    The values are in the middle of equal slices of the range; a single value is that of `start_point`.

    Raises:
        ConfigError: if there are more combinations of the others than trials.
    """
    finite = math.prod(len(d.values) for d in space.dimensions if d.values)
    endless = [d for d in space.dimensions if not d.values]
    if finite > trials:
        parts = ", ".join(f"{len(d.values)} of {d.name}" for d in space.dimensions if d.values)
        raise ConfigError(
            f"A grid of {parts} has {finite} points, and tune.trials allows {trials}; raise it, or name fewer values "
            "in tune.space."
        )
    count = int((trials // finite) ** (1 / len(endless)) + 1e-9) if endless else 1
    shares = [(i + 0.5) / count for i in range(count)]
    axes = [d.values or [d.at(share) for share in (shares if count > 1 else [START[d.name]])] for d in space.dimensions]
    names = [d.name for d in space.dimensions]
    return [space.point(dict(zip(names, values, strict=True))) for values in itertools.product(*axes)]


def count_points(config: Tune, space: Space) -> int:
    """Count the different points that the search will try."""
    return len(grid(space, config.trials)) if config.search == "grid" else int(min(config.trials, space.size))

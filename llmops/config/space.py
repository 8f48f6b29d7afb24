"""The allowed hyperparameters, expressions and limits of a search space, and what encoders search by default."""

from collections.abc import Mapping
from typing import Any, Literal

HyperparameterName = Literal["learning_rate", "rank", "batch", "epochs", "alpha", "dropout", "warmup"]
Expression = tuple[str | float, ...]  #: name and numbers of an expression, as in `[loguniform, 1e-5, 1e-3]`

#: expression → its numbers; unlike HyperOpt's own, the bounds of `loguniform` are values, not logarithms
EXPRESSIONS = {
    "choice": "values, one or more",
    "uniform": "low, high",
    "quniform": "low, high, step",
    "uniformint": "low, high",
    "loguniform": "low, high",
    "qloguniform": "low, high, step",
}
#: hyperparameter → lowest and highest allowed value
LIMITS: dict[str, tuple[float, float]] = {
    "learning_rate": (1e-9, 1.0),
    "rank": (1, 4096),
    "batch": (1, 65536),
    "epochs": (0.01, 1000),
    "alpha": (1, 65536),
    "dropout": (0.0, 0.99),
    "warmup": (0.0, 0.99),
}
INTEGERS = ("rank", "batch", "alpha")  #: whole numbers


def get_largest(expression: Expression) -> float:
    """Return the largest value that an expression can give, once `check_expression` has passed it."""
    kind, *numbers = expression
    return max(float(n) for n in (numbers if kind == "choice" else numbers[:2]))


def check_expression(name: str, expression: Expression) -> None:
    """Raise ValueError with a reason if an expression can give a value that is invalid for the hyperparameter."""
    kind, *numbers = expression or ("",)
    if kind not in EXPRESSIONS:
        known = "; ".join(f"{k} ({given})" for k, given in EXPRESSIONS.items())
        raise ValueError(f"{name}: there is no expression {kind!r}; write [expression, numbers…], one of {known}")
    rule = f"{name}: {kind} takes {EXPRESSIONS[str(kind)]}"
    values = [n for n in numbers if isinstance(n, int | float) and not isinstance(n, bool)]
    want = 1 if kind == "choice" else EXPRESSIONS[str(kind)].count(",") + 1
    if len(values) != len(numbers) or len(values) < want or (kind != "choice" and len(values) > want):
        raise ValueError(f"{rule}, not {list(numbers)}")
    low, high = LIMITS[name]
    bounds = values if kind == "choice" else values[:2]
    if kind != "choice" and bounds[0] > bounds[1]:
        raise ValueError(f"{rule}, with low <= high, not {list(numbers)}")
    if outside := [value for value in bounds if not low <= value <= high]:
        raise ValueError(f"{name}: {outside[0]:g} is not from {low:g} to {high:g}")
    if kind in ("loguniform", "qloguniform") and bounds[0] <= 0:
        raise ValueError(f"{rule}; there is no logarithm of {bounds[0]:g}")
    if kind in ("quniform", "qloguniform"):
        step = values[2]
        if step <= 0 or any(abs(round(b / step) * step - b) > 1e-9 * max(1.0, abs(b)) for b in bounds):
            raise ValueError(f"{rule}; step must be above 0 and both bounds multiples of it, not {list(numbers)}")
    continuous = kind in ("uniform", "loguniform")
    if name in INTEGERS and (continuous or any(value != int(value) for value in values)):
        raise ValueError(f"{name} is whole: take choice, uniformint, quniform or qloguniform with whole numbers")
    if kind == "uniformint" and any(value != int(value) for value in values):
        raise ValueError(f"{rule}, which are whole numbers")


def make_encoder_defaults(value: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the defaults of a configuration, by section, that differ where `select.encoders` is set."""
    method = dict(value.get("train") or {}).get("method", "full")
    scale = 1 if method == "full" else 10  # an adapter bears more
    space: dict[HyperparameterName, Expression] = {
        "learning_rate": ("loguniform", 2e-5 * scale, 2e-4 * scale),
        "batch": ("choice", 16, 32),
        "epochs": ("uniformint", 2, 4),
    }
    return {
        "clean": {"min_chars": 1},  # a label may be a digit
        "annotate": {"max_question_chars": 20_000},  # what is too long is cut
        "index": {"enabled": False},  # an encoder answers with a label, not from documents
        # One trial is the training itself. On 18,000 texts two more took three quarters of the time, and no gain beyond
        # noise came of them.
        "tune": {"space": space, "steps": 0, "halving": 1, "validation_items": 1000, "trials": 1},
        "train": {"method": "full", "checkpoint_steps": 200},  # saving MiniLM takes as long as ten of its steps
        "release": {"min_effect": 0.0},  # the frozen encoder with a head, which it has to beat, is good already
    }

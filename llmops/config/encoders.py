"""The defaults of a configuration that names encoders in `select.encoders`."""

from collections.abc import Mapping
from typing import Any

from llmops.config.space import Expression, HyperparameterName


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
        "annotate": {"max_question_chars": 20_000},  # what is too long is cut
        "index": {"enabled": False},  # an encoder answers with a label, not from documents
        "tune": {"space": space, "steps": 0, "halving": 1, "validation_items": 1000},
        "train": {"method": "full"},
    }

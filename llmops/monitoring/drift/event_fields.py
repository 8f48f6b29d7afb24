"""Fields of a comparison in its event: written by the watch, read by the dashboard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COMPARISON_FIELDS = (
    "side", "feature", "test", "statistic", "effect", "p_value", "q_value", "drifted", "windows", "topics", "shares",
    "unlike",
)  # fmt: skip


def read_comparison(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a comparison from its event."""
    return {name: event.get(f"llmops.drift.{name}") for name in (*COMPARISON_FIELDS, "since")}


def describe_comparison(comparison: Mapping[str, Any]) -> str:
    """Return a comparison in words."""
    subject = f"{comparison['feature']} of the {comparison['side']}"
    figures = f"{comparison['test']}, effect {comparison['effect']:.3f}, q {comparison['q_value']:.3g}"
    if not comparison["drifted"]:
        return f"{subject}: as before ({figures})."
    return f"{subject}: differs, in {comparison['windows']} windows in a row ({figures})."

"""Figures of a pipeline stage as people read them: with a unit, and with the change to the run before.

format_figures({"validation_loss": 1.6, "in": 333}, {"validation_loss": 1.7})
# → [FigureRow("validation loss", "1.6", "nats/token", "−0.1"), FigureRow("in", "333", "", "")]
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

MAX_CHARS = 200  #: longest text value

#: stage → prefix of the figure that represents it in a list; default: its first figure
HEADLINES = {
    "clean": "kept", "index": "passages", "tune": "best_loss", "train": "validation_loss", "evaluate": "candidate_",
}  # fmt: skip
#: suffix of a figure's name, its unit, and the factor of the number; the first match counts
_UNITS: tuple[tuple[str, str, float], ...] = (
    ("tokens_per_second", "tokens/s", 1),
    ("tokens_per_second_batch", "tokens/s", 1),
    ("seconds", "s", 1),
    ("mib", "MiB", 1),
    ("loss", "nats/token", 1),
    ("gain", "nats/token", 1),
    ("gain_low", "nats/token", 1),
    ("share", "%", 100),
    ("attack_success_rate", "%", 100),
    ("flagged_answers", "%", 100),
)


class FigureRow(NamedTuple):
    """One figure, formatted."""

    name: str
    value: str
    unit: str
    change: str  #: signed; `=`: unchanged; empty: unknown


class FigureTable(NamedTuple):
    """Figures of several items with the same measurements, such as the sources of `collect`."""

    name: str
    columns: list[str]
    lines: list[list[str]]  #: per item: its name, then its value in each column


def format_figures(metrics: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> list[FigureRow]:
    """Return a row for each figure that is not in a table of `format_tables`."""
    earlier = dict(_flatten(before or {}))
    return [_format_row(name, value, earlier.get(name)) for name, value in _flatten(metrics)]


def format_tables(metrics: Mapping[str, Any]) -> list[FigureTable]:
    """Return a table for each figure that is a mapping of mappings."""
    tables = []
    for name, items in metrics.items():
        if _is_table(items):
            columns = list(dict.fromkeys(column for values in items.values() for column in values))
            lines = [
                [item, *(_format_value(values.get(column)) for column in columns)] for item, values in items.items()
            ]
            tables.append(FigureTable(_format_name(name), [_format_name(column) for column in columns], lines))
    return tables


def format_headline(stage: str, metrics: Mapping[str, Any]) -> FigureRow | None:
    """Return the figure that represents a stage in a list; None if nothing was measured."""
    flat = dict(_flatten(metrics))
    start = HEADLINES.get(stage, "")
    name = next((name for name in flat if name.startswith(start)), next(iter(flat), None))
    return None if name is None else _format_row(name, flat[name], None)


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(row, Mapping) for row in value.values())


def _flatten(metrics: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in metrics.items():
        if _is_table(value):
            continue
        if isinstance(value, Mapping):
            yield from ((f"{name}: {inner}", inner_value) for inner, inner_value in value.items())
        elif isinstance(value, list | tuple):
            yield from (
                (f"{name} {n}" if len(value) > 1 else name, inner_value) for n, inner_value in enumerate(value, 1)
            )
        else:
            yield name, value


def _format_row(name: str, value: Any, before: Any) -> FigureRow:
    unit, factor = next(((unit, by) for end, unit, by in _UNITS if re.search(rf"(^|_){end}$", name)), ("", 1))
    if not _is_number(value):
        return FigureRow(
            _format_name(name), _format_value(value), "", "=" if before == value and before is not None else ""
        )
    change = ""
    if _is_number(before):
        difference = (value - before) * factor
        change = f"{'−' if difference < 0 else '+'}{_format_value(abs(difference))}" if difference else "="
    return FigureRow(_format_name(name), _format_value(value * factor), unit, change)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _format_name(name: str) -> str:
    return name.replace("_", " ")


def _format_value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if isinstance(value, float):
        return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}").replace("-", "−")
    text = " ".join(str(value).split())
    return text if len(text) <= MAX_CHARS else f"{text[: MAX_CHARS - 1]}…"

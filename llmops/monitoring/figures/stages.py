"""What a stage measured, as a small table: name, value, unit, and the change to the run before."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmops.artifacts import Record, read_record
from llmops.errors import ArtifactError

MOST_CHARS = 200  #: of a text that is a value
_MOST = 1e60  #: what is more is told as a text
_LISTED = 20  #: values of a list that are shown
_WIDTH = 12  #: of the values' column in a log, at most; a longer text reaches into the next

#: how a name ends → its unit, how much of the name the unit says, and by what its number is multiplied; first match
_UNITS: tuple[tuple[str, str, str, float], ...] = (
    ("tokens_per_second_batch", "tokens/s", "tokens_per_second_", 1),
    ("tokens_per_second", "tokens/s", "", 1),
    ("seconds", "s", "", 1),
    ("size_mib", "MiB", "_mib", 1),
    ("loss", "nats/token", "", 1),
    ("gain", "nats/token", "", 1),
    ("gain_low", "nats/token", "", 1),
    ("truncated_share", "%", "", 100),
    ("attack_success_rate", "%", "", 100),
    ("flagged_answers", "%", "", 100),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table, as it is read."""

    name: str
    value: str
    unit: str
    change: str  #: signed, `=`, or what a text was before; empty: not known


def rows(metrics: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> list[Row]:
    """The table of a record's metrics; what has further levels (the figures of each source, say) is left to reports.

    Args:
        metrics: as a record or an event has them.
        before: those of the run before, if there was one.
    """
    earlier = dict(_flat(before or {}))
    return [_row(name, value, earlier.get(name)) for name, value in _flat(metrics)]


def as_json(metrics: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> list[dict[str, str]]:
    """The same, for a page."""
    return [asdict(row) for row in rows(metrics, before)]


def told(path: Path, record: Record) -> str:
    """The same for a log or a terminal, of a finished artifact beside the one of its stage that was finished before."""
    lines = rows(record.metrics, _before(path))
    if not lines:
        return f"{record.stage}: nothing was measured"
    name, unit = max(len(row.name) for row in lines), max(len(row.unit) for row in lines)
    value = max((len(row.value) for row in lines if len(row.value) <= _WIDTH), default=0)
    table = (f"  {r.name:<{name}}  {r.value:>{value}}  {r.unit:<{unit}}  {r.change}".rstrip() for r in lines)
    return "\n".join([f"{record.stage}:", *table])


def _before(path: Path) -> Mapping[str, Any] | None:
    """The metrics of the artifact of the same stage that was finished last before the one at `path`."""
    found: list[Record] = []
    for other in path.parent.glob("[!.]*"):
        try:
            found += [read_record(other)] if other != path else []
        except ArtifactError:  # begun, damaged or no artifact: it says nothing
            continue
    last = max(found, key=lambda record: record.finished, default=None)
    return last.metrics if last else None


def _flat(metrics: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            if not above and not any(isinstance(one, Mapping) for one in value.values()):
                yield from _flat(value, f"{name}: ")
        elif isinstance(value, list | tuple):
            yield from (
                (f"{above}{name} {n}" if len(value) > 1 else above + name, one)
                for n, one in enumerate(value[:_LISTED], 1)
            )
        else:
            yield above + name, value


def _row(name: str, value: Any, before: Any) -> Row:
    unit, shown, factor = next(
        ((unit, name.replace(said, "") if said else name, by) for end, unit, said, by in _UNITS if name.endswith(end)),
        ("", name, 1),
    )
    label = re.sub(r"_(?!\d)", " ", shown)  # but q8_0
    if not _is_number(value):
        text = "–" if value is None else "yes" if value is True else "no" if value is False else _short(str(value))
        return Row(label, text, "", _of_text(value, before))
    number, earlier = value * factor, before * factor if _is_number(before) else None
    change = "" if earlier is None else "=" if earlier == number else _signed(number - earlier)
    return Row(label, _number(number), unit, change)


def _of_text(value: Any, before: Any) -> str:
    if before is None or value is None:
        return ""
    return "=" if value == before else f"was {_short(str(before), 30)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MOST


def _number(value: float) -> str:
    """Whole numbers as they are, others with four digits that count."""
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):
        text = f"{int(value):,}"
    else:
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{float(f'{value:.4g}'):.10g}"
    return text.replace("-", "−", 1) if value < 0 else text


def _signed(value: float) -> str:
    text = _number(abs(float(f"{value:.4g}")))
    return f"{'−' if value < 0 else '+'}{text}"


def _short(text: str, most: int = MOST_CHARS) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"

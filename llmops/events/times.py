"""Timestamps of events."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def format_timestamp(moment: datetime | None = None) -> str:
    """Return `moment` (default: now) in UTC as `2026-01-31T12:00:00.000Z`. The texts sort by time.

    Raises:
        ValueError: if `moment` has no time zone.
    """
    moment = moment or datetime.now(UTC)
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone")
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_epoch(time: Any) -> float | None:
    """Return the seconds since 1970 of such a text; None if it is not a time with a zone."""
    try:
        moment = datetime.fromisoformat(time)
        return moment.timestamp() if moment.tzinfo else None
    except (TypeError, ValueError, OverflowError):
        return None

"""Data intervals: the day that a run reads. Days are days of UTC."""

from datetime import UTC, date, datetime, timedelta

from llmops.frame.errors import ConfigError


def today() -> date:
    """Return the current day."""
    return datetime.now(UTC).date()


def parse_interval(text: str = "") -> str:
    """Return a data interval as the ISO date of its day. An empty text means yesterday, the last day that has ended.

    Raises:
        ConfigError: if `text` is not a date or date-time.
    """
    if not text:
        return _yesterday()
    try:
        return date.fromisoformat(text[:10]).isoformat()
    except ValueError:
        raise ConfigError(f"Data interval {text!r} is no date; write it as 2026-01-31.") from None


def check_ended(interval: str) -> None:
    """Check that a data interval has ended: rows of an unfinished day could still arrive and would be lost.

    Raises:
        ConfigError: if it has not ended, naming the last one that has.
    """
    if interval > _yesterday():
        raise ConfigError(
            f"The data interval {interval} has not ended: it is still {today()} (UTC), and rows of that day may still "
            f"come. Run it once it has; the last day that has ended is {_yesterday()}, which is also the default."
        )


def _yesterday() -> str:
    return (today() - timedelta(days=1)).isoformat()

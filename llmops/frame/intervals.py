"""Data intervals: the day that a run reads. Days are days of UTC."""

from datetime import UTC, date, datetime, timedelta

from llmops.frame.errors import ConfigError


def get_today() -> date:
    """Return the current day."""
    return datetime.now(UTC).date()


def parse_interval(text: str = "") -> str:
    """Return a data interval as the ISO date of its day. An empty text means yesterday, the last day that has ended.

    Raises:
        ConfigError: if `text` is not a date or date-time.
    """
    if not text:
        return _get_yesterday()
    try:
        return date.fromisoformat(text[:10]).isoformat()
    except ValueError:
        raise ConfigError(f"Data interval {text!r} is no date; write it as 2026-01-31.") from None


def check_ended(interval: str) -> None:
    """Check that a data interval has ended: rows of an unfinished day could still arrive and would be lost.

    Raises:
        ConfigError: if it has not ended, naming the last one that has.
    """
    if interval > _get_yesterday():
        raise ConfigError(
            f"The data interval {interval} has not ended: it is still {get_today()} (UTC), and rows of that day may "
            f"still come. Run it once it has; the last day that has ended is {_get_yesterday()}, which is also the "
            "default."
        )


def _get_yesterday() -> str:
    return (get_today() - timedelta(days=1)).isoformat()

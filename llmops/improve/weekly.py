"""Steps of the weekly improvement, called by its DAG."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from llmops import artifacts
from llmops.config import Config
from llmops.data.feedback import rows
from llmops.improve import report as reports
from llmops.improve import words
from llmops.monitoring.events import timestamp
from llmops.monitoring.shipping import drain
from llmops.state.database import database_of

log = logging.getLogger(__name__)


def read(config: Config, moment: datetime) -> dict[str, Any]:
    """Read new feedback and count the examples accepted since the last report, in whole days.

    It counts up to the midnight before `moment`, because the pipeline reads the day before.

    Returns:
        `since`, `until` (ISO times), `new`, and `counts` (state → number of entries).
    """
    drain(config.events, config.monitoring)
    counts = reports.take_in(config)
    until = reports.midnight(moment)
    since = reports.last_until(config, until)
    can_train = any(source.kind == "feedback" for source in config.collect.sources)
    new = sum(row.decided >= timestamp(since) for row in rows.trained(database_of(config), timestamp(until)))
    if not can_train:
        log.warning("No source of the kind `feedback` is configured, so that nothing of what users say trains.")
    waiting = counts.get("waiting", 0) + counts.get("held", 0)
    log.info("%s; %d waiting for a person", f"{new} new examples" if new else "nothing new", waiting)
    return {"since": since.isoformat(), "until": until.isoformat(), "new": new if can_train else 0, "counts": counts}


def report(config: Config, since: datetime, until: datetime, run: str, new: bool, trained: bool) -> str:
    """Write the report of a run and return its artifact, as "improve/fingerprint"."""
    ended = "nothing new" if not new else "trained" if trained else "failed"
    found = reports.gather(config, since=since, until=until)
    path = reports.keep(config, found, run=run, ended=ended)
    log.info("%s It is in %s.", words.headline({**found, "ended": ended}), path / "report.md")  # no user's text
    return artifacts.ref(path)

"""Steps of the weekly improvement, called by its DAG."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from llmops.config import Config
from llmops.data.feedback import rows
from llmops.events.events import format_timestamp
from llmops.events.shipping import drain_spool
from llmops.frame import artifacts
from llmops.monitoring.improve import rendering
from llmops.monitoring.improve import report as reports
from llmops.state.database import database_of

log = logging.getLogger(__name__)


def read_feedback(config: Config, moment: datetime) -> dict[str, Any]:
    """Read new feedback and count the examples accepted since the last report, in whole days.

    It counts up to the midnight before `moment`, because the pipeline reads the day before.

    Returns:
        `since`, `until` (ISO times), `new`, and `counts` (state → number of entries).
    """
    drain_spool(config.events, config.monitoring)
    counts = reports.refresh_feedback(config)
    until = reports.find_last_midnight(moment)
    since = reports.find_last_report_end(config, until)
    can_train = any(source.kind == "feedback" for source in config.collect.sources)
    new = sum(
        row.decided >= format_timestamp(since)
        for row in rows.read_accepted(database_of(config), format_timestamp(until))
    )
    if not can_train:
        log.warning("No source of the kind `feedback` is configured, so no feedback is trained on.")
    log.info("%s; %d waiting for a person", f"{new} new examples" if new else "nothing new", counts.get("waiting", 0))
    return {"since": since.isoformat(), "until": until.isoformat(), "new": new if can_train else 0, "counts": counts}


def write_report(config: Config, since: datetime, until: datetime, run: str, new: bool, trained: bool) -> str:
    """Write the report of a run and return its artifact, as "improve/fingerprint"."""
    ended = "nothing new" if not new else "trained" if trained else "failed"
    report = reports.build_improvement_report(config, since=since, until=until)
    path = reports.store_report(config, report, run=run, ended=ended)
    log.info(
        "%s It is in %s.", rendering.summarize_report({**report, "ended": ended}), path / "report.md"
    )  # no user's text
    return artifacts.get_ref(path)

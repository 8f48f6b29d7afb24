"""The improvement report: feedback, which of it was accepted, and the decisions of gate and canaries.

    llmops improve report

The weekly improvement stores it as an artifact, `artifacts/improve/{fingerprint}/` with `report.json` and `report.md`,
and emits an event `llmops.improvement`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from llmops.config import Config
from llmops.data.feedback import review, rows
from llmops.events.datasets import IMPROVEMENT
from llmops.events.events import emit, format_timestamp
from llmops.events.reader import make_reader
from llmops.frame import artifacts
from llmops.frame.artifacts import Record
from llmops.frame.code_version import compute_code_version, read_git_commit
from llmops.monitoring.improve import rendering
from llmops.monitoring.improve.unanswered import find_unanswered
from llmops.release.registry.registry import registry_of
from llmops.state.database import database_of

STAGE = "improve"  #: folder of the artifacts
WEEK = timedelta(days=7)
MAX_ENTRIES = 20  #: most entries shown per list


def find_last_report_end(config: Config, before: datetime) -> datetime:
    """Return the end of the last report before a moment; a week before the moment if there is none."""
    report_paths = [
        path for path in (config.artifacts / STAGE).glob("*") if artifacts.is_done(path) or artifacts.is_removed(path)
    ]
    ends = [artifacts.read_record(path).metrics["until"] for path in report_paths]  # erased reports keep their record
    earlier_ends = [moment for moment in map(datetime.fromisoformat, ends) if moment < before]
    return max(earlier_ends, default=before - WEEK)


def find_last_midnight(moment: datetime) -> datetime:
    """Return the midnight (UTC) before a moment: the end of the last whole data interval."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def build_improvement_report(
    config: Config, *, since: datetime | None = None, until: datetime | None = None
) -> dict[str, Any]:
    """Return the report's data: the feedback from `since` until before `until`, and the decisions on it.

    Default: from the end of the last report to the last midnight.
    """
    until = until or find_last_midnight(datetime.now(UTC))
    since = since or find_last_report_end(config, until)
    start, end = format_timestamp(since), format_timestamp(until)
    reader = make_reader(config)
    known_rows = [row for row in rows.read(database_of(config)) if row.time < end]
    recent = [row for row in known_rows if start <= row.time]
    heads = [row for row in known_rows if not row.joined]
    decided = [row for row in heads if start <= row.decided < end]
    accepted = [row for row in decided if row.state == "accepted"]
    refused = [row for row in decided if row.state == "refused"]
    waiting = [row for row in heads if row.state == "waiting"]
    return {
        "since": start,
        "until": end,
        "source": any(source.kind == "feedback" for source in config.collect.sources),
        "corrections": sum(row.kind == "correction" for row in recent),
        "good_answers": sum(row.kind == "answer" for row in recent),
        "useless": sum(row.state == "useless" for row in recent),
        "accepted": len(accepted),
        "refused": len(refused),
        "waiting": len(waiting),
        "pairs": sum(row.kind == "correction" and bool(row.answer) for row in accepted),
        "accepted_entries": [_describe_entry(row) for row in accepted[:MAX_ENTRIES]],
        "refused_entries": [_describe_entry(row) for row in refused[:MAX_ENTRIES]],
        "waiting_entries": [_describe_entry(row) for row in waiting[:MAX_ENTRIES]],
        "topics": find_unanswered(reader, start, end),
        "decisions": _read_decisions(config, since),
        "champion": registry_of(config).aliases().get("champion", ""),
    }


def _describe_entry(row: rows.Review) -> dict[str, str]:
    return {"id": row.id, "question": row.question, "text": row.text, "by": row.by, "why": row.why}


def _read_decisions(config: Config, since: datetime) -> list[dict[str, Any]]:
    decisions = registry_of(config).decisions()
    return [decision for decision in decisions if datetime.fromisoformat(decision["time"]) >= since]


def refresh_feedback(config: Config) -> dict[str, int]:
    """Read new feedback into the review. Return state → number of entries."""
    review.refresh(config)
    return rows.count_states(database_of(config))


def store_report(config: Config, report: Mapping[str, Any], *, run: str = "", ended: str = "") -> Path:
    """Write a report as an artifact and emit its event. A repetition for the same run changes nothing."""
    report = {**report, "ended": ended}
    started = datetime.now(UTC).isoformat()
    key = artifacts.compute_fingerprint(STAGE, {"run": run, "since": report["since"]}, {}, report["until"][:10], "")
    path = artifacts.get_artifact_path(config.artifacts, STAGE, key)
    with artifacts.hold_lock(config.artifacts, shared=True), artifacts.hold_lock(path):
        if not artifacts.is_done(path):
            artifacts.clear(path)
            _write_files(path, report)
            counts = {name: value for name, value in report.items() if isinstance(value, int | str)}
            artifacts.commit(
                path,
                Record(
                    stage=STAGE,
                    fingerprint=key,
                    config=config.improve.get_hashed_values(),
                    inputs={},
                    interval=report["until"][:10],
                    code=compute_code_version(__name__),
                    metrics=counts,
                    files={},
                    git_commit=read_git_commit(),
                    started=started,
                    finished=datetime.now(UTC).isoformat(),
                    run=run,
                ),
            )
        else:
            report = json.loads((path / "report.json").read_text(encoding="utf-8"))
    _emit_event(config, report, path)
    return path


def _write_files(path: Path, report: Mapping[str, Any]) -> None:
    artifacts.write_json(path / "report.json", report)
    artifacts.write_atomically(path / "report.md", rendering.render_markdown(report).encode())


def _emit_event(config: Config, report: Mapping[str, Any], path: Path) -> None:
    last = report["decisions"][-1] if report["decisions"] else {}
    names = ("since", "until", "corrections", "accepted", "refused", "waiting", "pairs")
    emit(
        config.events,
        IMPROVEMENT,
        {
            "event.id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{IMPROVEMENT}|{path.name}")),
            "event.action": "improve",
            "event.outcome": "failure" if report["ended"] == "failed" else "success",
            "event.reason": report["ended"],
            "message": rendering.summarize_report(report),
            "llmops.model.version": last.get("version"),
            **{f"llmops.improvement.{name}": report[name] for name in names},
            "llmops.improvement.topics": len(report["topics"]),  # not the questions: their retention time is short
            "llmops.improvement.report": artifacts.get_ref(path),
        },
    )

"""What became of what users said: counts, reasons, and what the gate and a canary decided, in words.

    llmops improve report

The weekly improvement keeps it as an artifact, `artifacts/improve/{fingerprint}/` with `report.json`, `report.md` and
`report.html`, and tells of it in an event `llmops.improvement`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from llmops import artifacts
from llmops.artifacts import Record
from llmops.code_version import code_version, git_commit
from llmops.config import Config
from llmops.data.feedback import review, rows
from llmops.improve import words
from llmops.improve.topics import unanswered
from llmops.monitoring.datasets import IMPROVEMENT
from llmops.monitoring.events import emit, timestamp
from llmops.monitoring.reader import reader_of
from llmops.registry.registry import registry_of
from llmops.state.database import database_of

STAGE = "improve"  #: the folder of its artifacts
WEEK = timedelta(days=7)
ENTRIES = ("accepted_entries", "refused_entries", "waiting_entries")
MOST = 20  #: entries that are shown of each list

markdown = words.markdown


def last_until(config: Config, before: datetime) -> datetime:
    """The end of the last report that ended before a moment; a week before it where there is none."""
    last = _last(config, before)
    return datetime.fromisoformat(last["until"]) if last else before - WEEK


def last_decided(config: Config, before: datetime) -> datetime:
    """The end of the decisions that this report tells: those on its own training were made after the days it is of."""
    last = _last(config, before)
    return datetime.fromisoformat(last.get("decided_until") or last["until"]) if last else before - WEEK


def _last(config: Config, before: datetime) -> dict[str, Any]:
    """What is recorded of the last report that ended before a moment; what could not be read, the next one tells."""
    told = [artifacts.read_record(path).metrics for path in artifacts.finished(config.artifacts / STAGE)]
    known = [one for one in told if one["ended"] != words.UNREAD and datetime.fromisoformat(one["until"]) < before]
    return max(known, key=lambda one: (one["until"], one.get("decided_until", "")), default={})


def midnight(moment: datetime) -> datetime:
    """The midnight before a moment, in UTC: the end of the last whole data interval."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def gather(
    config: Config,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    decided: tuple[datetime, datetime] | None = None,
    readable: bool = True,
) -> dict[str, Any]:
    """What was said from `since` to before `until`, what was decided on it, and what became of the model then.

    Args:
        config: the whole configuration.
        since: default: the end of the last report.
        until: default: the last midnight.
        decided: from when to before when the gate's and canaries' decisions are told; default: since and until.
        readable: whether events can be read, which alone know what is asked and not answered.
    """
    until = until or midnight(datetime.now(UTC))
    since = since or last_until(config, until)
    start, end = timestamp(since), timestamp(until)
    decided_since, decided_until = decided or (since, until)
    database = database_of(config)
    found = [row for row in rows.read(database) if row.time < end]
    said = [row for row in found if start <= row.time]
    heads = [row for row in found if not row.joined]
    settled = [row for row in heads if start <= row.decided < end]
    accepted = [row for row in settled if row.state == "accepted"]
    refused = [row for row in settled if row.state == "refused"]
    held = [row for row in said if row.state == "held"]
    waiting = [row for row in heads if row.state == "waiting"]
    return {
        "since": start,
        "until": end,
        "source": any(source.kind == "feedback" for source in config.collect.sources),
        "corrections": sum(row.kind == "correction" for row in said),
        "good_answers": sum(row.kind == "answer" for row in said),
        "useless": sum(row.state == "useless" for row in said),
        "accepted": len(accepted),
        "refused": len(refused),
        "held": len(held),
        "waiting": len(waiting),
        "pairs": sum(row.kind == "correction" and bool(row.answer) for row in accepted),
        "accepted_entries": [_entry(row) for row in accepted[:MOST]],
        "refused_entries": [_entry(row) for row in refused[:MOST]],
        "held_reasons": sorted({f"key {row.key}: {row.why}" for row in held}),
        "waiting_entries": [_entry(row) for row in waiting[:MOST]],
        "topics": unanswered(reader_of(config), start, end, rows.forgotten_keys(database)) if readable else [],
        "decisions": _decisions(config, decided_since, decided_until),
        "decided_until": decided_until.isoformat(),
        "champion": registry_of(config).aliases().get("champion", ""),
    }


def _entry(row: rows.Review) -> dict[str, str]:
    return {"id": row.id, "question": row.question, "text": row.text, "by": row.by, "why": row.why}


def _decisions(config: Config, since: datetime, until: datetime) -> list[dict[str, Any]]:
    """What the gate, canaries and tests decided from `since` to before `until`, and who was overruled."""
    known = registry_of(config).decisions()
    return [decision for decision in known if since <= datetime.fromisoformat(decision["time"]) < until]


def take_in(config: Config) -> dict[str, int]:
    """Take in what was said until now; returns how many there are in each state."""
    review.refresh(config)
    return rows.counts(database_of(config))


def keep(config: Config, report: Mapping[str, Any], *, run: str = "", ended: str = "") -> Path:
    """Write a report as an artifact and tell of it in an event; doing it again for the same run changes nothing.

    Args:
        config: the whole configuration.
        report: what `gather` has found.
        run: the orchestrator's run id.
        ended: what became of the training, in a word: `nothing new`, `trained`, `failed` or `not read`.
    """
    report = {**report, "ended": ended}
    started = datetime.now(UTC).isoformat()
    key = artifacts.fingerprint(STAGE, {"run": run, "since": report["since"]}, {}, report["until"][:10], "")
    path = artifacts.artifact_path(config.artifacts, STAGE, key)
    with artifacts.locked(config.artifacts, shared=True), artifacts.locked(path):
        if not artifacts.is_done(path):
            artifacts.clear(path)
            _write(path, report)
            counts = {name: value for name, value in report.items() if isinstance(value, int | str)}
            artifacts.commit(
                path,
                Record(
                    stage=STAGE,
                    fingerprint=key,
                    config=config.improve.hashed(),
                    inputs={},
                    interval=report["until"][:10],
                    code=code_version(__name__),
                    metrics=counts,
                    files={},
                    git_commit=git_commit(),
                    started=started,
                    finished=datetime.now(UTC).isoformat(),
                    run=run,
                ),
            )
        else:
            report = _read(path)
    _tell(config, report, path)
    return path


def telling(config: Config, ids: Collection[str], keys: Collection[str]) -> list[Path]:
    """The reports that show what was said in these rows, or was asked by these keys or is said of them."""
    kept = artifacts.finished(config.artifacts / STAGE)
    return [path for path in kept if _without(report := _read(path), ids, keys) != report]


def forget(config: Config, ids: Collection[str], keys: Collection[str]) -> None:
    """Take what `telling` finds out of the reports that were kept."""
    for path in telling(config, ids, keys):
        _write_again(path, _without(_read(path), ids, keys))


def remove_old_texts(config: Config, now: datetime | None = None) -> None:
    """Take questions that were kept for a while (`monitoring.keep_text_days`) out of the reports when that is over.

    Args:
        config: the whole configuration.
        now: the moment that ages are counted from; default: this one.
    """
    before = timestamp((now or datetime.now(UTC)) - timedelta(days=config.monitoring.keep_text_days))
    for path in artifacts.finished(config.artifacts / STAGE):
        report = _read(path)
        left = [topic for topic in report["topics"] if topic.get("time", "") >= before]
        if len(left) < len(report["topics"]):
            _write_again(path, {**report, "topics": left})


def _without(report: Mapping[str, Any], ids: Collection[str], keys: Collection[str]) -> dict[str, Any]:
    told_of = tuple(f"key {prefix}:" for prefix in keys)
    return {
        **report,
        **{name: [entry for entry in report[name] if entry["id"] not in ids] for name in ENTRIES},
        "held_reasons": [reason for reason in report["held_reasons"] if not reason.startswith(told_of)],
        "topics": [topic for topic in report["topics"] if topic.get("key") not in keys],
    }


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "report.json").read_text(encoding="utf-8"))
    return found


def _write_again(path: Path, report: Mapping[str, Any]) -> None:
    with artifacts.locked(path):
        _write(path, report)
        artifacts.commit(path, artifacts.read_record(path))


def _write(path: Path, report: Mapping[str, Any]) -> None:
    text = words.markdown(report)
    artifacts.write_json(path / "report.json", report)
    artifacts.write_whole(path / "report.md", text.encode())
    artifacts.write_whole(path / "report.html", words.html(text).encode())


def _tell(config: Config, report: Mapping[str, Any], path: Path) -> None:
    last = report["decisions"][-1] if report["decisions"] else {}
    names = ("since", "until", "corrections", "accepted", "refused", "waiting", "pairs")
    emit(
        config.events,
        IMPROVEMENT,
        {
            "event.id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{IMPROVEMENT}|{path.name}")),
            "event.action": "improve",
            "event.outcome": "failure" if report["ended"] in ("failed", words.UNREAD) else "success",
            "event.reason": report["ended"],
            "message": words.headline(report),
            "llmops.model.version": last.get("version"),
            **{f"llmops.improvement.{name}": report[name] for name in names},
            "llmops.improvement.topics": len(report["topics"]),  # not what was asked, which is kept for a while only
            "llmops.improvement.report": artifacts.ref(path),
        },
    )

"""The review of feedback by a person, for the command line and the app's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from llmops.access import rows as keys
from llmops.config import Config
from llmops.data.feedback import rows
from llmops.data.feedback.intake import find_person, ingest
from llmops.data.feedback.rows import Review
from llmops.data.text.normalization import normalize_text
from llmops.events.datasets import AUDIT, FEEDBACK
from llmops.events.events import emit, format_timestamp
from llmops.events.reader import make_reader
from llmops.frame.errors import ReviewError
from llmops.scans.pii import redact_texts
from llmops.state.database import Database, database_of

Decision = Literal["accept", "edit", "refuse"]

_SHOWN_FIELDS = (
    "id", "kind", "time", "state", "why", "by", "decided", "version", "question", "context", "answer", "correction",
    "edited", "comment",
)  # fmt: skip


def refresh(config: Config) -> int:
    """Read new feedback into the database, and return the number of new rows."""
    return ingest(database_of(config), make_reader(config), config.improve, datetime.now(UTC))


def find_conversations(config: Config) -> dict[str, str]:
    """Return id of feedback → id of its conversation, for the feedback that may still be reviewed."""
    now = datetime.now(UTC)
    since, until = format_timestamp(now - timedelta(days=config.improve.window_days)), format_timestamp(now)
    found = make_reader(config).select(FEEDBACK, ("event.id", "gen_ai.conversation.id"), since, until)
    return {str(id): str(conversation) for id, conversation in found if conversation}


def list_entries(database: Database, states: Sequence[str] = ("waiting",)) -> list[dict[str, Any]]:
    """Return the feedback in these states, one entry for all that say the same: texts, people and reason.

    Entries of most people come first, then the oldest. `people` has role and prefix of each key, `agreeing` the number
    of different people.
    """
    heads = [row for row in rows.read(database, *states) if not row.joined]
    joined = rows.read_joined(database, [row.id for row in heads])
    with database.read() as connection:
        known = {key.prefix: key for key in keys.list_all(connection)} if heads else {}
    entries = []
    for row in heads:
        same = [row, *joined[row.id]]
        people = sorted({(one.role, one.key) for one in same})
        entries.append(
            {
                **{name: value for name, value in asdict(row).items() if name in _SHOWN_FIELDS},
                "people": [{"role": role, "prefix": prefix} for role, prefix in people],
                "agreeing": len({find_person(one.key, known) for one in same}),
            }
        )
    most = {normalize_text(entry["question"]): (-entry["agreeing"], entry["time"]) for entry in reversed(entries)}
    for entry in entries:
        question = normalize_text(entry["question"])
        most[question] = min(most[question], (-entry["agreeing"], entry["time"]))

    def rank(entry: Mapping[str, Any]) -> tuple[Any, ...]:  # keeps entries about one question together
        question = normalize_text(entry["question"])
        return *most[question], question, -entry["agreeing"], entry["time"], entry["id"]

    return sorted(entries, key=rank)


def decide(
    config: Config, id: str, decision: Decision, *, by: str, text: str = "", why: str = "", who: Mapping[str, Any]
) -> Review:
    """Accept, edit or refuse feedback. It is recorded in the audit and as an event.

    `edit` accepts `text` instead of the correction; personal data in it is replaced by marks. The beginning of an id is
    enough. `who` are fields of the event about the decider.

    Raises:
        ReviewError: if there is no such row, or an edit has no text.
    """
    text, why = text.strip(), why.strip()
    if bool(text) != (decision == "edit"):
        raise ReviewError("An edit needs the text that is to be trained on; accept and refuse take none.")
    if text:
        text = redact_texts([text], config.govern.entities)[0].text
    state = "refused" if decision == "refuse" else "accepted"
    row = rows.decide(database_of(config), id, state, by=by, why=why, edited=text, who=who)
    _emit(config.events, row, decision, by, who)
    refresh(config)  # decides entries that say the same
    return replace(row, key="")


def refuse_all(config: Config, prefix: str, *, by: str, why: str = "", who: Mapping[str, Any]) -> int:
    """Refuse all waiting feedback of a key, with audit and events. Return its number.

    Raises:
        ReviewError: if there is none.
    """
    database = database_of(config)
    theirs = [row for row in rows.read(database, "waiting") if row.key == prefix]
    if not theirs:
        raise ReviewError(f"Nothing of the key {prefix!r} waits for a review.")
    for row in theirs:
        done = rows.decide(database, row.id, "refused", by=by, why=why.strip(), who=who)
        _emit(config.events, done, "refuse", by, who)
    refresh(config)
    return len(theirs)


def _emit(events: Path, row: Review, decision: Decision, by: str, who: Mapping[str, Any]) -> None:
    fields = {
        "event.action": f"{decision}_feedback",
        "event.category": ["configuration"],
        "event.outcome": "success",
        "event.reason": row.why,
        "user.name": by,
        "llmops.target.review": row.id,
        "llmops.target.key.prefix": row.key,
    }
    emit(events, AUDIT, fields | dict(who))

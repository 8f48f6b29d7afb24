"""What a person sees of what users have said, and decides: by the command line and by the page of the app alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from llmops.access import rows as keys
from llmops.config import Config
from llmops.data.feedback import rows
from llmops.data.feedback.intake import person_of, take_in
from llmops.data.feedback.rows import OPEN as OPEN
from llmops.data.feedback.rows import Review
from llmops.data.text.comparable import comparable
from llmops.errors import ReviewError
from llmops.monitoring.datasets import AUDIT
from llmops.monitoring.events import emit
from llmops.monitoring.reader import reader_of
from llmops.scans.pii import redact_all
from llmops.state.database import Database, database_of

Decision = Literal["accept", "edit", "refuse"]

_SHOWN = (
    "id", "kind", "time", "state", "why", "by", "decided", "version", "question", "context", "answer", "correction",
    "edited", "comment",
)  # fmt: skip


def refresh(config: Config) -> int:
    """Take in what was said until now; returns how much is new."""
    return take_in(database_of(config), reader_of(config), config.improve, datetime.now(UTC))


def listing(database: Database, states: Sequence[str] = OPEN) -> list[dict[str, Any]]:
    """What is in these states, one entry for all that say the same: its texts, who says so, and why it is there.

    Those that most people say come first, then the oldest. `people` has role and prefix of each key, `agreeing` how
    many different people they are.
    """
    heads = [row for row in rows.read(database, *states) if not row.joined]
    alike = rows.joined(database, [row.id for row in heads])
    with database.read() as connection:
        known = {key.prefix: key for key in keys.every(connection)} if heads else {}
    entries = []
    for row in heads:
        said = [row, *alike[row.id]]
        people = sorted({(one.role, one.key) for one in said})
        entries.append(
            {
                **{name: value for name, value in asdict(row).items() if name in _SHOWN},
                "people": [{"role": role, "prefix": prefix} for role, prefix in people],
                "agreeing": len({person_of(one.key, known) for one in said}),
            }
        )
    most = {comparable(entry["question"]): (-entry["agreeing"], entry["time"]) for entry in reversed(entries)}
    for entry in entries:
        question = comparable(entry["question"])
        most[question] = min(most[question], (-entry["agreeing"], entry["time"]))

    def rank(entry: Mapping[str, Any]) -> tuple[Any, ...]:  # what is said of one question stands together
        question = comparable(entry["question"])
        return *most[question], question, -entry["agreeing"], entry["time"], entry["id"]

    return sorted(entries, key=rank)


def decide(
    config: Config, id: str, decision: Decision, *, by: str, text: str = "", why: str = "", who: Mapping[str, Any]
) -> Review:
    """Accept, edit or refuse what somebody has said; it is in the audit, and an event.

    Args:
        config: the whole configuration.
        id: of the row, or the start of it.
        decision: `edit` accepts `text` in the place of the correction; personal data in it is replaced by marks.
        by: who decides.
        text: the correction as it is to be trained on.
        why: the reason, for whoever looks at it later.
        who: fields of the event about who decides.

    Raises:
        ReviewError: if there is no such row, or an edit has no text.
    """
    text, why = text.strip(), why.strip()
    if bool(text) != (decision == "edit"):
        raise ReviewError("An edit needs the text that is to be trained on; accept and refuse take none.")
    if text:
        text = redact_all([text], config.govern.entities)[0].text
    state = "refused" if decision == "refuse" else "accepted"
    row = rows.decide(database_of(config), id, state, by=by, why=why, edited=text, who=who)
    _tell(config.events, row, decision, by, who)
    refresh(config)  # what says the same as it goes the same way
    return replace(row, key="")


def refuse_all(config: Config, prefix: str, *, by: str, why: str = "", who: Mapping[str, Any]) -> int:
    """Refuse all that waits or is held back of a key; each is in the audit, and an event. Returns how many.

    Raises:
        ReviewError: if there is nothing of it.
    """
    database = database_of(config)
    theirs = [row for row in rows.read(database, *OPEN) if row.key == prefix]
    if not theirs:
        raise ReviewError(f"Nothing of the key {prefix!r} waits for a review.")
    for row in theirs:
        done = rows.decide(database, row.id, "refused", by=by, why=why.strip(), who=who)
        _tell(config.events, done, "refuse", by, who)
    refresh(config)
    return len(theirs)


def _tell(events: Path, row: Review, decision: Decision, by: str, who: Mapping[str, Any]) -> None:
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

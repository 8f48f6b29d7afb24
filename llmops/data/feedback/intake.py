"""The intake of feedback: from events into the database, where the policy judges it.

It is safe to repeat: a row has the id of its event, and the policy's verdicts depend only on all rows. The policy never
changes a person's decision.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta

from llmops.access import rows as keys
from llmops.access.roles import Key
from llmops.config import Improve
from llmops.data.feedback import rows
from llmops.data.feedback.policy import POLICY, FeedbackEntry, judge
from llmops.data.feedback.rows import Review
from llmops.data.text.normalization import normalize_text
from llmops.events.datasets import FEEDBACK, TEXT
from llmops.events.events import format_timestamp
from llmops.events.reader import Reader
from llmops.state.database import Database

log = logging.getLogger(__name__)

_FIELD_PREFIX = "llmops.feedback."


def get_interval_end(interval: str) -> datetime:
    """Return the end of a data interval: the midnight after its day, in UTC."""
    return datetime.combine(date.fromisoformat(interval) + timedelta(days=1), time(), UTC)


def ingest(database: Database, reader: Reader, rules: Improve, until: datetime) -> int:
    """Add new feedback from before a moment, judge all feedback again, and return the number of new rows."""
    since, end = format_timestamp(until - timedelta(days=rules.window_days)), format_timestamp(until)
    answers, withdrawn = _read_good_answers(reader, since, end)
    found = [*_read_corrections(reader, since, end), *answers]
    if not found and not database.exists:
        return 0
    with database.change() as connection:
        forgotten = rows.read_forgotten(connection)
        new = rows.add(connection, [row for row in found if row.time > forgotten.get(row.key, "")])
        rows.withdraw(connection, withdrawn)
        known = {key.prefix: key for key in keys.list_all(connection)}
        reviews = rows.select_remaining(connection)
        verdicts = judge([_make_entry(row, known, rules) for row in reviews], rules)
        for row in reviews:
            if not (verdict := verdicts.get(row.id)):
                continue
            by = "" if verdict.state == "waiting" else POLICY
            values = {"state": verdict.state, "joined": verdict.joined, "why": verdict.why, "by": by}
            values["decided"] = verdict.decided if by else ""
            if any(getattr(row, name) != value for name, value in values.items()):
                rows.update(connection, row.id, **values)
    log.info("feedback: %d new corrections and good answers of %d", new, len(reviews))
    return new


def find_person(prefix: str, known: Mapping[str, Key]) -> str:
    """Return the owner of a key. Several keys of one owner belong to one person."""
    key = known.get(prefix)
    return normalize_text(key.owner) if key else f"key {prefix}"


def _make_entry(row: Review, known: Mapping[str, Key], rules: Improve) -> FeedbackEntry:
    key = known.get(row.key)
    valid = bool(key and not key.revoked)
    role = key.role if key else ""  # the key's role, not the event's: an event could claim any role
    return FeedbackEntry(
        id=row.id,
        kind=row.kind,
        time=row.time,
        person=find_person(row.key, known),
        trusted=valid and role in rules.trusted,
        counts=valid,
        question=row.question,
        context=row.context,
        answer=row.answer,
        text=row.correction,
        reviewed=("accepted" if row.state == "accepted" else "refused") if row.reviewed else "",
        edited=row.edited,
    )


def _read_corrections(reader: Reader, since: str, until: str) -> Iterable[Review]:
    for event in reader.find(FEEDBACK, since, until):
        texts = {name: str(event.get(_FIELD_PREFIX + name) or "").strip() for name in _TEXTS}
        if texts["question"] and texts["correction"]:
            yield _make_review(event, "correction", **texts)


_TEXTS = ("question", "context", "answer", "correction", "comment")
_ANSWER_FIELDS = ("llmops.prompt.text", "llmops.context.text", "llmops.answer.text", "llmops.model.version")


def _read_good_answers(reader: Reader, since: str, until: str) -> tuple[list[Review], set[str]]:
    """Return answers with a good rating (if their texts are stored), and ids of ratings that were withdrawn.

    The last rating of a key for a request counts. If a request has several answers, nobody can say which one is good,
    so its rating gives no answer unless question and answer are the same in all.
    """
    last: dict[tuple[str, str], Mapping[str, object]] = {}
    withdrawn: set[str] = set()
    for event in reader.find(FEEDBACK, since, until):
        if event.get(_FIELD_PREFIX + "rating"):
            rater = str(event.get("http.request.id")), str(event.get("llmops.key.prefix"))
            if earlier := last.get(rater):
                withdrawn.add(str(earlier["event.id"]))
            last[rater] = event
    withdrawn -= {str(event["event.id"]) for event in last.values()}  # a repeated event is not a withdrawal
    good = {rater: event for rater, event in last.items() if event[_FIELD_PREFIX + "rating"] == "up"}
    if not good:
        return [], withdrawn
    requests = {request for request, _ in good}
    stored = defaultdict[str, set[tuple[str, ...]]](set)
    for request, *kept in reader.select(TEXT, ("http.request.id", *_ANSWER_FIELDS), since, until):
        if request in requests:
            stored[request].add(tuple(str(text or "") for text in kept))
    found = []
    for (request, _), rating in good.items():
        if len(stored[request]) != 1:
            continue
        ((question, context, answer, version),) = stored[request]
        if question and answer:
            texts = {"question": question, "context": context, "answer": answer, "correction": answer}
            found.append(_make_review({"llmops.model.version": version, **rating}, "answer", **texts))
    return found, withdrawn


def _make_review(event: Mapping[str, object], kind: str, **texts: str) -> Review:
    roles = event.get("user.roles")
    role = str(roles[0]) if isinstance(roles, list) and roles else str(roles or "")
    return Review(
        id=str(event["event.id"]),
        kind=kind,
        time=str(event["@timestamp"]),
        key=str(event.get("llmops.key.prefix") or ""),
        role=role,
        version=str(event.get("llmops.model.version") or ""),
        **texts,
    )

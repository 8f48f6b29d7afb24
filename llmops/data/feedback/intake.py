"""Takes what users have said out of the events into the database, and judges it by the policy.

It is safe to repeat: a row has the id of its event, and the policy's verdicts follow from all rows alone. What a person
has decided, the policy leaves as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta

from llmops.access import rows as keys
from llmops.access.roles import Key
from llmops.config import Improve
from llmops.data.feedback import rows
from llmops.data.feedback.policy import POLICY, Said, judge
from llmops.data.feedback.rows import Review
from llmops.data.text.comparable import comparable
from llmops.monitoring.datasets import FEEDBACK, SERVING, TEXT
from llmops.monitoring.events import timestamp
from llmops.monitoring.reader import Reader
from llmops.state.database import Database

log = logging.getLogger(__name__)

_FEEDBACK = "llmops.feedback."


def end_of(interval: str) -> datetime:
    """The moment that a data interval ends: the midnight after its day, in UTC."""
    return datetime.combine(date.fromisoformat(interval) + timedelta(days=1), time(), UTC)


def take_in(database: Database, reader: Reader, rules: Improve, until: datetime) -> int:
    """Take in what was said before a moment and is not there yet, and judge all of it anew; returns how much is new."""
    since, end = timestamp(until - timedelta(days=rules.window_days)), timestamp(until)
    answers, taken_back = _good_answers(reader, since, end)
    found = [*_corrections(reader, since, end), *answers]
    if not found and database.absent:
        return 0
    with database.change() as connection:
        gone = rows.forgotten(connection)
        new = rows.add(connection, [row for row in found if row.time > gone.get(row.key, "")])
        rows.withdraw(connection, taken_back)
        known = {key.prefix: key for key in keys.every(connection)}
        everything = rows.kept(connection)
        verdicts = judge([_said(row, known, rules) for row in everything], rules)
        for row in everything:
            if not (verdict := verdicts.get(row.id)):
                continue
            by = POLICY if verdict.state in ("accepted", "refused", "useless", "held") else ""
            values = {"state": verdict.state, "joined": verdict.joined, "why": verdict.why, "by": by}
            values["decided"] = verdict.decided if by else ""
            if any(getattr(row, name) != value for name, value in values.items()):
                rows.put(connection, row.id, **values)
    log.info("feedback: %d new corrections and good answers of %d", new, len(everything))
    return new


def person_of(prefix: str, known: Mapping[str, Key]) -> str:
    """Who has a key: several keys of one owner are one person's."""
    key = known.get(prefix)
    return comparable(key.owner) if key else f"key {prefix}"


def _said(row: Review, known: Mapping[str, Key], rules: Improve) -> Said:
    key = known.get(row.key)
    good = bool(key and not key.revoked)
    role = key.role if key else ""  # the key's own word: whoever may write events could write any role
    return Said(
        id=row.id,
        kind=row.kind,
        time=row.time,
        person=person_of(row.key, known),
        trusted=good and role in rules.trusted,
        counts=good,
        question=row.question,
        context=row.context,
        answer=row.answer,
        text=row.correction,
        reviewed=("accepted" if row.state == "accepted" else "refused") if row.reviewed else "",
        edited=row.edited,
    )


def _corrections(reader: Reader, since: str, until: str) -> Iterable[Review]:
    """What should have been said, but where tools were called: without their results nobody could answer so."""
    found = []
    for event in reader.find(FEEDBACK, since, until):
        said = {name: str(event.get(_FEEDBACK + name) or "").strip() for name in _TEXTS}
        if said["question"] and said["correction"]:
            found.append((event.get("http.request.id"), _row(event, "correction", **said)))
    names = ("http.request.id", "llmops.text.tools")
    texts = reader.columns(TEXT, names, since, until) if found else []
    called = {request for request, tools in texts if tools == "called"}
    return [row for request, row in found if request not in called]


_TEXTS = ("question", "context", "answer", "correction", "comment")


def _good_answers(reader: Reader, since: str, until: str) -> tuple[list[Review], set[str]]:
    """Answers that were found good, where texts are kept, and the ids of ratings that were taken back.

    Of a key's ratings of a request the last one counts. An answer to somebody who showed tools is none to train, nor is
    one from the documents: without its passages it would teach to say by heart what may be deleted tomorrow.
    """
    last: dict[tuple[str, str], Mapping[str, object]] = {}
    taken_back: set[str] = set()
    for event in reader.find(FEEDBACK, since, until):
        if event.get(_FEEDBACK + "rating"):
            who = str(event.get("http.request.id")), str(event.get("llmops.key.prefix"))
            if earlier := last.get(who):
                taken_back.add(str(earlier["event.id"]))
            last[who] = event
    taken_back -= {str(event["event.id"]) for event in last.values()}  # of one that was delivered twice
    good = {who: event for who, event in last.items() if event[_FEEDBACK + "rating"] == "up"}
    if not good:
        return [], taken_back
    outcomes = reader.columns(SERVING, ("http.request.id", "llmops.retrieval.outcome"), since, until)
    requests = {request for request, _ in good} - {str(id) for id, outcome in outcomes if outcome}
    kept = {
        str(request): (str(question), str(context or ""), str(answer), str(version or ""))
        for request, question, context, answer, version, tools in reader.columns(
            TEXT,
            (
                "http.request.id",
                "llmops.prompt.text",
                "llmops.context.text",
                "llmops.answer.text",
                "llmops.model.version",
                "llmops.text.tools",
            ),
            since,
            until,
        )
        if request in requests and question and answer and not tools
    }
    found = []
    for (request, _), rating in good.items():
        if request in kept:
            question, context, answer, version = kept[request]
            texts = {"question": question, "context": context, "answer": answer, "correction": answer}
            found.append(_row({"llmops.model.version": version, **rating}, "answer", **texts))
    return found, taken_back


def _row(event: Mapping[str, object], kind: str, **texts: str) -> Review:
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

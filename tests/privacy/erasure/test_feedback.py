"""What a person has said, in the events: dead letters, and what is only elsewhere."""

from pathlib import Path

import pytest

from llmops.access.keys import keys_of
from llmops.config import Config
from llmops.data.feedback import review, rows
from llmops.events.datasets import FEEDBACK
from llmops.events.events import build_event
from llmops.events.sinks.local import LocalStore
from llmops.events.sinks.sink import Rejection
from llmops.events.spool import Spool
from llmops.privacy.erasure import feedback
from llmops.privacy.erasure.forget import forget_person
from llmops.privacy.erasure.subject import Subject
from llmops.state.database import database_of

HERS, HIS = "aaaaaaaa", "bbbbbbbb"


def test_what_a_sink_refused_is_erased_too(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.append([build_event(FEEDBACK, {"llmops.key.prefix": key}) for key in (HERS, HIS)])
        numbers, events = spool.read("elasticsearch")
        letters = [Rejection(str(event["event.id"]), "400", event) for event in events]
        spool.ack("elasticsearch", numbers[-1], letters)
    feedback.forget_events(tmp_path / "spool.db", Subject("Bo Ek"), {HERS})
    with Spool(tmp_path) as spool:
        assert [letter.document["llmops.key.prefix"] for _, letter in spool.read_rejected()] == [HIS]
    assert HERS.encode() not in (tmp_path / "spool.db").read_bytes()


def test_what_only_elasticsearch_has_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = LocalStore(tmp_path / "there")
    monkeypatch.setattr(review, "make_reader", lambda config: there)
    monitoring = {"sinks": ("elasticsearch",), "elasticsearch_url": "http://127.0.0.1:1"}
    config = Config(home=tmp_path / "home", monitoring=monitoring)
    keys_of(config).create("user", owner="Ana Petrova")
    [key] = keys_of(config).list()
    for n in range(2):
        texts = {"llmops.feedback.question": f"Where is {n}?", "llmops.feedback.correction": f"At {n}."}
        asked = {"llmops.key.prefix": key.prefix, "user.roles": ["user"], "http.request.id": str(n)}
        there.send([build_event(FEEDBACK, texts | asked)])
        if not n:
            review.refresh(config)
    forget_person(config, "Ana Petrova")
    review.refresh(config)
    assert rows.read(database_of(config)) == []

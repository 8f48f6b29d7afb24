"""Features of prompts and answers: made when the answer has left, lost aloud, and never the text unless it is kept."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmops.config import Config
from llmops.erasure.forget import forget
from llmops.monitoring.datasets import SERVING, TEXT
from llmops.monitoring.events import emit_all, timestamp
from llmops.monitoring.kept_texts import remove_old
from llmops.monitoring.shipping import drain
from llmops.monitoring.sinks.local import LocalStore
from llmops.monitoring.spool import Spool
from llmops.retention.gc import gc
from serving.engines.base import Question
from serving.observe import texts
from serving.observe.exchange import Exchange, Given

MAIL = "anna.lind@example.com"


def keeping(site, **monitoring):
    site.config = site.config.model_copy(
        update={"monitoring": site.config.monitoring.model_copy(update={"keep_text": True, **monitoring})}
    )
    return site


def trained(site, examples):
    """Give v1 a lineage whose training split has these examples."""
    folder = site.config.artifacts / "annotate" / "abc"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(examples), folder / "train.parquet")
    version = site.config.release.registry / site.config.release.name / "versions" / "v1"
    (version / "lineage.json").write_text(json.dumps({"dataset": {"artifact": "annotate/abc"}}))


def example(question, group="delivery"):
    return {"question": question, "answer": "soon", "context": "", "group": group, "source": "faq"}


def answered(site, *bodies, path="/generate", engine_for=None):
    with site.client(engine_for) as client:
        site.ready(client)
        for body in bodies:
            client.post(path, json=body, headers=site.headers())
    return site.events(TEXT)


def test_an_answer_has_an_event_with_its_features_and_not_its_words(site):
    question = "Wie lange dauert die Lieferung nach Norwegen?"
    [event] = answered(site, {"prompt": question})
    [request] = site.events(SERVING)
    assert event["http.request.id"] == request["http.request.id"]
    assert event["@timestamp"] == request["@timestamp"] and event["llmops.model.version"] == "v1"
    assert event["llmops.prompt.language"] == event["llmops.answer.language"] == "de"
    assert event["llmops.prompt.words"] == 7 and event["llmops.answer.refusal"] is False
    assert "llmops.prompt.unknown_share" not in event  # v1 has no lineage
    assert "Norwegen" not in json.dumps(event)
    assert not any("Norwegen" in path.read_text(errors="replace") for path in site.config.events.glob("*.db*"))


def test_words_and_topics_are_compared_with_the_training_data_of_the_version(site):
    asked = [example(q) for q in ("When does my parcel come?", "Is my parcel sent?", "my parcel is late")]
    trained(site, [*asked, example("How do I pay?", "payment")])
    known, other = answered(site, {"prompt": "is my parcel late"}, {"prompt": "zebra stripes"})
    assert (known["llmops.prompt.unknown_share"], known["llmops.prompt.topics"]) == (0, ["delivery"])
    assert (other["llmops.prompt.unknown_share"], other["llmops.prompt.topics"]) == (1, ["none"])
    assert known["llmops.prompt.fit"] > other["llmops.prompt.fit"]


@pytest.mark.parametrize("stream", [False, True])
def test_each_answer_of_a_request_has_its_event_streamed_or_not(site, stream):
    body = {"model": site.config.release.name, "stream": stream}
    prompts = "one" if stream else ["one", "two words"]
    events = answered(site, {**body, "prompt": prompts}, path="/v1/completions")
    assert {event["llmops.prompt.words"] for event in events} == ({1} if stream else {1, 2})


def test_of_a_conversation_the_last_message_counts(site):
    turns = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "hi"}]
    body = {"model": site.config.release.name, "messages": [*turns, {"role": "user", "content": "and now"}]}
    [event] = answered(keeping(site), body, path="/v1/chat/completions")
    assert event["llmops.prompt.text"] == "and now"
    assert event["llmops.context.text"] == "user: hello there\nassistant: hi"


def test_what_was_refused_or_failed_has_none(site):
    assert not answered(site, {"prompt": "x" * 201}, {"prompt": " "})


# --- texts that are kept


def test_kept_texts_are_redacted(site):
    [event] = answered(keeping(site), {"prompt": f"I am {MAIL}", "context": "card 4111 1111 1111 1111"})
    assert event["llmops.prompt.text"] == event["llmops.answer.text"] == "I am <EMAIL_ADDRESS>"
    assert event["llmops.context.text"] == "card <CREDIT_CARD>"
    assert MAIL.encode() not in b"".join(path.read_bytes() for path in site.config.events.glob("*.db*"))


def test_the_page_says_so_whenever_texts_are_kept(site):
    with site.client() as client:
        assert "kept for" not in client.get("/", headers=site.headers()).text
    with keeping(site, keep_text_days=7).client() as client:
        assert (
            "What you ask and what is answered is kept for 7 days, redacted"
            in client.get("/", headers=site.headers()).text
        )


def kept(n, days, now):
    fields = {name: f"words of {n}" for name in ("llmops.prompt.text", "llmops.answer.text", "llmops.context.text")}
    return {**fields, "@timestamp": timestamp(now - timedelta(days=days)), "llmops.prompt.words": n}


def test_texts_are_taken_out_of_store_spool_and_what_was_refused_when_their_days_are_over(tmp_path):
    now = datetime.now(UTC)
    config = Config(home=tmp_path)
    emit_all(config.events, TEXT, [kept(1, 31, now), kept(2, 29, now)])
    emit_all(config.events, SERVING, [{"@timestamp": timestamp(now - timedelta(days=31))}])
    drain(config.events, config.monitoring)
    emit_all(config.events, TEXT, [kept(3, 40, now), kept(4, 0, now)])
    assert remove_old(config.events, 30, now) == 2
    assert remove_old(config.events, 30, now) == 0
    with Spool(config.events) as spool:
        _, waiting = spool.read("local")
    events = [*LocalStore(config.events).find(TEXT), *waiting]
    assert {e["llmops.prompt.words"]: "llmops.prompt.text" in e for e in events} == {
        1: False,
        2: True,
        3: False,
        4: True,
    }
    left = b"".join(path.read_bytes() for path in config.events.glob("*.db*"))
    assert b"words of 2" in left and b"words of 1" not in left and b"words of 3" not in left


def test_the_daily_tidying_removes_them_where_no_app_runs(tmp_path):
    config, now = Config(home=tmp_path), datetime.now(UTC)
    emit_all(config.events, TEXT, [kept(1, 31, now)])
    gc(config)
    with Spool(config.events) as spool:
        [event] = spool.read("local")[1]
    assert "llmops.prompt.text" not in event


def test_removing_from_a_home_without_events_is_nothing(tmp_path):
    assert remove_old(tmp_path, 30) == 0
    assert not list(tmp_path.iterdir())


def test_a_person_who_is_forgotten_is_forgotten_in_kept_texts_of_store_and_spool(site):
    keeping(site)
    answered(site, {"prompt": "My number is C-10017, where is my parcel?"})  # now in the store
    with site.client() as client:
        site.ready(client)
        site.ask(client, prompt="It is C-10017 again")
    for version in (site.config.release.registry / site.config.release.name / "versions").iterdir():
        (version / "lineage.json").write_text('{"stages": []}')
    report = forget(site.config, "C-10017")
    assert not report.remaining
    left = b"".join(path.read_bytes() for path in site.config.events.glob("*.db*"))
    assert b"C-10017" not in left and b"<FORGOTTEN>" in left
    assert len(site.events(TEXT)) == 2


# --- under load, and when something fails


def worker(config, lexicon_of=lambda version: None):
    lost = []
    return texts.Texts(config, lambda why, count: lost.append((why, count)), lexicon_of), lost


def exchange(site_version="v1", text="hello", reason="stop"):
    class Version:
        name = site_version

    given = Given(Question(text), Version(), texts=[text], finish_reason=reason)
    return Exchange([given])


def test_what_finds_no_room_is_lost_aloud_and_what_waits_is_made(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(texts, "MOST_WAITING", 3)
    config = Config(home=tmp_path)
    made, lost = worker(config)
    for n in range(5):
        made.offer({"http.request.id": str(n)}, exchange())
    assert lost == [("too many at a time", 1)] * 2
    with caplog.at_level(logging.WARNING):
        made.start()
        made.stop()
    assert "too many at a time" in caplog.text
    drain(config.events, config.monitoring)
    events = list(LocalStore(config.events).find(TEXT))
    assert {e["http.request.id"] for e in events if e["event.action"] == "describe"} == {"0", "1", "2"}
    [told] = [e for e in events if e["event.action"] == "lose"]
    assert (told["event.reason"], told["llmops.text.lost"], told["event.outcome"]) == (
        "too many at a time",
        2,
        "failure",
    )


def test_what_was_offered_is_written_when_it_has_settled(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "FLUSH_S", 3600.0)
    config = Config(home=tmp_path)
    made, _ = worker(config)
    made.start()
    for n in range(3):
        made.offer({"http.request.id": str(n)}, exchange())
        made.settle()
        drain(config.events, config.monitoring)
        assert len(list(LocalStore(config.events).find(TEXT))) == n + 1
    made.stop()


def test_a_full_disk_holds_up_nobody_who_waits_for_it_to_settle(tmp_path, monkeypatch):
    made, lost = worker(Config(home=tmp_path))
    made.start()
    with monkeypatch.context() as broken:
        broken.setattr(texts, "emit_all", lambda *_: 1 / 0)
        made.offer({}, exchange())
        made.settle()
        assert lost == [("they could not be written", 1)]
    made.stop()


def test_a_feature_that_cannot_be_made_harms_nothing_else(tmp_path, monkeypatch):
    def fail(answer):
        raise ZeroDivisionError("no")

    config = Config(home=tmp_path)
    made, lost = worker(config)
    made.offer({}, exchange())
    with monkeypatch.context() as broken:
        broken.setattr(texts, "is_refusal", fail)
        made._turn()
    made.offer({}, exchange())
    made.start()
    made.stop()
    assert lost == [("ZeroDivisionError", 1)]
    drain(config.events, config.monitoring)
    assert [e["event.action"] for e in LocalStore(config.events).find(TEXT)].count("describe") == 1


def test_a_lexicon_that_cannot_be_made_is_asked_for_once(tmp_path):
    asked = []

    def lexicon_of(version):
        asked.append(version.name)
        raise RuntimeError("damaged")

    made, lost = worker(Config(home=tmp_path), lexicon_of)
    for _ in range(3):
        made.offer({}, exchange())
    made.start()
    made.stop()
    assert asked == ["v1"] and lost == [("RuntimeError", 1)]


def test_a_full_disk_loses_features_aloud_and_the_thread_lives_on(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    made, lost = worker(Config(home=tmp_path))
    with monkeypatch.context() as broken:
        broken.setattr(texts, "emit_all", full)
        made.offer({}, exchange())
        with pytest.raises(OSError):
            made._turn()
    assert lost == [("they could not be written", 1)]


def test_answers_do_not_wait_for_features(site, monkeypatch):
    """While features hang, answers come as before; then they are made."""
    hang, waits = threading.Event(), threading.Event()
    real = texts.features

    def hung(*args):
        waits.set()
        assert hang.wait(60)
        return real(*args)

    monkeypatch.setattr(texts, "features", hung)
    with site.client() as client:
        site.ready(client)
        for _ in range(20):
            assert site.ask(client).status_code == 200
        assert waits.wait(10)
        assert len(site.events(SERVING)) == 20 and not site.events(TEXT)
        hang.set()
    assert len(site.events(TEXT)) == 20


def test_losses_are_figures(site, monkeypatch):
    monkeypatch.setattr(texts, "is_refusal", lambda answer: 1 / 0)
    with site.client() as client:
        site.ready(client)
        site.ask(client)
        figure = 'llmops_texts_lost_total{reason="ZeroDivisionError"} 1.0'
        site.until(lambda: figure in client.get("/metrics", headers=site.headers("developer")).text)


HUNG = """
import sys, time
from pathlib import Path
from llmops.config import Config
from serving.app import serve
from serving.engines.echo import EchoEngine
from serving.observe import texts
texts.features = lambda *_: time.sleep(600)
serving = {"port": int(sys.argv[2]), "requests_per_minute": 0, "tokens_per_minute": 0}
serve(Config(home=Path(sys.argv[1]), serving=serving), lambda version: EchoEngine())
"""


def test_who_is_killed_between_answer_and_features_loses_the_features_alone(site, free_port):
    process = subprocess.Popen([sys.executable, "-c", HUNG, str(site.config.home), str(free_port)])
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{free_port}", timeout=60) as client:
            site.until(lambda: _ready(client))
            assert site.ask(client).status_code == 200
    finally:
        process.kill()
        process.wait()
    assert len(site.events(SERVING)) == 1 and not site.events(TEXT)


def _ready(client):
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False

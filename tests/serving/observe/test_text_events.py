"""Features of prompts and answers: made when the answer has left, lost aloud, and never the text unless it is kept."""

import json
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq

from llmops.config import Config
from llmops.events.datasets import SERVING, TEXT
from llmops.events.events import emit_all, format_timestamp
from llmops.events.shipping import drain_spool
from llmops.events.sinks.local import LocalStore
from llmops.events.spool import Spool
from llmops.events.text_pruning import prune_texts
from llmops.privacy.retention.gc import collect_garbage
from serving.engines.base import Question
from serving.observe import text_events
from serving.observe.exchange import Exchange, ServedAnswer

MAIL = "anna.lind@example.com"


def configure_keeping(site, **monitoring):
    site.config = site.config.model_copy(
        update={"monitoring": site.config.monitoring.model_copy(update={"keep_text": True, **monitoring})}
    )
    return site


def ask_app(site, *asked):
    """Ask an app of its own, each time a path and a body; give the events of the texts."""
    with site.client() as client:
        site.ready(client)
        for path, body in asked:
            client.post(path, json={"model": "support-bot", **body} if "v1" in path else body, headers=site.headers())
    return site.events(TEXT)


def test_an_answer_has_an_event_with_its_features_and_not_its_words(site):
    """Each answer of a request has one, streamed or not; a refused request has none."""
    german = {"prompt": "Wie lange dauert die Lieferung nach Norwegen?"}
    several, streamed = {"prompt": ["one", "two words"]}, {"prompt": "now three words", "stream": True}
    asked = [("/v1/completions", several), ("/v1/completions", streamed)]
    events = ask_app(site, ("/generate", german), ("/generate", {"prompt": "x" * 201}), *asked)
    [event] = [event for event in events if event["llmops.prompt.words"] == 7]
    [request] = [request for request in site.events(SERVING) if request["http.request.id"] == event["http.request.id"]]
    assert event["@timestamp"] == request["@timestamp"] and event["llmops.model.version"] == "v1"
    assert event["llmops.prompt.language"] == event["llmops.answer.language"] == "de"
    assert event["llmops.answer.refusal"] is False
    assert "llmops.prompt.unknown_share" not in event  # v1 has no lineage
    assert "Norwegen" not in json.dumps(events)
    assert not any("Norwegen" in path.read_text(errors="replace") for path in site.config.events.glob("*.db*"))
    assert sorted(event["llmops.prompt.words"] for event in events) == [1, 2, 3, 7]


def test_words_and_topics_are_compared_with_the_training_data_of_the_version(site):
    questions = ("When does my parcel come?", "Is my parcel sent?", "my parcel is late")
    row = {"answer": "soon", "context": "", "group": "delivery", "source": "faq"}
    folder = site.config.artifacts / "annotate" / "abc"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([{"question": q, **row} for q in questions]), folder / "train.parquet")
    version = site.config.release.registry / site.config.release.name / "versions" / "v1"
    (version / "lineage.json").write_text(json.dumps({"dataset": {"artifact": "annotate/abc"}}))
    asked = [("/generate", {"prompt": prompt}) for prompt in ("is my parcel late", "zebra stripes")]
    known, other = ask_app(site, *asked)
    assert (known["llmops.prompt.unknown_share"], known["llmops.prompt.topics"]) == (0, ["delivery"])
    assert (other["llmops.prompt.unknown_share"], other["llmops.prompt.topics"]) == (1, ["none"])


# --- texts that are kept


def test_kept_texts_are_redacted_and_of_a_conversation_the_last_message_counts(site):
    turns = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "hi"}]
    chat = {"messages": [*turns, {"role": "user", "content": "and now"}]}
    personal = {"prompt": f"I am {MAIL}", "context": "card 4111 1111 1111 1111"}
    event, talk = ask_app(configure_keeping(site), ("/generate", personal), ("/v1/chat/completions", chat))
    assert event["llmops.prompt.text"] == event["llmops.answer.text"] == "I am <EMAIL_ADDRESS>"
    assert event["llmops.context.text"] == "card <CREDIT_CARD>"
    assert MAIL.encode() not in b"".join(path.read_bytes() for path in site.config.events.glob("*.db*"))
    assert talk["llmops.prompt.text"] == "and now"
    assert talk["llmops.context.text"] == "user: hello there\nassistant: hi"


def test_the_page_says_so_whenever_texts_are_kept(site, shared_client):
    assert "kept for" not in shared_client.get("/").text
    with configure_keeping(site, keep_text_days=7).client() as client:
        assert "What you ask and what is answered is kept for 7 days, redacted" in client.get("/").text


def make_kept_event(n, days, now):
    fields = {name: f"words of {n}" for name in ("llmops.prompt.text", "llmops.answer.text", "llmops.context.text")}
    return {**fields, "@timestamp": format_timestamp(now - timedelta(days=days)), "llmops.prompt.words": n}


def test_texts_are_taken_out_of_store_spool_and_what_was_refused_when_their_days_are_over(tmp_path):
    now = datetime.now(UTC)
    config = Config(home=tmp_path)
    emit_all(config.events, TEXT, [make_kept_event(1, 31, now), make_kept_event(2, 29, now)])
    emit_all(config.events, SERVING, [{"@timestamp": format_timestamp(now - timedelta(days=31))}])
    drain_spool(config.events, config.monitoring)
    emit_all(config.events, TEXT, [make_kept_event(3, 40, now), make_kept_event(4, 0, now)])
    assert prune_texts(config.events, 30, now) == 2
    assert prune_texts(config.events, 30, now) == 0
    with Spool(config.events) as spool:
        _, waiting = spool.read("local")
    events = [*LocalStore(config.events).find(TEXT), *waiting]
    found = {e["llmops.prompt.words"]: "llmops.prompt.text" in e for e in events}
    assert found == {1: False, 2: True, 3: False, 4: True}
    left = b"".join(path.read_bytes() for path in config.events.glob("*.db*"))
    assert b"words of 2" in left and b"words of 1" not in left and b"words of 3" not in left


def test_the_daily_tidying_removes_them_where_no_app_runs(tmp_path):
    config, now = Config(home=tmp_path / "home"), datetime.now(UTC)
    assert prune_texts(config.events, 30) == 0 and not list(tmp_path.iterdir())  # there is nothing, and nothing is made
    emit_all(config.events, TEXT, [make_kept_event(1, 31, now)])
    collect_garbage(config)
    with Spool(config.events) as spool:
        [event] = spool.read("local")[1]
    assert "llmops.prompt.text" not in event


# --- under load, and when something fails


def make_recorder(config, load_lexicon=lambda version: None):
    lost = []
    return text_events.TextRecorder(config, lambda why, count: lost.append((why, count)), load_lexicon), lost


def make_exchange():
    given = ServedAnswer(
        Question("hello"), SimpleNamespace(name="v1", classifies=False), texts=["hello"], finish_reason="stop"
    )
    return Exchange([given])


def run_recorder(made):
    made.start()
    made.stop()


def test_what_finds_no_room_is_counted_as_lost_and_what_waits_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(text_events, "MAX_WAITING", 3)
    config = Config(home=tmp_path)
    made, lost = make_recorder(config)
    for n in range(5):
        made.offer({"http.request.id": str(n)}, make_exchange())
    assert lost == [("too many at a time", 1)] * 2
    run_recorder(made)
    drain_spool(config.events, config.monitoring)
    assert {e["http.request.id"] for e in LocalStore(config.events).find(TEXT)} == {"0", "1", "2"}


def test_answers_do_not_wait_for_features_and_losses_are_figures(site, monkeypatch):
    """While features hang, answers come as before; then they are made."""
    hang, waits = threading.Event(), threading.Event()
    real = text_events.extract_features

    def hang_until_set(*args):
        waits.set()
        assert hang.wait(60)
        return real(*args)

    monkeypatch.setattr(text_events, "extract_features", hang_until_set)
    with site.client() as client:
        site.ready(client)
        for _ in range(20):
            assert site.ask(client).status_code == 200
        assert waits.wait(50)
        assert len(site.events(SERVING)) == 20 and not site.events(TEXT)
        hang.set()
        site.until(lambda: len(site.events(TEXT)) == 20)
        monkeypatch.setattr(text_events, "is_refusal", lambda answer: 1 / 0)
        site.ask(client)
        figure = 'llmops_texts_lost_total{reason="ZeroDivisionError"} 1.0'
        site.until(lambda: figure in client.get("/metrics", headers=site.headers("developer")).text)

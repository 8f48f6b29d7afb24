import re
from datetime import UTC, datetime, timedelta

import pytest

from llmops.events.datasets import ALERT, CANARY, DRIFT, FEEDBACK, GATE, HUB, PIPELINE, SERVING
from llmops.events.events import build_event, format_timestamp
from llmops.events.sinks.local import LocalStore
from serving.observe.dashboard import SPANS, read_dashboard
from serving.routes import pages

NOW = datetime(2026, 1, 7, 12, 0, 30, tzinfo=UTC)


def make_request(ago, status=200, ms=100.0, version="v1", id="", tokens=7):
    fields = {
        "@timestamp": format_timestamp(NOW - ago),
        "http.response.status_code": status,
        "event.duration": int(ms * 1e6),
    }
    asked = {"http.request.id": id, "llmops.model.version": version, "gen_ai.usage.output_tokens": tokens}
    return build_event(SERVING, {**fields, **asked})


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path)


@pytest.mark.parametrize("span", SPANS)
def test_every_request_of_the_span_falls_into_one_bucket(store, span):
    step, count = SPANS[span]
    empty = read_dashboard(store, span, 2, NOW)
    assert len(empty["series"]) == count and {bucket["p95"] for bucket in empty["series"]} == {None}
    assert empty["totals"]["requests"] == 0 and empty["versions"] == {} and empty["stages"] == []
    length = step * count
    agos = [timedelta(), timedelta(seconds=30), length / 2, length - step, length + timedelta(hours=3)]
    store.send([make_request(ago) for ago in agos])
    result = read_dashboard(store, span, 2, NOW)
    assert result["totals"]["requests"] == 4
    assert sum(bucket["answered"] for bucket in result["series"]) == 4
    assert result["series"][-1]["answered"] >= 1
    times = [bucket["time"] for bucket in result["series"]]
    assert times == sorted(set(times)) and times[-1] <= format_timestamp(NOW)


def test_a_bucket_tells_answers_from_refusals_and_failures(store):
    store.send([make_request(timedelta(), ms=50), make_request(timedelta(), 429, 1), make_request(timedelta(), 500, 9)])
    last = read_dashboard(store, "1h", 2, NOW)["series"][-1]
    assert (last["answered"], last["refused"], last["failed"]) == (1, 1, 1)
    assert last["p50"] == last["p95"] == 50


def test_answers_from_documents_are_counted_by_outcome_and_by_passage(store):
    for outcome, passages in (("found", ["p1", "p2"]), ("found", ["p1"]), ("refused", []), (None, None)):
        looked_up = {"llmops.retrieval.outcome": outcome, "llmops.retrieval.passages": passages} if outcome else {}
        store.send([make_request(timedelta()) | looked_up])
    found = read_dashboard(store, "1h", 2, NOW)["retrieval"]
    assert found == {"outcomes": {"found": 2, "refused": 1}, "passages": {"p1": 2, "p2": 1}}


def test_decisions_and_alerts_are_listed_newest_first(store):
    numbers = {"low": -0.1, "attempt": 7, "level": 0.0009, "left": 0.006, "power": 0.06}
    gate = {f"llmops.gate.{name}": value for name, value in numbers.items()}
    store.send([build_event(GATE, {"llmops.gate.outcome": "rejected", "llmops.model.version": "v2", **gate})])
    pulled = {"outcome": "regression", "share": 0.1, "numbers": {"bound": 0.001}}
    canary = {f"llmops.canary.{name}": value for name, value in pulled.items()}
    store.send([build_event(CANARY, {**canary, "event.reason": "errors", "llmops.model.version": "v2"})])
    store.send([build_event(ALERT, {"message": "slow"})])
    for n, main in enumerate(["v1", "v3", "v2"]):
        when = format_timestamp(NOW - timedelta(days=30 - n))
        store.send([build_event(HUB, {"@timestamp": when, "llmops.hub.repo": "me/bot", "llmops.hub.main": main})])
    result = read_dashboard(store, "1h", 2, NOW)
    (one,), (tried,) = result["gates"], result["canaries"]
    assert (one["version"], one["outcome"], one["difference"]) == ("v2", "rejected", None)
    assert {name: one[name] for name in numbers} == numbers
    assert (tried["version"], tried["outcome"], tried["share"], tried["why"]) == ("v2", "regression", 0.1, "errors")
    assert result["alerts"][0]["message"] == "slow"
    assert [(hub["repo"], hub["main"]) for hub in result["hub"]] == [("me/bot", "v2")]  # what the last push left


def make_run(stage, metrics=None, days=0, **fields):
    fields = {f"event.{name}": value for name, value in fields.items()} | {"llmops.metrics": metrics}
    seconds = {"event.action": stage, "event.outcome": "success", "event.duration": 2_000_000_000}
    return build_event(PIPELINE, {"@timestamp": format_timestamp(NOW - timedelta(days=30 - days)), **seconds, **fields})


def test_a_stage_has_one_line_however_often_and_whatever_it_measured(store):
    many = {f"figure_{n}": n for n in range(60)}
    names = [f"stage{n}" for n in range(15)]
    store.send([make_run(name, many | {"nested": {"a": many}}, day) for day in range(10) for name in names])
    store.send([make_run("stage3", None, 20, outcome="failure") | {"error.message": "no disk"}])
    lines = read_dashboard(store, "1h", 2, NOW)["stages"]
    assert len(lines) == 15 and {line["stage"] for line in lines} == set(names)
    assert (lines[0]["stage"], lines[0]["headline"], lines[0]["outcome"]) == ("stage3", "no disk", "failure")
    assert {line["headline"] for line in lines[1:]} == {"figure 0 0"}
    assert {line["seconds"] for line in lines} == {2.0}


def test_runs_are_read_once_for_all_dashboards_that_are_open(store, monkeypatch):
    find, asked = store.find, []
    monkeypatch.setattr(store, "find", lambda dataset, **how: asked.append(dataset) or find(dataset, **how))
    for name, later, lines in (("train", 0, ["train"]), ("tune", 4, ["train"]), ("gc", 5, ["gc", "tune", "train"])):
        store.send([make_run(name, days=later)])
        found = read_dashboard(store, "1h", 2, NOW + timedelta(seconds=later))["stages"]
        assert [line["stage"] for line in found] == lines
    assert asked.count(PIPELINE) == 2


def test_a_stage_has_a_page_of_its_figures_and_their_change(site):
    store = LocalStore(site.config.events, site.config.monitoring)
    sources = {"faq": {"read": 1}, "<b>": {"read": 20, "left": 3}}
    store.send(
        [
            make_run("train", {"loss": 1.75, "steps": 9, "sources": sources}, n) | {"llmops.interval": f"day {n}"}
            for n in (0, 1)
        ]
    )
    store.send([make_run("train", {"loss": 1.5, "steps": 9, "sources": sources}, 2)])
    store.send(
        [
            make_run("train", None, 3, outcome="failure") | {"error.message": "no memory"},
            make_run("tune", {"loss": 7}, 4),
        ]
    )
    with site.client() as client:
        page = client.get("/dashboard/stages/train", headers=site.headers("developer"))
        assert client.get("/dashboard/stages/nothing", headers=site.headers("developer")).status_code == 404
        assert client.get("/dashboard/stages/train", headers=site.headers("user")).status_code == 403
        assert client.get("/dashboard/stages/train").status_code == 401
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page.text, re.DOTALL)]
    assert (
        page.status_code == 200 and ["loss", "1.5", "nats/token", "−0.25"] in rows and ["steps", "9", "", "="] in rows
    )
    assert '<a href="/dashboard" aria-current="page">' in page.text
    assert ["faq", "1", "–"] in rows and ["&lt;b&gt;", "20", "3"] in rows
    assert [row[4] for row in rows if len(row) == 6] == [
        "no memory",
        "loss 1.5 nats/token",
        *["loss 1.75 nats/token"] * 2,
    ]


def test_a_comparison_that_differs_in_one_window_is_not_called_drift(store):
    for feature, drifted, windows in (("words", True, 1), ("topics", True, 2), ("script", False, 0)):
        facts = {"feature": feature, "drifted": drifted, "windows": windows, "until": "2026-01-07T00:00:00.000Z"}
        store.send([build_event(DRIFT, {f"llmops.drift.{name}": value for name, value in facts.items()})])
    found = {one["feature"]: one["state"] for one in read_dashboard(store, "1h", 2, NOW)["drift"]}
    assert found == {"words": "differs", "topics": "drift", "script": "as before"}


def test_an_event_with_gaps_does_not_break_the_page(store):
    store.send([build_event(dataset, {}) for dataset in (SERVING, FEEDBACK, PIPELINE, GATE, ALERT, CANARY, HUB)])
    result = read_dashboard(store, "7d", 2)
    assert len(result["stages"]) == len(result["gates"]) == len(result["alerts"]) == 1


def make_rating(id, word, key="a"):
    fields = {"@timestamp": format_timestamp(NOW), "http.request.id": id, "llmops.key.prefix": key}
    return build_event(FEEDBACK, {**fields, "llmops.feedback.rating": word})


def test_versions_are_compared_by_share_speed_and_ratings(store):
    ago = timedelta(minutes=5)
    store.send([make_request(ago, ms=1000, id=f"a{n}", tokens=10) for n in range(3)])
    store.send([make_request(ago, 200, 500, "v2", "b0", 20), make_request(ago, 500, 1000, "v2", "b1", 0)])
    store.send(
        [
            make_rating("a0", "up"),
            make_rating("a1", "down"),
            make_rating("a1", "up", key="b"),
            make_rating("b0", "down"),
        ]
    )
    store.send([make_rating("x", "up"), make_rating("a2", None)])  # of an unknown request; a comment without a thumb
    figures_of = read_dashboard(store, "1h", 2, NOW)["versions"]
    first, second = figures_of["v1"], figures_of["v2"]
    assert (first["share"], second["share"]) == (0.6, 0.4)
    assert (first["tokens_per_s"], second["tokens_per_s"]) == (10, 40)
    assert (first["up"], first["down"], second["up"], second["down"]) == (2, 1, 0, 1)
    assert second["failed"] == 1 and second["error_rate"] == 0.5


def test_the_page_is_of_the_store_that_all_processes_share(site, free_port):
    shared = {"sinks": ("local", "elasticsearch"), "elasticsearch_url": f"http://127.0.0.1:{free_port}"}
    site.config = site.config.model_copy(update={"monitoring": site.config.monitoring.model_copy(update=shared)})
    with site.client() as client:
        answer = client.get("/dashboard/data", headers=site.headers("developer"))
    assert (answer.status_code, answer.json()["code"]) == (503, "events_unavailable")
    assert "from Elasticsearch" in answer.json()["detail"]


def test_the_data_have_limits_and_are_read_one_at_a_time(site, monkeypatch):
    key, _ = site.store.create("developer", "ana", requests_per_minute=2)
    locked = []
    with site.client() as client:
        lock = client.app.state.parts.reading_dashboard
        monkeypatch.setattr(pages, "read_dashboard", lambda *_: locked.append(lock.locked()) or {})
        answers = [client.get("/dashboard/data", headers={"X-API-Key": key}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429] and locked == [True, True]

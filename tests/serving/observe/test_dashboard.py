import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import httpx
import pytest

from llmops.config import Deploy
from llmops.deploy.stage import prove
from llmops.monitoring.datasets import ALERT, CANARY, FEEDBACK, GATE, HUB, PIPELINE, SERVING
from llmops.monitoring.events import build, timestamp
from llmops.monitoring.sinks.local import LocalStore
from llmops.registry.registry import registry_of
from serving.observe.dashboard import SPANS, dashboard_figures

NOW = datetime(2026, 1, 7, 12, 0, 30, tzinfo=UTC)


def request(ago, status=200, ms=100.0):
    fields = {"@timestamp": timestamp(NOW - ago), "http.response.status_code": status, "event.duration": int(ms * 1e6)}
    return build(SERVING, {**fields, "llmops.model.version": "v1", "gen_ai.usage.output_tokens": 7})


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path)


@pytest.mark.parametrize("span", SPANS)
def test_an_empty_store_has_empty_buckets(store, span):
    result = dashboard_figures(store, span, NOW)
    assert len(result["series"]) == SPANS[span][1]
    assert result["totals"]["requests"] == 0 and result["versions"] == {} and result["stages"] == []
    assert {bucket["p95"] for bucket in result["series"]} == {None}


@pytest.mark.parametrize("span", SPANS)
def test_every_request_of_the_span_falls_into_one_bucket(store, span):
    step, count = SPANS[span]
    length = step * count
    agos = [timedelta(), timedelta(seconds=30), length / 2, length - step, length + timedelta(hours=3)]
    store.send([request(ago) for ago in agos])
    result = dashboard_figures(store, span, NOW)
    assert result["totals"]["requests"] == 4
    assert sum(bucket["answered"] for bucket in result["series"]) == 4
    assert result["series"][-1]["answered"] >= 1
    times = [bucket["time"] for bucket in result["series"]]
    assert times == sorted(set(times)) and times[-1] <= timestamp(NOW)


def test_a_bucket_tells_answers_from_refusals_and_failures(store):
    store.send([request(timedelta(), ms=50), request(timedelta(), 429, 1), request(timedelta(), 500, 9)])
    last = dashboard_figures(store, "1h", NOW)["series"][-1]
    assert (last["answered"], last["refused"], last["failed"]) == (1, 1, 1)
    assert last["p50"] == last["p95"] == 50


def test_stages_decisions_and_alerts_are_listed_newest_first(store):
    for n, stage in enumerate(["collect", "clean"]):
        when = timestamp(NOW - timedelta(days=30, hours=-n))
        metrics = {"documents": 3, "nested": {"a": 1}}
        store.send([build(PIPELINE, {"@timestamp": when, "event.action": stage, "event.duration": 2_000_000_000,
                                     "event.outcome": "success", "llmops.metrics": metrics})])  # fmt: skip
    numbers = {"low": -0.1, "attempt": 7, "level": 0.0009, "left": 0.006, "power": 0.06}
    gate = {f"llmops.gate.{name}": value for name, value in numbers.items()}
    store.send([build(GATE, {"llmops.gate.outcome": "rejected", "llmops.model.version": "v2", **gate})])
    store.send([build(ALERT, {"message": "slow"})])
    result = dashboard_figures(store, "1h", NOW)
    assert [stage["stage"] for stage in result["stages"]] == ["clean", "collect"]
    assert result["stages"][0]["seconds"] == 2
    assert [(one["stage"], [row["name"] for row in one["rows"]]) for one in result["measured"]] == [
        ("clean", ["documents", "nested: a"]), ("collect", ["documents", "nested: a"]),
    ]  # fmt: skip
    assert (result["gates"][0]["version"], result["gates"][0]["outcome"]) == ("v2", "rejected")
    assert {name: result["gates"][0][name] for name in numbers} == numbers
    assert result["gates"][0]["difference"] is None
    assert result["alerts"][0]["message"] == "slow"


def test_each_stage_is_told_beside_the_time_before_it_made_something(store):
    def stage(name, hours, outcome="success", **metrics):
        when = timestamp(NOW - timedelta(hours=hours))
        fields = {"@timestamp": when, "event.action": name, "event.outcome": outcome, "event.duration": 1}
        store.send([build(PIPELINE, {**fields, **({"llmops.metrics": metrics} if metrics else {})})])

    stage("train", 900, final_loss=2.5, examples=10)
    stage("train", 800, final_loss=2.25, examples=10)
    for hours in range(60):  # days on which nothing else was new, more than are listed
        stage("collect", 700 - hours, documents=hours)
    stage("train", 1, "failure")
    result = dashboard_figures(store, "1h", NOW)
    assert len(result["stages"]) == 26 and result["stages"][0]["outcome"] == "failure"
    assert [one["stage"] for one in result["measured"]] == ["collect", "train"]
    assert result["measured"][1]["rows"] == [
        {"name": "final loss", "value": "2.25", "unit": "nats/token", "change": "−0.25"},
        {"name": "examples", "value": "10", "unit": "", "change": "="},
    ]
    assert result["measured"][0]["rows"][0]["change"] == "+1"


def test_what_the_hub_holds_is_what_the_last_push_left_there(store):
    for n, main in enumerate(["v1", "v3", "v2"]):
        when = timestamp(NOW - timedelta(days=30 - n))
        store.send([build(HUB, {"@timestamp": when, "llmops.hub.repo": "me/bot", "llmops.hub.main": main})])
    (hub,) = dashboard_figures(store, "1h", NOW)["hub"]
    assert (hub["repo"], hub["main"]) == ("me/bot", "v2")


def test_an_event_with_gaps_does_not_break_the_page(store):
    store.send([build(dataset, {}) for dataset in (SERVING, FEEDBACK, PIPELINE, GATE, ALERT, CANARY, HUB)])
    result = dashboard_figures(store, "7d")
    assert len(result["stages"]) == len(result["gates"]) == len(result["alerts"]) == 1


def version(name, id, ms=1000.0, status=200, tokens=10, ago=timedelta(minutes=5)):
    fields = {"@timestamp": timestamp(NOW - ago), "http.response.status_code": status, "event.duration": int(ms * 1e6)}
    asked = {"http.request.id": id, "llmops.model.version": name, "gen_ai.usage.output_tokens": tokens}
    return build(SERVING, {**fields, **asked})


def rating(id, word, key="a", ago=timedelta()):
    fields = {"@timestamp": timestamp(NOW - ago), "http.request.id": id, "llmops.key.prefix": key}
    return build(FEEDBACK, {**fields, "llmops.feedback.rating": word})


def test_versions_are_compared_by_share_speed_and_ratings(store):
    store.send([version("v1", f"a{n}") for n in range(3)] + [version("v2", "b0", 500, tokens=20)])
    store.send([version("v2", "b1", status=500, tokens=0)])
    store.send([rating("a0", "up"), rating("a1", "down"), rating("a1", "up", key="b"), rating("b0", "down")])
    store.send([rating("x", "up"), rating("a2", None)])  # of an unknown request; a comment without a thumb
    figures_of = dashboard_figures(store, "1h", NOW)["versions"]
    first, second = figures_of["v1"], figures_of["v2"]
    assert (first["share"], second["share"]) == (0.6, 0.4)
    assert (first["tokens_per_s"], second["tokens_per_s"]) == (10, 40)
    assert (first["up"], first["down"], second["up"], second["down"]) == (2, 1, 0, 1)
    assert second["failed"] == 1 and second["error_rate"] == 0.5


def test_the_last_word_of_a_key_counts_and_so_does_what_is_said_later(store):
    store.send([version("v1", "a", ago=timedelta(minutes=50)), version("v1", "old", ago=timedelta(hours=2))])
    store.send([rating("a", "down", ago=timedelta(minutes=2)), rating("a", "up", ago=timedelta(minutes=1))])
    store.send([rating("old", "up"), rating("a", "down", key="b", ago=timedelta(minutes=-30))])
    one = dashboard_figures(store, "1h", NOW)["versions"]["v1"]
    assert (one["requests"], one["up"], one["down"]) == (1, 1, 1)


def test_decisions_on_canaries_are_listed_with_their_reason(store):
    fields = {"llmops.canary.outcome": "rolled back", "llmops.canary.share": 0.1, "event.reason": "errors"}
    store.send(
        [build(CANARY, {**fields, "llmops.model.version": "v2", "llmops.canary.numbers": {"worse": ["errors"]}})]
    )
    (one,) = dashboard_figures(store, "1h")["canaries"]
    assert (one["version"], one["outcome"], one["share"], one["why"]) == ("v2", "rolled back", 0.1, "errors")


def test_the_proof_of_a_deployment_is_one_request_and_no_error(site):
    """Deploy waits while the app loads the champion: its looking is nobody's failed request."""
    loaded = threading.Event()

    def slow(version):
        loaded.wait(60)
        return site.engine(version)

    # the first champion comes when the app runs, and `live` waits for an engine
    site.set_aliases()
    site.engines["none"] = SimpleNamespace(stats=lambda: SimpleNamespace(alive=True), going=threading.Event())
    with site.live(slow) as url:
        assert site.ask(httpx.Client(base_url=url)).status_code == 503  # whoever asks now does get an error
        site.set_aliases(champion="v1")
        threading.Timer(1.5, loaded.set).start()
        proof = prove(Deploy(question="one two"), url, site.keys["user"], registry_of(site.config).get("v1"))
    assert proof["answer"] == "one two"
    statuses = [event["http.response.status_code"] for event in site.events(SERVING)]
    assert statuses == [503, 200]
    assert dashboard_figures(LocalStore(site.config.events), "1h")["totals"]["failed"] == 1

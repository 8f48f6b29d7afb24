"""What raises an alert and what does not, judged on events in the local store."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from llmops.access.keys import KeyStore
from llmops.config import Config
from llmops.config.monitoring import Operation
from llmops.events.datasets import DECAY, DRIFT, PIPELINE, SERVING
from llmops.events.events import build_event, emit, format_timestamp
from llmops.events.sinks.local import LocalStore
from llmops.monitoring.alerts import checks, lifecycle
from llmops.monitoring.alerts.request_checks import CheckInputs
from llmops.monitoring.alerts.rule_checker import RuleChecker
from llmops.release import rollout
from llmops.state.database import database_of
from serving.http.middleware import RECORDED_PATHS
from tests.clock import FakeClock
from tests.release.conftest import two_versions

NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(home=tmp_path, alerts={"disk_free": 0})


def make_requests(
    count: int, ms: float = 100, status: int = 200, ago: float = 2, every_s: float = 0.1, **fields: Any
) -> list[dict[str, Any]]:
    same = {"http.response.status_code": status, "event.duration": int(ms * 1e6), "url.path": "/generate", **fields}
    moments = (NOW - ago * MINUTE + timedelta(seconds=n * every_s) for n in range(count))
    return [build_event(SERVING, {"@timestamp": format_timestamp(moment), **same}) for moment in moments]


def find_raised(config: Config, *events: Sequence[dict[str, Any]], **judging: Any) -> set[str]:
    LocalStore(config.events).send([event for several in events for event in several])
    return {change["rule"] for change in RuleChecker(config, **judging).check(NOW) if change["state"] == "raised"}


@pytest.mark.parametrize(
    ("events", "rules"),
    [
        ([make_requests(60, 1500)], {"latency_p95"}),
        ([make_requests(4, 5000), make_requests(40)], set()),  # 9 %, but four
        ([make_requests(5, 5000), make_requests(40)], {"latency_p95"}),
        ([make_requests(60, 1500, ago=6)], set()),  # before the window
        ([make_requests(60, 5000, status=429)], set()),  # a caller's mistakes
        ([make_requests(4, status=500), make_requests(100)], set()),
        ([make_requests(5, status=500), make_requests(100)], {"error_rate"}),
        ([make_requests(60, **{"llmops.queue_time": int(8e8)})], {"queue_time"}),
        ([make_requests(10, **{"llmops.guard.rules": ["secret"]}), make_requests(100)], {"guard_rejections"}),
    ],
)
def test_requests(config: Config, events: Any, rules: set[str]) -> None:
    assert find_raised(config, *events) == rules


CHAT, VECTORS = {"url.path": "/v1/chat/completions"}, {"url.path": "/v1/embeddings"}


def find_subjects(config: Config, *events: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    LocalStore(config.events).send([event for several in events for event in several])
    return sorted((change["rule"], change["subject"]) for change in RuleChecker(config).check(NOW))


def test_slow_chats_raise_an_alert_of_their_own(config: Config) -> None:
    slow, quick = make_requests(200, 30_000, **CHAT), make_requests(200)
    assert find_subjects(config, slow, quick) == [("latency_p95", CHAT["url.path"])]


def test_an_operation_may_promise_another_latency(tmp_path: Path) -> None:
    promised = {CHAT["url.path"]: 40_000}
    config = Config(home=tmp_path, alerts={"disk_free": 0}, monitoring={"latency_p95_ms_of": promised})
    slow = make_requests(60, 30_000, **CHAT), make_requests(60, 30_000, **VECTORS)
    assert find_subjects(config, *slow) == [("latency_p95", VECTORS["url.path"])]


def test_healthy_vectors_hide_no_failed_answers(config: Config) -> None:
    healthy, failed = make_requests(20_000, every_s=0.005, **VECTORS), make_requests(100, status=500, **CHAT)
    rules = ("burn_rate_fast", "burn_rate_slow", "error_rate")
    assert find_subjects(config, healthy, failed) == [(rule, CHAT["url.path"]) for rule in rules]


def test_an_objective_can_be_named_for_each_recorded_route() -> None:
    assert set(get_args(Operation)) == RECORDED_PATHS.keys()


def test_burn_rates_need_both_of_their_windows(tmp_path: Path) -> None:
    good = make_requests(3000, ago=360, every_s=7.2)  # six hours, 500 an hour
    for name, bad, rules in (
        ("few within the hour", make_requests(8, status=500), {"error_rate"}),
        ("one in eleven all the time", make_requests(300, status=500, ago=359, every_s=71.8), {"burn_rate_slow"}),
        ("many now", make_requests(350, status=500, ago=4), {"error_rate", "burn_rate_fast", "burn_rate_slow"}),
    ):
        assert find_raised(Config(home=tmp_path / name, alerts={"disk_free": 0}), good, bad) == rules, name


def test_hours_of_requests_are_counted_by_the_reader_in_whole_minutes(config: Config) -> None:
    read, summed, counted = list[Any](), list[Any](), list[Any]()

    class Watched(LocalStore):
        def select(self, dataset: str, fields: Any, since: str = "", until: str = "~") -> Any:
            read.extend([(since, until)] if dataset == SERVING else [])
            return super().select(dataset, fields, since, until)

        def summarize(self, since: datetime, until: datetime, step: timedelta | None = None) -> Any:
            summed.append((since, until))
            return super().summarize(since, until, step)

        def count_by_path(self, since: datetime, until: datetime) -> Any:
            counted.append((since, until))
            return super().count_by_path(since, until)

    LocalStore(config.events).send(make_requests(300, status=500, ago=20, every_s=3))
    now = NOW + timedelta(seconds=17)
    assert [found["rule"] for found in RuleChecker(config, Watched(config.events)).check(now)] == ["burn_rate_slow"]
    assert read == [(format_timestamp(now - 5 * MINUTE), format_timestamp(now))]
    assert summed == [(NOW - minutes * MINUTE, NOW + MINUTE) for minutes in (5, 30, 360)]
    assert counted == summed[1:], "without failures nothing is counted by operation"


def test_a_queue_has_to_be_long_for_three_looks(config: Config) -> None:
    lengths = iter([90, 90, 3, 90, 90, 90])
    checker = RuleChecker(config, count_waiting=lambda: next(lengths))
    states = [[t["state"] for t in checker.check(NOW + n * MINUTE)] for n in range(6)]
    assert states == [[], [], [], [], [], ["raised"]]


def make_drift_events(windows: Sequence[bool], feature: str = "length") -> list[dict[str, Any]]:
    return [
        build_event(
            DRIFT,
            {
                "@timestamp": format_timestamp(NOW - timedelta(hours=len(windows) - n)),
                "llmops.drift.until": format_timestamp(NOW - timedelta(hours=len(windows) - n)),
                "llmops.drift.feature": feature, "llmops.drift.side": "prompt", "llmops.drift.test": test,
                "llmops.drift.drifted": drifted and test == "ks", "llmops.model.version": "v1",
                "llmops.drift.windows": [*windows[n::-1], False].index(False) if test == "ks" else 0,
            },
        )
        for n, drifted in enumerate(windows) for test in ("ks", "psi")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("windows", "rules"), [([True, True], {"drift"}), ([True], set()), ([True, True, False], set())]
)
def test_drift_takes_two_windows_in_a_row(config: Config, windows: list[bool], rules: set[str]) -> None:
    assert find_raised(config, make_drift_events(windows), make_drift_events([False, True], "words")) == rules


def test_drift_of_long_windows_goes_on_until_the_next_one_is_judged(config: Config) -> None:
    weekly = Config(home=config.home, alerts={"disk_free": 0}, monitoring={"drift_hours": 168})
    assert find_raised(weekly, make_drift_events([True, True])) == {"drift"}
    assert [RuleChecker(weekly).check(NOW + timedelta(days=days)) for days in (3.1, 7)] == [[], []]


@pytest.mark.parametrize(("decayed", "rules"), [((True, True), {"decay"}), ((True, False), set())])
def test_the_last_word_about_a_figure_counts(config: Config, decayed: Sequence[bool], rules: set[str]) -> None:
    numbers = {"slope": -0.02, "slope_low": -0.03, "slope_high": -0.01, "value": 0.4}
    days = [
        build_event(
            DECAY,
            {
                "@timestamp": format_timestamp(NOW - timedelta(days=len(decayed) - n)),
                "llmops.model.version": "v1", "llmops.decay.metric": "token_f1", "llmops.decay.set": "fixed",
                "llmops.decay.decayed": is_so, **{f"llmops.decay.{name}": value for name, value in numbers.items()},
            },
        )
        for n, is_so in enumerate(decayed)
    ]  # fmt: skip
    assert find_raised(config, days) == rules


def test_the_last_word_of_a_stage_counts_and_those_of_airflow_have_their_own_alert(config: Config) -> None:
    def stage(name: str, outcome: str, hours: float, run: str = "") -> dict[str, Any]:
        fields = {"event.action": name, "event.outcome": outcome, "llmops.run": run}
        return build_event(PIPELINE, {"@timestamp": format_timestamp(NOW - timedelta(hours=hours)), **fields})

    events = [
        stage("train", "failure", 3),
        stage("train", "success", 2),
        stage("collect", "failure", 1, "scheduled__1"),
    ]
    assert find_raised(config, events) == set()
    assert find_raised(config, [stage("train", "failure", 1)]) == {"stage_failed"}


def test_a_spool_that_is_not_emptied(config: Config) -> None:
    from llmops.events.spool import Spool

    with Spool(config.events) as spool:
        spool.register(["elasticsearch"])
    emit(config.events, SERVING, {"@timestamp": format_timestamp(NOW - 14 * MINUTE)})
    assert find_raised(config) == set()
    emit(config.events, SERVING, {"@timestamp": format_timestamp(NOW - 90 * MINUTE)})
    assert checks.check_spool(CheckInputs(config, None), NOW + 2 * MINUTE)[0].subject == "elasticsearch"
    few = config.model_copy(update={"alerts": config.alerts.model_copy(update={"spool_events": 1})})
    assert find_raised(few) == {"spool"}


def test_a_dag_is_missed_only_if_it_ever_ran_by_its_schedule(config: Config) -> None:
    for hours, rules in ((0, set()), (1.9, set()), (2.1, {"dag_missing"})):
        if hours:
            lifecycle.record_heartbeat(config, "llm_monitoring", NOW - timedelta(hours=hours))
        assert find_raised(config) == rules


@pytest.mark.parametrize(
    ("days", "left", "found"), [(90, 6.9, True), (90, -0.5, True), (90, 7.5, False), (1, 0.5, False)]
)
def test_a_key_that_expires_soon(config: Config, days: float, left: float, found: bool) -> None:
    store = KeyStore(database_of(config), config.events, FakeClock(NOW - timedelta(days=days - left)))
    store.create("user", "ana", days)
    store.create("user", "ben")
    _, revoked = store.create("user", "cleo", days)
    store.revoke(revoked.prefix)
    assert find_raised(config) == ({"key_expiring"} if found else set())


def test_a_trial_whose_last_verdict_is_an_error_until_it_ends(config: Config) -> None:
    registry = two_versions(config)
    registry.decide("v2", "canary", "error", by="run 1", why="an earlier trial", numbers={"trial": "2025"})
    registry.start_canary("v2", 0.5)
    assert checks.check_trial_error(CheckInputs(config, None), NOW) == []
    trial = rollout.get_running(registry, "canary").started
    registry.decide("v2", "canary", "error", by="run 1", why="counts are lost", numbers={"trial": trial})
    (found,) = checks.check_trial_error(CheckInputs(config, None), NOW)
    assert found.subject == "v2" and "counts are lost" in found.message and "trial_error" in find_raised(config)
    registry.stop_canary()
    assert checks.check_trial_error(CheckInputs(config, None), NOW) == []


def test_a_rule_that_is_off_raises_nothing_and_what_cannot_be_judged_stops_no_other(config: Config) -> None:
    class Broken(LocalStore):
        def select(self, *args: Any, **more: Any) -> Any:
            raise ConnectionError("no server")

    lifecycle.record_heartbeat(config, "llm_monitoring", NOW - timedelta(hours=5))
    assert find_raised(config, reader=Broken(config.events)) == {"dag_missing"}
    off = Config(home=config.home / "other", alerts={"off": ["latency_p95"], "disk_free": 0})
    assert find_raised(off, make_requests(60, 1500)) == set()
    assert find_raised(Config(home=config.home / "full", alerts={"disk_free": 0.9999})) == {"disk"}

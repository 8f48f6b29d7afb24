"""The local store keeps raw events for a while and roll-ups for long; both count an event once, whatever happens."""

import json
import random
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from llmops.config import Monitoring
from llmops.events.datasets import FEEDBACK, GATE, SERVING
from llmops.events.events import build_event, format_timestamp
from llmops.events.figures import histogram
from llmops.events.figures.requests import compute_percentile
from llmops.events.sinks.local import LocalStore
from llmops.frame.errors import EventsUnavailable

HOUR = timedelta(hours=1)
START = datetime(2026, 3, 1, tzinfo=UTC)
LONG = Monitoring(raw_days=100_000, history_days=100_000)


def make_request(when, ms=100.0, status=200, version="v1", **more):
    fields = {
        "@timestamp": format_timestamp(when),
        "http.response.status_code": status,
        "event.duration": int(ms * 1e6),
    }
    answered = {"gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 5} if status == 200 else {}
    return build_event(SERVING, {**fields, "llmops.model.version": version, **answered, **more})


def make_requests(count, seed=1, days=3):
    chance = random.Random(seed)
    return [
        make_request(
            START + timedelta(days=days) * chance.random(),
            chance.lognormvariate(6, 1),
            chance.choices((200, 429, 503), (90, 5, 5))[0],
            chance.choice(("v1", "v2")),
            **{"llmops.time_to_first_token": int(chance.lognormvariate(4, 0.5) * 1e6)},
        )
        for _ in range(count)
    ]


def make_rolled_up_store(folder, config=LONG):
    return LocalStore(folder, config, max_exact=-1)


def summarize_both(folder, since=START, until=START + timedelta(days=3), step=HOUR):
    """The same window by roll-ups and one by one."""
    stores = make_rolled_up_store(folder), LocalStore(folder, LONG, 10**9)
    return [store.summarize(since, until, step) for store in stores]


def assert_alike(some, others):
    """Counts and sums are equal, percentiles within 1 %."""
    for one, other in zip(
        [some.total, *some.versions.values(), *some.series],
        [others.total, *others.versions.values(), *others.series],
        strict=True,
    ):
        for times in ("latency_ms", "first_token_ms", "queue_ms"):
            found, exact = ([value or 0 for value in getattr(each, times).values()] for each in (one, other))
            assert found == pytest.approx(exact, rel=1.0001 * histogram.MAX_RELATIVE_ERROR)
        names = ("requests", "answered", "refused", "failed", "input_tokens", "output_tokens", "seconds", "errors")
        assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]


@pytest.mark.parametrize(
    "draw",
    [
        lambda c: c.lognormvariate(0, 2) * 1e8,
        lambda c: c.choice((4e7, 4.1e7, 9e9)),  # between the modes there is nothing
    ],
)
def test_percentiles_of_histograms_are_within_one_percent_of_exact_ones(draw):
    chance = random.Random(3)
    values = [draw(chance) for _ in range(2000)]
    parts = [histogram.pack_counts(histogram.count_durations(values[n::7])) for n in range(7)]
    whole = histogram.merge_packed(parts)
    assert histogram.pack_counts(whole) == histogram.pack_counts(histogram.merge_packed(parts[::-1]))
    for share in (0.0, 0.01, 0.5, 0.95, 0.99, 1.0):
        exact = compute_percentile(values, share)
        found = histogram.compute_percentile_ns(whole, share)
        assert found == pytest.approx(exact, rel=histogram.MAX_RELATIVE_ERROR * 1.0001, abs=histogram.SMALLEST_NS)
    without_measure = histogram.count_durations([0, 1, 10**15, 10**18])
    assert without_measure.sum() == 4 and histogram.compute_percentile_ns(without_measure, 0.5) == 0.0
    assert histogram.compute_percentile_ns(histogram.merge_packed([]), 0.5) is None


def test_roll_ups_tell_what_events_tell_whoever_brings_them_in_whatever_order_and_how_often(tmp_path):
    events = make_requests(200)
    with ThreadPoolExecutor(4) as pool:
        for n in range(4):
            mine = random.Random(n).sample(events, 200)
            for start in range(0, 200, 25):
                pool.submit(LocalStore(tmp_path, LONG).send, mine[start : start + 25])
    before = summarize_both(tmp_path)
    assert_alike(*before)
    assert before[0].total.requests == 200
    LocalStore(tmp_path, LONG).send([*events[:30], *events[:30], {**events[0], "event.duration": 10**12}])
    assert summarize_both(tmp_path) == before


def test_late_events_are_counted_where_they_belong(tmp_path):
    """A spool that was blocked brings events that are hours and days old, older than anything that is kept, too."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    config, store = Monitoring(raw_days=1, history_days=400), LocalStore(tmp_path, Monitoring(raw_days=1))
    for age in (timedelta(), 5 * HOUR, timedelta(days=6), timedelta(days=60)):
        late = [make_request(now - age - HOUR / 2) for _ in range(3)]
        store.send(late)
        store.send(late)
    found = make_rolled_up_store(tmp_path, config).summarize(now - timedelta(days=90), now, timedelta(days=1))
    assert [n for n, figures in enumerate(found.series) if figures.requests] == [29, 83, 89]
    assert found.total.requests == 12
    minutes = make_rolled_up_store(tmp_path, config).summarize(now - 24 * HOUR, now, timedelta(minutes=30))
    assert [figures.requests for figures in minutes.series if figures.requests] == [3, 3]


KILLED = """
import json, os, signal, sys
from pathlib import Path
from llmops.config import Monitoring
from llmops.events.sinks.local import LocalStore
from llmops.events.store import schema

opened, left = schema.open_store, int(sys.argv[3])

def count(statement):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)

def counted(path):
    db = opened(path)
    db.set_trace_callback(count)
    return db

schema.open_store = counted
events = json.loads(Path(sys.argv[2]).read_text())
for n in range(0, len(events), 20):
    LocalStore(Path(sys.argv[1]), Monitoring(raw_days=100_000, history_days=100_000)).send(events[n : n + 20])
"""


@pytest.mark.parametrize("statements", [3, 100, 451])
def test_kill_9_in_the_middle_of_storing_leaves_roll_ups_as_events_are(tmp_path, statements):
    events, store = make_requests(200), tmp_path / "store"
    (tmp_path / "events.json").write_text(json.dumps(events))
    arguments = [str(store), str(tmp_path / "events.json"), str(statements)]
    assert subprocess.run([sys.executable, "-c", KILLED, *arguments], timeout=50).returncode == -signal.SIGKILL
    assert_alike(*summarize_both(store))
    assert summarize_both(store)[0].total.requests < 200
    LocalStore(store, LONG).send(events)
    assert summarize_both(store)[0].total.requests == 200


def test_events_that_say_nonsense_do_not_stop_the_others(tmp_path):
    nonsense = [
        build_event(SERVING, {"@timestamp": "yesterday"}),
        build_event(
            SERVING,
            {"@timestamp": format_timestamp(START), "http.response.status_code": "ok", "event.duration": "long"},
        ),
        build_event(
            SERVING, {"@timestamp": format_timestamp(START), "event.duration": -5, "gen_ai.usage.input_tokens": 10**30}
        ),
        build_event(
            SERVING, {"@timestamp": format_timestamp(START), "http.request.id": ["a"], "llmops.model.version": {"a": 1}}
        ),
        build_event(FEEDBACK, {"http.request.id": {"a": 1}, "llmops.feedback.rating": ["up"]}),
    ]
    assert LocalStore(tmp_path, LONG).send([*nonsense, make_request(START)]) == []
    assert make_rolled_up_store(tmp_path).summarize(START, START + HOUR).total.requests == 4


def age_events(folder, by=2 * HOUR):
    """As if all had been stored earlier."""
    with closing(sqlite3.connect(folder / "store.db")) as db, db:
        db.execute("UPDATE events SET stored = stored - ?", (by.total_seconds(),))


def test_requests_go_after_their_days_and_their_figures_and_all_else_stay(tmp_path):
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    store = LocalStore(tmp_path, Monitoring(raw_days=30, history_days=400))
    old = [make_request(now - timedelta(days=40), ms=n) for n in range(100)]
    gate = build_event(GATE, {"@timestamp": format_timestamp(now - timedelta(days=40))})
    store.send([*old, make_request(now - timedelta(days=10)), gate])
    assert store.prune() == 0  # a shipper that was cut off may bring them again
    age_events(tmp_path)
    assert store.prune() == 100
    assert len(list(store.find(SERVING))) == 1 and len(list(store.find(GATE))) == 1
    found = store.summarize(now - timedelta(days=90), now, timedelta(days=1))
    assert found.total.requests == 101 and found.total.latency_ms["p50"] == pytest.approx(50, rel=0.021)
    assert store.summarize(now - timedelta(days=20), now).total.requests == 1
    assert store.prune(now + timedelta(days=500)) > 0
    assert store.summarize(now - timedelta(days=90), now).total.requests == 0 == len(list(store.find(GATE)))


def test_a_window_that_is_not_of_whole_hours_is_exact_and_of_whole_ones_where_events_are_gone(tmp_path):
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    store = LocalStore(tmp_path, Monitoring(raw_days=30), max_exact=0)
    for age in (timedelta(days=40), timedelta(days=5)):
        store.send([make_request(now - age + timedelta(minutes=m)) for m in (10, 20, 30)])
    bounds = timedelta(minutes=15), timedelta(minutes=30)
    recent, old = ([now - age + bound for bound in bounds] for age in (timedelta(days=5), timedelta(days=40)))
    assert store.summarize(*recent).total.requests == 1
    age_events(tmp_path)
    store.prune()
    assert store.summarize(*recent).total.requests == 1
    assert store.summarize(old[0], old[1] + HOUR).total.requests == 3


def test_the_file_does_not_grow_without_bound(tmp_path):
    """Above `raw_mb` the oldest requests go, and their room is used again."""
    config = Monitoring(raw_mb=2)
    now = datetime.now(UTC)
    sizes = []
    for round in range(8):
        events = [
            make_request(now - timedelta(minutes=500 - round), **{"llmops.prompt.digest": ["x" * 3000]})
            for _ in range(200)
        ]
        LocalStore(tmp_path, config).send(events)
        age_events(tmp_path)
        sizes.append(sum(file.stat().st_size for file in tmp_path.glob("store.db")))
    assert max(sizes[3:]) <= 1.05 * sizes[2] < 6_000_000
    until = now.replace(minute=0, second=0, microsecond=0) + HOUR
    assert make_rolled_up_store(tmp_path, config).summarize(until - timedelta(days=1), until).total.requests == 1600


def test_ratings_join_requests_in_whatever_order_both_come_and_outlive_them(tmp_path):
    now = datetime.now(UTC)
    store = LocalStore(tmp_path, Monitoring(raw_days=1, history_days=400))

    def rating(id, word, minute, key="a"):
        fields = {"@timestamp": format_timestamp(now + timedelta(minutes=minute)), "http.request.id": id}
        return build_event(FEEDBACK, {**fields, "llmops.key.prefix": key, "llmops.feedback.rating": word})

    store.send([rating("early", "up", 5), rating("early", "down", 3)])  # what was said last came first
    store.send([make_request(now - timedelta(days=3), **{"http.request.id": name}) for name in ("early", "late")])
    store.send([rating("late", "down", 1), rating("late", "up", 2, key="b"), rating("unknown", "up", 1)])
    window = now - timedelta(days=4), now - timedelta(days=2)
    assert store.count_ratings(*window) == {"v1": {"up": 2, "down": 1}}
    age_events(tmp_path)
    assert store.prune() == 2
    assert store.count_ratings(*window) == {"v1": {"up": 2, "down": 1}}
    assert store.count_ratings(now - timedelta(days=2), now + timedelta(days=2)) == {}


def test_a_store_of_another_release_is_refused(tmp_path):
    LocalStore(tmp_path).send([])
    with closing(sqlite3.connect(tmp_path / "store.db")) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(EventsUnavailable, match="version 99"):
        LocalStore(tmp_path).summarize(START, START + HOUR)

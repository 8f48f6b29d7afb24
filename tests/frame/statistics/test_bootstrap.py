"""Intervals: they cover as often as they say, are paired, reproducible, and count topics rather than wordings."""

import numpy as np

from llmops.frame.statistics.bootstrap import compute_interval, make_mean, resample, summarize


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    hits = 0
    for seed in range(200):
        found = compute_interval(list(random.normal(0.3, 0.2, 60)), 400, 0.95, seed)
        hits += found["low"] <= 0.3 <= found["high"]
    assert 180 <= hits <= 199


def test_wordings_of_one_topic_are_no_more_evidence_than_the_topic() -> None:
    values = [float(n % 2) for n in range(10) for _ in range(8)]
    topics = [str(n) for n in range(10) for _ in range(8)]
    by_topic, by_item = compute_interval(values, 2000, 0.95, 0, topics), compute_interval(values, 2000, 0.95, 0)
    assert by_topic["mean"] == by_item["mean"] == 0.5
    assert by_topic["high"] - by_topic["low"] > 2 * (by_item["high"] - by_item["low"])
    single = compute_interval([0.0, 1.0] * 10, 500, 0.95, 0, ["one"] * 20)  # which still has an interval
    assert single["low"] < 0.5 < single["high"]


def test_differences_are_paired() -> None:
    noise = np.random.default_rng(0).uniform(0, 1, 40)
    drawn = resample(
        {"a": make_mean(list(noise)), "b": make_mean(list(noise - 0.01))}, [str(i) for i in range(40)], 500, 0
    )
    found = summarize(drawn["a"] - drawn["b"], 0.95)
    assert found == {"mean": 0.01, "low": 0.01, "high": 0.01}


def test_items_without_a_value_do_not_count_and_rows_select() -> None:
    drawn = resample({"x": make_mean([None, 0.2, 0.4])}, ["a", "b", "c"], 200, 0)["x"]
    assert summarize(drawn, 0.95)["mean"] == 0.3
    assert (
        summarize(resample({"x": make_mean([9.0, 0.2, 0.4])}, ["a", "b", "c"], 200, 0, [1, 2])["x"], 0.95)["mean"]
        == 0.3
    )
    assert np.isnan(resample({"x": make_mean([None, None])}, ["a", "b"], 100, 0)["x"][0])


def test_many_topics_are_drawn_in_chunks() -> None:
    values = list(np.random.default_rng(0).uniform(0, 1, 3000))
    found = compute_interval(values, 1200, 0.95, 0)  # three chunks
    assert (
        found == compute_interval(values, 1200, 0.95, 0)
        and found["low"] < 0.5 < found["high"]
        and found["high"] - found["low"] < 0.03
    )

"""Comparisons of two sets of requests, and what becomes of them together."""

import math

import numpy as np
import pytest

from llmops.monitoring.drift import clusters
from llmops.monitoring.drift.feature_comparison import compare_categories, compare_numbers, find_changed_shares
from llmops.monitoring.drift.lexicon import TrainingRow, build_lexicon
from llmops.monitoring.drift.sample import build_example_sample, build_prompt_sample
from llmops.monitoring.drift.sample_comparison import FALSE_DISCOVERY_RATE, Comparison, add_q_values, compare_samples

from .sentences import WORDS, make_prompts


@pytest.fixture(scope="module")
def lexicon():
    texts = [(topic, text) for topic in WORDS for text in make_prompts({topic: 40}, 9)]
    return build_lexicon(TrainingRow(text, "", "", topic, "source") for topic, text in texts)


def test_equal_numbers_do_not_differ_and_others_do():
    rng = np.random.default_rng(0)
    before, same, larger = rng.normal(size=2000), rng.normal(size=500), rng.normal(0.5, size=500)
    assert compare_numbers(before.tolist(), same.tolist()).p_value > 0.01
    found = compare_numbers(before.tolist(), larger.tolist())
    assert found.p_value < 1e-6 and 0.1 < found.effect < 0.5
    assert sum(found.shares["window"]) == pytest.approx(1, abs=0.01)
    assert len(found.shares["bins"]) == len(found.shares["reference"]) == len(found.shares["window"])


def test_the_index_is_the_same_for_few_requests():
    rng = np.random.default_rng(1)
    before = rng.normal(size=5000).tolist()
    few = [compare_numbers(before, rng.normal(size=60).tolist()).effect for _ in range(20)]
    assert np.mean(few) < 0.1  # with what chance makes of 60 in 10 bins it would be above 0.15


def test_constant_and_missing_and_infinite_numbers():
    assert compare_numbers([1.0] * 9, [1.0] * 9) is None
    assert compare_numbers([], [1.0]) is None and compare_numbers([1.0], [None, math.nan, math.inf]) is None
    for other in (0.0, 2.0):  # constant until now, and now on either side
        found = compare_numbers([1.0] * 100, [1.0] * 50 + [other] * 50)
        assert found.p_value < 1e-6 and found.effect > 0.5
    assert compare_numbers([1.0] * 9 + [None], [2.0]).p_value > 0.05  # one request says nothing


def test_new_and_vanished_categories():
    found = compare_categories(["en"] * 300, ["en"] * 90 + ["de"] * 10)
    assert found.p_value < 0.01 and found.shares["bins"] == ["en", "de"] and math.isfinite(found.effect)
    assert compare_categories(["en"] * 9, ["en"] * 3) is None and compare_categories([], ["en"]) is None
    assert compare_categories(["en", None], ["de"]).p_value > 0.05
    rare = [f"topic {n}" for n in range(200)]
    assert compare_categories(rare, rare[::-1]).p_value > 0.05  # one of each: no chi-square table would hold
    moved = find_changed_shares(["a"] * 80 + ["b"] * 20, ["a"] * 50 + ["c"] * 50, FALSE_DISCOVERY_RATE)
    assert [name for name, *_ in moved] == ["c", "a", "b"]


def test_clusters_are_right_about_chance_and_see_a_difference():
    rng = np.random.default_rng(3)
    chances = [
        clusters.compare_clusters(rng.normal(size=(300, 8)), rng.normal(size=(200, 8)), seed).p_value
        for seed in range(20)
    ]
    assert np.mean(np.array(chances) <= 0.05) <= 0.15 and max(chances) > 0.5
    before, now = make_prompts({"card": 120}), make_prompts({"card": 60, "cash": 40}, 1)
    result = clusters.compare_clusters(*clusters.embed_words(before, now))
    assert result.p_value <= 0.01 and result.effect > 0.1
    assert sum(row >= 60 for row in result.unlike[:20]) >= 18  # the new topic's are named
    for texts in (["the same"] * 50, ["the same"] * 30), ([""] * 50, [""] * 20), (["a"] * 20, ["b"] * 20):
        assert clusters.compare_clusters(*clusters.embed_words(*texts)) is None  # all equal, or too few


def test_vectors_find_a_few_requests_about_a_new_topic_that_has_no_words_of_its_own():
    """One topic is a direction here, which the texts do not show: only the model knows it."""
    rng = np.random.default_rng(4)
    directions = np.linalg.qr(rng.normal(size=(40, 40)))[0]

    def sample(topics):
        return build_prompt_sample([f"number {n}" for n in topics], None, True)

    def embed(texts):
        topics = [int(text.split()[1]) for text in texts]
        return directions[topics] + rng.normal(scale=0.1, size=(len(texts), 40))

    before, same = rng.integers(0, 10, 600).tolist(), rng.integers(0, 10, 400).tolist()
    assert not [one for one in compare_samples(sample(before), sample(same), embed=embed) if one.drifted]
    other = [*same[:370], *[35] * 30]
    [whole] = [one for one in compare_samples(sample(before), sample(other), embed=embed) if one.drifted]
    assert (whole.feature, whole.test) == ("texts", "clusters") and {int(id) >= 370 for id in whole.unlike} == {True}


@pytest.mark.parametrize("keep", [True, False])
def test_a_topic_that_vanishes_and_one_that_comes_are_named(lexicon, keep):
    before = build_prompt_sample(make_prompts({"card": 300, "cash": 150}), lexicon, keep)
    same = build_prompt_sample(make_prompts({"card": 134, "cash": 66}, 1), lexicon, keep)
    other = build_prompt_sample(make_prompts({"card": 134, "login": 66}, 2), lexicon, keep)
    assert not [one for one in compare_samples(before, same) if one.drifted]
    several = compare_samples(before, other)
    found = {one.feature: one for one in several}
    assert found["topics"].drifted and set(found["topics"].topics) == {"login", "cash"}
    whole = found["texts" if keep else "features"]
    assert whole.drifted and whole.effect > 0.1 and {int(id) >= 134 for id in whole.unlike[:10]} == {True}
    assert keep or compare_samples(before, other) == several


def test_nothing_to_compare_is_no_comparison(lexicon):
    empty, one = build_prompt_sample([], lexicon, True), build_prompt_sample(["hello"], lexicon, True)
    assert compare_samples(empty, empty) == compare_samples(empty, one) == compare_samples(one, empty) == []
    few = compare_samples(build_prompt_sample(make_prompts({"card": 50}), lexicon, True), one)
    assert "texts" not in {found.feature for found in few} and all(math.isfinite(found.effect) for found in few)


def test_false_alarms_are_bounded_over_all_comparisons():
    chances = [0.001, 0.03, 0.04, 0.9, 0.05]  # all but one would be at most 0.05 each
    found = add_q_values([Comparison("prompt", str(n), "ks", 0.0, 1.0, chance) for n, chance in enumerate(chances)])
    assert [one.drifted for one in found] == [True, False, False, False, False]
    assert found[0].q_value == pytest.approx(0.005)
    sure_and_small = add_q_values([Comparison("prompt", "words", "ks", 0.0, 0.001, 1e-9)])
    assert not sure_and_small[0].drifted and add_q_values([]) == []


def test_training_examples_are_told_by_the_words_of_the_others():
    rows = [TrainingRow(text, "yes it is", "", "card", "faq") for text in make_prompts({"card": 40})]
    unusual = TrainingRow("zyzzyva quokka", "I'm sorry, I can't", "", "card", "faq")
    made = build_example_sample([*rows, unusual])
    columns = {feature.field: values for feature, values in made.columns.items()}
    assert columns["llmops.prompt.unknown_share"][-1] == 1.0 and max(columns["llmops.prompt.unknown_share"][:-1]) == 0.0
    assert columns["llmops.answer.refusal"] == ["false"] * 40 + ["true"]
    assert len(build_example_sample([])) == 0 and len(build_example_sample([unusual])) == 1

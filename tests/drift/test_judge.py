"""Comparisons of two sets of requests, and what becomes of them together."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from llmops.drift import classifier, comparisons
from llmops.drift.judge import LEVEL, Comparison, compare, judged
from llmops.drift.lexicon import Trained, lexicon_of
from llmops.drift.sample import FEATURES, MOST, Feature, Sample, of_examples, of_prompts, read, write

WORDS = {
    "card": "card arrived lost stolen bank plastic pin replace mail wait",
    "cash": "cash machine withdraw money limit notes fee abroad swallowed amount",
    "login": "login password reset phone app verify code email account locked",
}


def prompts(counts, seed=0):
    rng = np.random.default_rng(seed)
    texts = []
    for topic, count in counts.items():
        texts += [f"how do I {' '.join(rng.choice(WORDS[topic].split(), 4))} please today" for _ in range(count)]
    return texts


@pytest.fixture(scope="module")
def lexicon():
    texts = [(topic, text) for topic in WORDS for text in prompts({topic: 40}, 9)]
    return lexicon_of(Trained(text, "", "", topic, "source") for topic, text in texts)


def test_equal_numbers_do_not_differ_and_others_do():
    rng = np.random.default_rng(0)
    before, same, larger = rng.normal(size=2000), rng.normal(size=500), rng.normal(0.5, size=500)
    assert comparisons.numbers(before.tolist(), same.tolist()).p_value > 0.01
    found = comparisons.numbers(before.tolist(), larger.tolist())
    assert found.p_value < 1e-6 and 0.1 < found.effect < 0.5
    assert sum(found.shares["window"]) == pytest.approx(1, abs=0.01)
    assert len(found.shares["bins"]) == len(found.shares["reference"]) == len(found.shares["window"])


def test_the_index_is_the_same_for_few_requests():
    rng = np.random.default_rng(1)
    before = rng.normal(size=5000).tolist()
    few = [comparisons.numbers(before, rng.normal(size=60).tolist()).effect for _ in range(40)]
    assert np.mean(few) < 0.1  # with what chance makes of 60 in 10 bins it would be above 0.15


def test_constant_and_missing_and_infinite_numbers():
    assert comparisons.numbers([1.0] * 9, [1.0] * 9) is None
    assert comparisons.numbers([], [1.0]) is None and comparisons.numbers([1.0], [None, math.nan, math.inf]) is None
    for other in (0.0, 2.0):  # constant until now, and now on either side
        found = comparisons.numbers([1.0] * 100, [1.0] * 50 + [other] * 50)
        assert found.p_value < 1e-6 and found.effect > 0.5
    assert comparisons.numbers([1.0] * 9 + [None], [2.0]).p_value > 0.05  # one request says nothing


def test_less_of_a_few_is_seen_and_more_is_not_less():
    rng = np.random.default_rng(4)
    before, same = rng.normal(size=3000), rng.normal(size=2000)
    few = np.concatenate([same[:1800], rng.normal(-1.2, size=200)])
    assert comparisons.less(before.tolist(), same.tolist()).p_value > 0.02
    found = comparisons.less(before.tolist(), few.tolist())
    assert found.p_value < 0.005 < comparisons.numbers(before.tolist(), few.tolist()).p_value
    assert 0.52 < found.effect < 0.56 and len(found.shares["bins"]) == 10
    assert comparisons.less(few.tolist(), before.tolist()).p_value > 0.99
    assert comparisons.less([1.0] * 9, [1.0, None]) is None and comparisons.less([], [1.0]) is None
    [high] = judged([Comparison("prompt", "fit", "mann_whitney", 1.0, 0.515, 1e-9)])
    assert not high.drifted  # sure, and too small to matter: it is an AUC, not an index


def test_new_and_vanished_categories():
    found = comparisons.categories(["en"] * 300, ["en"] * 90 + ["de"] * 10)
    assert found.p_value < 0.01 and found.shares["bins"] == ["en", "de"] and math.isfinite(found.effect)
    assert comparisons.categories(["en"] * 9, ["en"] * 3) is None and comparisons.categories([], ["en"]) is None
    assert comparisons.categories(["en", None], ["de"]).p_value > 0.05
    rare = [f"topic {n}" for n in range(200)]
    assert comparisons.categories(rare, rare[::-1]).p_value > 0.05  # one of each: no chi-square table would hold
    moved = comparisons.moved(["a"] * 80 + ["b"] * 20, ["a"] * 50 + ["c"] * 50, LEVEL)
    assert [name for name, *_ in moved] == ["c", "a", "b"]


def test_the_classifier_is_right_about_chance_and_sees_a_difference():
    rng = np.random.default_rng(3)
    chances = [
        classifier.tell_apart(rng.normal(size=(60, 8)) / 3, rng.normal(size=(40, 8)) / 3, seed).p_value
        for seed in range(40)
    ]
    assert np.mean(np.array(chances) <= 0.05) <= 0.15 and min(chances) >= 1 / (1 + classifier.PERMUTATIONS)
    before, now = prompts({"card": 120}), prompts({"card": 60, "cash": 40}, 1)
    told = classifier.tell_apart(*classifier.of_texts(before, now))
    assert told.p_value <= 0.01 and told.auc > 0.6
    assert sum(row >= 60 for row in told.unlike[:20]) >= 18  # the new topic's are named
    assert told == classifier.tell_apart(*classifier.of_texts(before, now))


def test_equal_texts_are_not_told_apart():
    rows = classifier.of_texts(["the same"] * 50, ["the same"] * 30)
    assert classifier.tell_apart(*rows).p_value == 1.0
    assert classifier.tell_apart(*classifier.of_texts([""] * 50, ["", "?"] * 20)).p_value > 0.0


def test_a_topic_of_known_words_that_was_never_there_fits_worse(lexicon):
    before = of_prompts(prompts({"card": 300, "cash": 300, "login": 300}), lexicon, keep=False)
    rng = np.random.default_rng(5)
    mixed = [rng.choice([word for topic in WORDS.values() for word in topic.split()], 4) for _ in range(60)]
    other = [f"how do I {' '.join(words)} please today" for words in mixed]
    usual = prompts({"card": 180, "cash": 180, "login": 180}, 6)
    [same] = [one for one in compare(before, of_prompts(usual, lexicon, keep=False)) if one.feature == "fit"]
    found = {one.feature: one for one in compare(before, of_prompts(usual + other, lexicon, keep=False))}
    assert not same.drifted and found["fit"].drifted and "unknown_share" not in found  # there is no unknown word


@pytest.mark.parametrize("keep", [True, False])
def test_a_topic_that_vanishes_and_one_that_comes_are_named(lexicon, keep):
    before = of_prompts(prompts({"card": 300, "cash": 150}), lexicon, keep)
    same = of_prompts(prompts({"card": 134, "cash": 66}, 1), lexicon, keep)
    other = of_prompts(prompts({"card": 134, "login": 66}, 2), lexicon, keep)
    assert not [one for one in compare(before, same) if one.drifted]
    found = {one.feature: one for one in compare(before, other)}
    assert found["topics"].drifted and set(found["topics"].topics) == {"login", "cash"}
    whole = found["texts" if keep else "features"]
    assert whole.drifted and whole.effect > 0.6 and {int(id) >= 134 for id in whole.unlike[:10]} == {True}
    assert compare(before, other) == compare(before, other)


def test_nothing_to_compare_is_no_comparison(lexicon):
    empty, one = of_prompts([], lexicon, True), of_prompts(["hello"], lexicon, True)
    assert compare(empty, empty) == compare(empty, one) == compare(one, empty) == []
    told = compare(of_prompts(prompts({"card": 50}), lexicon, True), one)
    assert "texts" not in {found.feature for found in told} and all(math.isfinite(found.effect) for found in told)


def test_what_only_one_side_knows_tells_nothing(lexicon):
    asked = prompts({"card": 50, "cash": 50})
    told = {one.feature: one for one in compare(of_prompts(asked, None, False), of_prompts(asked, lexicon, False))}
    assert not told.keys() & {"fit", "topics", "unknown_share"} and told["features"].effect < 0.55
    nothing = Sample({feature: [None] * 9 for feature in FEATURES}, [""] * 9, [""] * 9)
    assert [one.effect for one in compare(nothing, nothing)] == [0.5]


def test_false_alarms_are_bounded_over_all_comparisons():
    chances = [0.001, 0.03, 0.04, 0.9, 0.05]  # all but one would be at most 0.05 each
    found = judged([Comparison("prompt", str(n), "ks", 0.0, 1.0, chance) for n, chance in enumerate(chances)])
    assert [one.drifted for one in found] == [True, False, False, False, False]
    assert found[0].q_value == pytest.approx(0.005)
    sure_and_small = judged([Comparison("prompt", "words", "ks", 0.0, 0.001, 1e-9)])
    assert not sure_and_small[0].drifted and judged([]) == []


def test_training_examples_are_told_by_the_words_of_the_others():
    rows = [Trained(text, "yes it is", "", "card", "faq") for text in prompts({"card": 40})]
    unusual = Trained("zyzzyva quokka", "I'm sorry, I can't", "", "card", "faq")
    made = of_examples([*rows, unusual])
    columns = {feature.field: values for feature, values in made.columns.items()}
    assert columns["llmops.prompt.unknown_share"][-1] == 1.0 and max(columns["llmops.prompt.unknown_share"][:-1]) == 0.0
    assert columns["llmops.answer.refusal"] == ["false"] * 40 + ["true"]
    assert len(of_examples([])) == 0 and len(of_examples([unusual])) == 1


def test_of_many_requests_so_many_are_drawn():
    many = Sample({feature: [None] * (MOST + 5) for feature in FEATURES}, [""] * (MOST + 5), [""] * (MOST + 5))
    assert len(many.drawn(0)) == MOST and many.drawn(0) == many.drawn(0)


def test_a_reference_of_which_a_part_is_older_than_a_feature_differs_by_nothing() -> None:
    """An earlier release did not tell of `fit`: requests without it are no others for that."""
    rng = np.random.default_rng(4)

    def drawn(count: int, known: float) -> Sample:
        columns: dict[Feature, list[Any]] = {
            feature: rng.normal(size=count).tolist() if feature.kind != "category" else ["en"] * count
            for feature in FEATURES
        }
        fit = next(feature for feature in FEATURES if feature.name == "fit" and feature.side == "prompt")
        columns[fit] = [value if n < known * count else None for n, value in enumerate(columns[fit])]
        return Sample(columns, [""] * count, [""] * count)

    for known in (0.05, 0.33, 0.9):
        found = compare(drawn(800, known), drawn(800, 1.0))
        assert not [one.feature for one in found if one.drifted]


def test_a_reference_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    sample = Sample({feature: [None, None] for feature in FEATURES}, ["", ""], ["", ""])
    write(tmp_path / "all.parquet", sample)
    table = pq.read_table(tmp_path / "all.parquet")
    pq.write_table(table.drop_columns([name for name in table.column_names if name.endswith(".fit")]), tmp_path / "old")
    assert read(tmp_path / "old") == sample

"""The threshold below which a classifier gives no label, and the curve from which another one can be chosen."""

from collections.abc import Sequence

import numpy as np
import pytest

from llmops.config import Compress
from llmops.model.base.classifier import Calibration
from llmops.model.compress.threshold import Confidence, choose_threshold, find_precise_threshold, make_curve


def make_confidence(labelled: Sequence[float], **parts: Sequence[float]) -> Confidence:
    """Return confidences; all labels are right and no text is out of scope, unless `parts` says so."""
    values = {"right": [1.0] * len(labelled), "examples": [], "held_out": [], **parts}
    return Confidence(np.array(labelled), **{name: np.array(value, float) for name, value in values.items()})


@pytest.mark.parametrize("precision", [0.5, 0.6, 0.75, 0.95, 1.0])
def test_labels_from_the_threshold_on_have_the_precision(precision: float) -> None:
    """Many texts have the same confidence, and some differ in the seventh digit only."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        levels = rng.choice([0.3, 0.5, 0.5000001, 0.5000002, 0.9, 0.9999999], 40).astype(np.float32)
        right = rng.random(40) < levels
        calibration = Calibration(threshold=find_precise_threshold(levels, right.astype(float), precision))
        given = [bool(is_right) for value, is_right in zip(levels, right, strict=True) if calibration.is_sure(value)]
        assert not given or np.mean(given) >= precision


def test_ties_and_rounding_do_not_lower_the_precision() -> None:
    tied = np.full(10, 0.9, np.float32), np.array([1.0, 0.0] * 5)
    assert find_precise_threshold(*tied, 0.95) == 1.0
    close = np.array([0.5000002, *[0.5000001] * 4], np.float32), np.array([1.0, 0.0, 0.0, 0.0, 0.0])
    found = find_precise_threshold(*close, 0.95)
    assert [bool(value >= found) for value in close[0]] == [True, False, False, False, False]
    certain = Calibration(threshold=find_precise_threshold(np.ones(4, np.float32), np.array([1.0, 0, 1, 0]), 0.95))
    assert not certain.is_sure(1.0)


def test_a_label_is_given_from_the_lowest_confidence_at_which_enough_are_right() -> None:
    confidence, right = np.array([0.6, 0.9, 0.7, 0.95, 0.8]), np.array([0.0, 1.0, 0.0, 1.0, 1.0])
    found = [find_precise_threshold(confidence, right, share) for share in (1.0, 0.75, 0.6, 0.0)]
    assert found == [0.8, 0.7, 0.0, 0.0]
    assert find_precise_threshold(np.array([0.9, 0.8]), np.array([0.0, 1.0]), 0.95) == 1.0


@pytest.mark.parametrize("size", [7, 50, 149, 1000])
@pytest.mark.parametrize("limit", [None, 0.01, 0.29, 0.5])
def test_at_most_so_many_validation_texts_are_refused(limit: float | None, size: int) -> None:
    """All labels are right, yet the threshold is above 0; one step higher it would refuse too many."""
    confidence = make_confidence(np.round(np.random.default_rng(0).uniform(0.2, 1, size), 2).tolist())
    threshold = choose_threshold(confidence, Compress(max_refused=limit))
    share = 0.02 if limit is None else limit
    assert threshold > 0 and np.mean(confidence.labelled < threshold) <= share
    assert np.mean(confidence.labelled <= threshold) > share


def test_labels_that_are_all_certain_are_given() -> None:
    """A small validation can have the probability 1 throughout, in float32."""
    certain = np.ones(9, np.float32)
    threshold = choose_threshold(make_confidence(certain.tolist(), right=[1.0] * 8 + [0.0]), Compress())
    assert Calibration(threshold=threshold).is_sure(certain[0])
    assert not Calibration(threshold=threshold).is_sure(0.9999)


def test_with_no_refusals_every_text_gets_a_label() -> None:
    assert choose_threshold(make_confidence([0.3, 0.9]), Compress(max_refused=0)) == 0.0


def test_out_of_scope_texts_choose_where_both_kinds_are_told_apart() -> None:
    labelled, outside = [0.2, 0.5, *np.linspace(0.7, 1, 98)], [0.1, 0.3, 0.4, 0.6, 0.95]
    for copies in (1, 20):  # the number of out-of-scope texts does not matter
        confidence = make_confidence(labelled, examples=outside * copies)
        assert choose_threshold(confidence, Compress()) == 0.7
        assert choose_threshold(confidence, Compress(max_refused=0.01)) == 0.5
        assert choose_threshold(confidence, Compress(max_refused=0)) == 0.0


def test_precision_raises_the_threshold_and_never_lowers_it() -> None:
    confidence = make_confidence(np.linspace(0.01, 1, 100).tolist(), right=[0.0] * 40 + [1.0] * 60)
    assert choose_threshold(confidence, Compress()) == pytest.approx(0.03)
    assert choose_threshold(confidence, Compress(precision=1 - 1e-9)) == pytest.approx(0.41)
    assert choose_threshold(confidence, Compress(precision=0.99, max_refused=0.6)) == pytest.approx(0.61)


@pytest.mark.parametrize("limit", [None, 0.05, 0.3])
def test_the_precision_holds_where_the_surest_labels_are_wrong(limit: float | None) -> None:
    """A higher threshold may be less precise, also the one that refusals ask for."""
    right = [*[1.0] * 190, *[0.0] * 10]
    confidence = make_confidence(np.linspace(0.01, 1, 200).tolist(), right=right)
    calibration = Calibration(threshold=choose_threshold(confidence, Compress(precision=0.95, max_refused=limit)))
    given = [is_right for value, is_right in zip(confidence.labelled, right, strict=True) if calibration.is_sure(value)]
    assert not given or np.mean(given) >= 0.95


def test_the_curve_measures_on_texts_that_did_not_choose() -> None:
    labelled = np.linspace(0.01, 1, 100).tolist()
    confidence = make_confidence(labelled, right=[0.0] * 10 + [1.0] * 90, examples=[0.0], held_out=[0.005, 0.5])
    curve = make_curve(confidence, threshold=0.105)
    assert [point["threshold"] for point in curve] == sorted({point["threshold"] for point in curve})
    chosen = next(point for point in curve if point["threshold"] == 0.105)
    assert chosen == {"threshold": 0.105, "refused": 0.1, "accuracy": 1.0, "out_of_scope_refused": 0.5}
    assert curve[0] == {"threshold": 0.0, "refused": 0.0, "accuracy": 0.9, "out_of_scope_refused": 0.0}
    nothing = make_curve(make_confidence([0.5, 0.6]), threshold=1.0)[-1]
    assert nothing == {"threshold": 1.0, "refused": 1.0}

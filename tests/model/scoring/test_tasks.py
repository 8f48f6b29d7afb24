"""What each task measures: labels read from generated text, and agreement with scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, hamming_loss
from sklearn.preprocessing import MultiLabelBinarizer

from llmops.frame.statistics.intervals import mean, resample
from llmops.model.scoring.metrics import names, only_label
from llmops.model.scoring.tasks import TASKS

KNOWN = ["billing", "delivery", "late delivery"]


def observed(measure: object, items: int) -> float:
    return float(resample({"x": measure}, [str(i) for i in range(items)], 100, 0)["x"][0])  # type: ignore[dict-item]


def test_a_label_is_read_only_where_there_is_one() -> None:
    assert only_label("The label is: Billing!", KNOWN) == "billing"
    assert only_label("It is about a late delivery.", KNOWN) == "late delivery"
    assert [only_label(text, KNOWN) for text in ("billing or delivery", "rebilling", "something else")] == [""] * 3
    assert names("Billing, late delivery; BILLING\n") == ["billing", "late delivery"]


def test_classification_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    truth = [KNOWN[n] for n in random.integers(0, 3, 60)]
    said = [t if random.random() < 0.6 else KNOWN[random.integers(0, 3)] for t in truth]
    columns, whole = TASKS["classification"].score(said, truth, 1)
    assert np.mean(columns["accuracy"]) == pytest.approx(accuracy_score(truth, said))  # type: ignore[arg-type]
    assert observed(whole["macro_f1"], 60) == pytest.approx(f1_score(truth, said, average="macro"))

    columns, whole = TASKS["classification"].score(["billing", "I do not know"], ["billing", "billing"], 1)
    assert columns["accuracy"] == [1.0, 0.0]
    assert observed(whole["macro_f1"], 2) == pytest.approx(2 / 3)


def test_multilabel_is_scikit_learns() -> None:
    random = np.random.default_rng(1)
    truth = [[k for k in KNOWN if random.random() < 0.5] or ["billing"] for _ in range(50)]
    said = [[k for k in KNOWN if random.random() < 0.5] for _ in range(50)]
    columns, whole = TASKS["multilabel"].score([", ".join(s) for s in said], [", ".join(t) for t in truth], 2)
    binarizer = MultiLabelBinarizer(classes=KNOWN)
    a, b = binarizer.fit_transform(truth), binarizer.transform(said)
    assert observed(mean(columns["hamming_loss"]), 50) == pytest.approx(hamming_loss(a, b))
    assert observed(mean(columns["exact_match"]), 50) == pytest.approx(accuracy_score(a, b))
    assert observed(mean(columns["label_f1"]), 50) == pytest.approx(f1_score(a, b, average="samples", zero_division=0))
    assert observed(whole["macro_f1"], 50) == pytest.approx(f1_score(a, b, average="macro"))

    columns, _ = TASKS["multilabel"].score(["billing", "delivery, billing", ""], ["billing"] * 3, 2)
    assert columns["precision_at_2"] == [0.5, 0.5, 0.0]

"""What each task measures: labels read from generated text, and agreement with scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, hamming_loss
from sklearn.preprocessing import MultiLabelBinarizer

from llmops.frame.statistics.bootstrap import make_mean, resample
from llmops.model.scoring.metrics import find_only_label, split_labels
from llmops.model.scoring.tasks import TASKS

LABELS = ["billing", "delivery", "late delivery"]


def compute_value(measure: object, items: int) -> float:
    return float(resample({"x": measure}, [str(i) for i in range(items)], 100, 0)["x"][0])  # type: ignore[dict-item]


def test_a_label_is_read_only_where_there_is_one() -> None:
    assert find_only_label("The label is: Billing!", LABELS) == "billing"
    assert find_only_label("It is about a late delivery.", LABELS) == "late delivery"
    assert [find_only_label(text, LABELS) for text in ("billing or delivery", "rebilling", "something else")] == [
        ""
    ] * 3
    assert split_labels("Billing, late delivery; BILLING\n") == ["billing", "late delivery"]


def test_classification_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    truth = [LABELS[n] for n in random.integers(0, 3, 60)]
    said = [t if random.random() < 0.6 else LABELS[random.integers(0, 3)] for t in truth]
    columns, whole = TASKS["classification"].score(said, truth, 1)
    assert np.mean(columns["accuracy"]) == pytest.approx(accuracy_score(truth, said))  # type: ignore[arg-type]
    assert compute_value(whole["macro_f1"], 60) == pytest.approx(f1_score(truth, said, average="macro"))

    columns, whole = TASKS["classification"].score(["billing", "I do not know"], ["billing", "billing"], 1)
    assert columns["accuracy"] == [1.0, 0.0]
    assert compute_value(whole["macro_f1"], 2) == pytest.approx(2 / 3)


def test_multilabel_is_scikit_learns() -> None:
    random = np.random.default_rng(1)
    truth = [[k for k in LABELS if random.random() < 0.5] or ["billing"] for _ in range(50)]
    said = [[k for k in LABELS if random.random() < 0.5] for _ in range(50)]
    columns, whole = TASKS["multilabel"].score([", ".join(s) for s in said], [", ".join(t) for t in truth], 2)
    binarizer = MultiLabelBinarizer(classes=LABELS)
    a, b = binarizer.fit_transform(truth), binarizer.transform(said)
    assert compute_value(make_mean(columns["hamming_loss"]), 50) == pytest.approx(hamming_loss(a, b))
    assert compute_value(make_mean(columns["exact_match"]), 50) == pytest.approx(accuracy_score(a, b))
    assert compute_value(make_mean(columns["label_f1"]), 50) == pytest.approx(
        f1_score(a, b, average="samples", zero_division=0)
    )
    assert compute_value(whole["macro_f1"], 50) == pytest.approx(f1_score(a, b, average="macro"))

    columns, _ = TASKS["multilabel"].score(["billing", "delivery, billing", ""], ["billing"] * 3, 2)
    assert columns["precision_at_2"] == [0.5, 0.5, 0.0]

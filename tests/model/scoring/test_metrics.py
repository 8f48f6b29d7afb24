"""Metrics of one answer: known values, edge cases, and agreement with the libraries."""

import pytest
from sacrebleu import corpus_bleu as reference_bleu

from llmops.model.scoring.metrics import (
    compute_bleu,
    compute_corpus_bleu,
    compute_exact_match,
    compute_reading_ease,
    compute_rouge,
    compute_token_f1,
)


def test_known_values() -> None:
    assert (compute_token_f1("The cat sat.", "a cat sat"), compute_exact_match("The cat sat.", "a cat sat")) == (
        1.0,
        1.0,
    )
    assert (compute_token_f1("sat cat", "cat sat"), compute_exact_match("sat cat", "cat sat")) == (1.0, 0.0)
    assert (compute_token_f1("", ""), compute_token_f1("", "x")) == (1.0, 0.0) and compute_token_f1(
        "no no no", "no"
    ) == pytest.approx(0.5)


def test_rouge_l_sees_order_and_rouge_1_does_not() -> None:
    assert set(compute_rouge("a b c d", "a b c d").values()) == {1.0}
    turned = compute_rouge("d c b a", "a b c d")
    assert turned["rouge_1"] == 1.0 and turned["rouge_2"] == 0.0 and turned["rouge_l"] == 0.25
    assert set(compute_rouge("", "a").values()) == {0.0}


def test_bleu_of_many_is_the_librarys() -> None:
    answers = ["the cat sat on the mat today", "a dog", "", "we open at nine and close at six"]
    references = ["the cat sat on a mat today", "the dog barks", "not empty", "we open at nine and close at seven"]
    counts = [compute_bleu(*pair)[1] for pair in zip(answers, references, strict=True)]
    summed = [sum(column) for column in zip(*counts, strict=True)]
    assert compute_corpus_bleu(summed) == pytest.approx(reference_bleu(answers, [references]).score)
    assert compute_bleu("yes", "yes")[0] == pytest.approx(100)  # a short answer is judged by the n-grams that it has


def test_reading_ease_orders_texts_and_knows_the_formula() -> None:
    assert compute_reading_ease("The cat sat on the mat.") == pytest.approx(206.835 - 1.015 * 6 - 84.6)
    hard = "Notwithstanding considerable organisational responsibilities, international cooperation deteriorated."
    assert compute_reading_ease(hard) < 0 < compute_reading_ease("We ship it to you. You pay us. That is all.")  # type: ignore[operator]
    assert compute_reading_ease("") is None and compute_reading_ease("1, 2, 3!") is None

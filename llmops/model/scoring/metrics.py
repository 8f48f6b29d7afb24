"""Metrics of one answer, compared with its reference.

Token F1 and exact match as in SQuAD (arXiv:1606.05250, section 6.1), ROUGE by the library `rouge-score`, BLEU by
`sacrebleu`, reading ease after Flesch with the syllables that `pyphen` counts. All of them work without a network.

Answers that are a label, or several, are judged by counts. scikit-learn's metrics are functions of these counts too;
they are written out here, because an interval would take 2,000 calls of 1 ms, and takes one of 2 ms.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from llmops.data.text.sentences import split_sentences
from llmops.frame.statistics.bootstrap import Floats, Measure

_SEPARATOR = re.compile(r"[,;|\n]")  #: of labels
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def normalise_words(text: str) -> list[str]:
    """Return the words of `text` in lower case, without punctuation and articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def compute_token_f1(answer: str, reference: str) -> float:
    """Return the harmonic mean of word precision and recall, 0 to 1; two empty texts are equal."""
    ours, theirs = normalise_words(answer), normalise_words(reference)
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))


def compute_exact_match(answer: str, reference: str) -> float:
    """Return 1 if both have the same words in the same order, else 0."""
    return float(normalise_words(answer) == normalise_words(reference))


def compute_rouge(answer: str, reference: str) -> dict[str, float]:
    """Return the F-measures of common words, word pairs and the longest common subsequence, with stemming, 0 to 1."""
    scores = _get_rouge_scorer().score(reference, answer)
    return {name: float(scores[key].fmeasure) for name, key in _ROUGE_TYPES.items()}


def compute_bleu(answer: str, reference: str) -> tuple[float, list[int]]:
    """Return the BLEU of one answer, 0 to 100, and the counts that make up the BLEU of many.

    Short answers have no 4-grams: the score of one is over the n-grams it has ("effective order").

    Returns:
        The score, and ten counts: words of the answer, words of the reference, n-grams that match and n-grams, each of
        length 1 to 4.
    """
    result = _get_bleu_scorer().sentence_score(answer, [reference])
    return float(result.score), [result.sys_len, result.ref_len, *result.counts, *result.totals]


def compute_corpus_bleu(counts: list[int]) -> float:
    """Return the BLEU of many answers, 0 to 100, from the sums of their counts (Papineni et al. 2002)."""
    return float(type(_get_bleu_scorer()).compute_bleu(counts[2:6], counts[6:10], counts[0], counts[1]).score)


def compute_reading_ease(text: str) -> float | None:
    """Return Flesch's reading ease of an English text: 100 is very easy, 0 very hard, and values can be beyond both.

    206.835 - 1.015 words per sentence - 84.6 syllables per word (Flesch 1948, "A new readability yardstick", Journal of
    Applied Psychology 32(3), 221-233). A text without words has none.
    """
    words = _WORD.findall(text)
    if not words:
        return None
    syllables = sum(len(_get_hyphenator().positions(word)) + 1 for word in words)
    sentence_count = max(1, sum(1 for s in split_sentences(text) if _WORD.search(s)))
    return 206.835 - 1.015 * len(words) / sentence_count - 84.6 * syllables / len(words)


_ROUGE_TYPES = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}


@cache
def _get_rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(_ROUGE_TYPES.values()), use_stemmer=True)


@cache
def _get_bleu_scorer() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=True)


@cache
def _get_hyphenator() -> Any:
    from pyphen import Pyphen

    return Pyphen(lang="en_US")


def split_labels(text: str) -> list[str]:
    """Return the labels of a list such as "Billing, refund" in its order, normalised, each once."""
    return list(dict.fromkeys(label for part in _SEPARATOR.split(text) if (label := _normalise_label(part))))


def find_only_label(answer: str, labels: Sequence[str]) -> str:
    """Return the label that equals the answer, else the only one that it mentions; empty if none or several.

    A label within a longer mentioned label does not count.
    """
    text = _normalise_label(answer)
    if text in labels:
        return text
    mentioned = [label for label in labels if f" {label} " in f" {text} "]
    longest = [a for a in mentioned if not any(a != b and f" {a} " in f" {b} " for b in mentioned)]
    return longest[0] if len(longest) == 1 else ""


def make_indicators(labels: Sequence[Sequence[str]], columns: Sequence[str]) -> Floats:
    """Return a table of shape (items, columns): 1 where an item has the label of the column."""
    numbers = {label: n for n, label in enumerate(columns)}
    table = np.zeros((len(labels), len(columns)))
    for row, found in enumerate(labels):
        table[row, [numbers[label] for label in found if label in numbers]] = 1
    return table


def measure_macro_f1(truth: Floats, predicted: Floats) -> Measure:
    """Measure the unweighted mean of the labels' F1, over the labels that occur in the truth or in the answers.

    Both are indicators of shape (items, labels).
    """

    def combine(sums: Floats) -> Floats:
        right, wrong, missed = np.split(sums, 3, axis=1)
        scores = 2 * right / (2 * right + wrong + missed)
        counts = (~np.isnan(scores)).sum(axis=1)
        mean: Floats = np.nansum(scores, axis=1) / counts
        return mean

    return Measure(
        np.concatenate([truth * predicted, (1 - truth) * predicted, truth * (1 - predicted)], axis=1), combine
    )


def compute_label_f1(answer: Sequence[str], reference: Sequence[str]) -> float:
    """Return the F1 of one item's labels, 0 to 1; both empty is right."""
    total = len(answer) + len(reference)
    return 2 * len(set(answer) & set(reference)) / total if total else 1.0


def compute_precision_at(answer: Sequence[str], reference: Sequence[str], k: int) -> float:
    """Return the share of right labels among the first `k` that were given; a missing one is a wrong one."""
    return len(set(answer[:k]) & set(reference)) / k


def _normalise_label(text: str) -> str:
    return " ".join(normalise_words(text))

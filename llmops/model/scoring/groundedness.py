"""Groundedness: the degree to which passages support an answer.

    measure_groundedness("Delivery takes 9 days.", ["Delivery takes 2 to 4 working days."]).grounded  # False

The check compares words and numbers, and knows no logic. docs/grounding.md says how often it errs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from llmops.data.retrieval.terms import extract_terms
from llmops.data.text.sentences import split_sentences

MIN_SHARE = 0.75  #: share of an answer's content words and numbers that the passages have
MIN_OVERLAP = 0.8  #: share of a sentence's words that a sentence of a passage has, if both are about the same

_STOP_WORDS = """
a about above after again all also although am among an and any are as at be because been before being below between
both but by can could did do does doing down during each either else even ever every few for from further get gets
getting give gives given go goes going had has have having he her here hers him his how however i if in into is it its
itself just least less let like made make makes making many may me might mine more most much must my of off often on
once one only onto or other others our ours out over own per please quite rather same shall she should since so some
someone something still such than that the their theirs them then there these they this those though through to
together too under until up upon us very via was we were what when where whether which while who whom whose why will
with within would yes yet you your yours
"""  # words that do not say what a text is about
_NEGATIONS = "no not never none nobody nothing nowhere without neither nor cannot"
_STOP_WORD_SET, _NEGATION_SET = frozenset(_STOP_WORDS.split()), frozenset(_NEGATIONS.split())
_CARDINALS = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]

_LIST_MARKER = re.compile(r"(?m)^\s*\d+[.)]\s")  # of a list
_CARDINAL = re.compile(rf"\b(?:{'|'.join(_CARDINALS)})\b", re.IGNORECASE)  # "one" is seldom a number
_NUMBER = re.compile(r"(?<![^\W\d_]-)(?<![^\W_])\d+(?:[.,]\d+)*")  # not that of a name, as in COVID-19
_THOUSANDS = re.compile(r",(?=\d{3}(?!\d))")
_ZEROS = re.compile(r"(?<=\d)\.0+$|(?<=\.\d)0+$")
_NAME = re.compile(r"(?<=[\w,] )[A-Z]\w+")  # not the first word of a sentence, which is always a capital
_LOOK_AHEAD = 40  #: characters after a number that hold the next two words


@dataclass(frozen=True, slots=True)
class Groundedness:
    """The degree to which passages support an answer."""

    share: float  #: of its content words and numbers that are found
    numbers: tuple[str, ...]  #: that are not found, or not with the word that follows them: `2`, `3.1 euro`
    names: tuple[str, ...]  #: words with a capital that are not found
    contradicts: bool  #: True if a sentence denies a statement of the passages, or states what they deny

    @property
    def grounded(self) -> bool:
        """Return True if the words of the passages support the answer."""
        return self.share >= MIN_SHARE and not (self.numbers or self.names or self.contradicts)


@dataclass(frozen=True, slots=True)
class _Sentence:
    words: frozenset[str]  #: stems of its content words
    numbers: frozenset[str]
    amounts: frozenset[str]  #: numbers with the stem of the next word, if that is a content word
    number_contexts: frozenset[str]  #: numbers with the stem of the next word, and with that of the second
    negative: bool


def measure_groundedness(answer: str, passages: Sequence[str]) -> Groundedness | None:
    """Return the groundedness of an answer in passages; None if it says nothing by itself, such as "Yes."."""
    answer_sentences = [_parse_sentence(sentence) for sentence in split_sentences(answer)]
    passage_sentences = [_parse_sentence(sentence) for passage in passages for sentence in split_sentences(passage)]
    known, number_contexts, numbers, amounts = set[str](), set[str](), set[str](), set[str]()
    for sentence in passage_sentences:
        known |= sentence.words | sentence.numbers
        number_contexts |= sentence.number_contexts
    for sentence in answer_sentences:
        numbers |= sentence.numbers
        amounts |= sentence.amounts
    text = " ".join(passages)
    names = [name for sentence in split_sentences(answer) for name in _NAME.findall(sentence)]
    answer_words = [sentence.words | sentence.numbers for sentence in answer_sentences]
    if not any(answer_words):
        return None
    return Groundedness(
        share=sum(len(words & known) for words in answer_words) / sum(map(len, answer_words)),
        numbers=tuple(sorted((numbers - known) | (amounts - number_contexts))),
        names=tuple(name for name in names if name not in text and _stem(name) not in known),
        contradicts=any(_is_contradicted(sentence, passage_sentences) for sentence in answer_sentences),
    )


def _is_contradicted(sentence: _Sentence, passage_sentences: Sequence[_Sentence]) -> bool:
    """Compare a sentence with the passage sentence that has most of its words; of equal ones, with the shortest."""
    closest = max(passage_sentences, key=lambda one: (len(sentence.words & one.words), -len(one.words)), default=None)
    size = len(sentence.words)
    if closest is None or size < 2 or len(sentence.words & closest.words) < MIN_OVERLAP * size:
        return False
    return sentence.negative != closest.negative


def _parse_sentence(sentence: str) -> _Sentence:
    text = _LIST_MARKER.sub(" ", unicodedata.normalize("NFKC", sentence).replace("\u2019", "'"))
    text = _CARDINAL.sub(lambda match: str(_CARDINALS.index(match[0].lower()) + 2), text)
    words = extract_terms(_NUMBER.sub(" ", text))
    numbers, amounts, number_contexts = set[str](), set[str](), set[str]()
    for match in _NUMBER.finditer(text):
        number = _ZEROS.sub("", _THOUSANDS.sub("", match[0]).replace(",", "."))
        following = extract_terms(text[match.end() : match.end() + _LOOK_AHEAD])[:2]
        numbers.add(number)
        number_contexts |= {f"{number} {_stem(word)}" for word in following}
        amounts |= {
            f"{number} {_stem(word)}" for word in following[:1] if _is_content(word) and not text[match.end()].isalpha()
        }
    return _Sentence(
        words=frozenset(_stem(word) for word in words if _is_content(word)),
        numbers=frozenset(numbers),
        amounts=frozenset(amounts),
        number_contexts=frozenset(number_contexts),
        negative=any(_is_negation(word) for word in words),
    )


def _is_content(word: str) -> bool:
    return len(word) > 1 and not word.isdigit() and word not in _STOP_WORD_SET and not _is_negation(word)


def _is_negation(word: str) -> bool:
    return word in _NEGATION_SET or word.endswith("n't")


def _stem(word: str) -> str:
    return str(_get_stemmer().stem(word))


@cache
def _get_stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()

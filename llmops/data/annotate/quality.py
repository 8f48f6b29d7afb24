"""Rules that drop a question and its answer because a model should not learn from them.

A rule returns the fault of a pair in words, or "". The first of `RULES` with a fault decides. To add a rule, write such
a function and append it. The function's name is the rule's name in the dropped pairs, so it is no verb. The rules judge
pairs after redaction and cutting, as a model would see them, and only by certain faults: a short answer is not a bad
answer.
"""

import re
from collections.abc import Callable
from functools import lru_cache

from llmops.data.text.duplicate_lines import MAX_DUPLICATE_LINES, compute_duplicate_line_share
from llmops.data.text.language import detect_language
from llmops.data.text.running_text import select_running_text
from llmops.data.text.words import UNSPACED, separate_words

Rule = Callable[[str, str], str]  #: question, answer → the fault in words, empty if there is none

# Largest share of characters in 5-grams of words that occurred earlier in the answer. Gopher's 0.15 is for web pages:
# it would drop 14 of 446 answers of public health agencies, all of them good, with shares up to 0.24. A text that
# stands twice has 0.5.
MAX_REPEATED_SHARE, NGRAM_WORDS = 0.4, 5
MAX_CONSECUTIVE = 4  #: times that the same one to four words may follow each other

_NON_WORDS = re.compile(r"<[A-Z_]+>|(?:https?://|www\.)\S+|\S+@\S+")  # marks of redaction, links, addresses
_WORD = re.compile(r"\w+(?:['’]\w+)*")
# No sentence ends in a comma, an opening bracket (except ":(" and "]0, 1[") or a colon, which announces a missing part
# (except "drive C:").
_HALF_OPEN = re.compile(r"\][^\[\]]*\[$")
_BREAKS_OFF = re.compile(r"(?:[,，、،：]|(?<!\b[A-Z]):|(?<![:;=-])[({（「『【《]|(?<![:;=-])\[)$")
# No sentence ends in these words of its language. "an" may end a German sentence and "or" a French one, so each list
# holds for its language only.
_DANGLING_WORDS = {
    "en": frozenset(["an", "the", "and", "or"]),
    "de": frozenset(["und", "oder"]),
    "fr": frozenset(["et", "ou"]),
}
_UNSPACED = re.compile(f"{UNSPACED}{{2}}")  # their number of words is unknown
_LAST_WORD = re.compile(r"(?<![\w-])[a-z]+$")
# A pointer in English begins so, names a text to read (not a shop, a doctor or a button), and says nothing itself.
_POINTS = re.compile(
    r"(?i)(?:(?:please|for (?:more|further|additional) [^.!?]*[,:])\s*)*(?:see|visit|refer to|consult)\s[^.!?]*?\b(?:"
    r"(?:web ?)?(?:page|site)s?|guid(?:es?|ance|elines?)|faqs?|recommendations?|documentation|handbook|manual|chapter|"
    r"section|article|policy|information)\b"
)
_SAYS = re.compile(
    r"(?i)[;:](?!\w)|[–—]|\b(?:and|then|or) (?:click|press|choose|select|enter|tap|fill|log|sign|follow|open|use)\b|"
    r"(?<!how )(?<!what )(?<!refer )\bto (?!(?:learn|find|read|see|get|understand|know|help|the|an?|your|our)\b)\w"
)
_ASKS_WHERE = re.compile(r"(?i)\b(?:where|which (?:web ?)?(?:page|site|document|guide|guidance)|links?|websites?)\b")
_ADDRESS = re.compile(r"<[A-Z_]+>|https?://|www\.|\S@\S|\b[\w-]+\.(?:com|org|net|gov|edu|eu|uk)\b|(?:\d[\s()./-]*){6}")


def find_broken_rule(question: str, answer: str) -> tuple[str, str] | None:
    """Return the rule that a pair breaks and the detail; None for a pair to keep."""
    return next(((rule.__name__, detail) for rule in RULES if (detail := rule(question, answer))), None)


def no_words(question: str, answer: str) -> str:
    """Detect a question or answer of nothing but links, addresses, marks of redaction and symbols."""
    for name, text in (("question", question), ("answer", answer)):
        if not _WORD.search(_NON_WORDS.sub(" ", text)):
            return f"the {name} says nothing besides links, marks and symbols"
    return ""


def echo(question: str, answer: str) -> str:
    """Detect an answer that only repeats the question."""
    return "the answer only repeats the question" if _list_words(question) == _list_words(answer) else ""


def broken_off(question: str, answer: str) -> str:
    """Detect an answer of more than one word that ends in the middle of a sentence."""
    answer = answer.rstrip()
    several = len(_list_words(answer)) > 1 or _UNSPACED.search(answer)
    match = None if _HALF_OPEN.search(answer) else _BREAKS_OFF.search(answer)
    if not match and (match := _LAST_WORD.search(answer)):
        languages = [language for language, words in _DANGLING_WORDS.items() if match[0] in words]
        match = match if languages and detect_language(f"{question} {answer}") in languages else None
    return f"the answer breaks off after {match[0]!r}" if match and several else ""


def pointer_only(question: str, answer: str) -> str:
    """Detect an answer in English that only names what to read, without an address, if nobody asks where it is."""
    if _ADDRESS.search(answer) or _ASKS_WHERE.search(question):
        return ""
    sentences = re.split(r"(?<=[.!?])\s+(?=[^\W\d_])|\n+", answer.strip())
    points = all(_POINTS.match(sentence) and not _SAYS.search(sentence) for sentence in sentences)
    return "the answer only names what to read, without an address" if points else ""


def repeated_lines(question: str, answer: str) -> str:
    """Detect an answer with many repeated lines."""
    share = compute_duplicate_line_share(answer)
    return f"{share:.0%} of the answer's lines stood before" if share > MAX_DUPLICATE_LINES else ""


def stuttering(question: str, answer: str) -> str:
    """Detect a line that repeats one to four words too many times in a row; numbers, code and tables may repeat."""
    for line in select_running_text(answer).splitlines():
        words = _split_words(line)
        for size in range(1, 5):
            run = 0
            for before, after in zip(words, words[size:], strict=False):
                run = run + 1 if before == after and not before.isdigit() else 0
                if run >= size * MAX_CONSECUTIVE:
                    times = f"{MAX_CONSECUTIVE + 1} times in a row"
                    return f"the answer has the same {size} words, {after!r} among them, {times}"
    return ""


def repeated_phrases(question: str, answer: str) -> str:
    """Detect an answer that consists largely of repeated runs of words; numbers, code and tables may repeat."""
    words = _list_words(select_running_text(answer))
    seen: set[tuple[str, ...]] = set()
    repeated: set[int] = set()
    for start in range(len(words) - NGRAM_WORDS + 1):
        gram = tuple(words[start : start + NGRAM_WORDS])
        if gram in seen and not "".join(gram).isdigit():
            repeated.update(range(start, start + NGRAM_WORDS))
        seen.add(gram)
    share = sum(len(words[index]) for index in repeated) / max(1, sum(map(len, _list_words(answer))))
    return f"{share:.0%} of the answer repeats what it said before" if share > MAX_REPEATED_SHARE else ""


@lru_cache(3)  # several rules look at the same question and answer, and at its running text
def _list_words(text: str) -> list[str]:
    return _split_words(text)


def _split_words(text: str) -> list[str]:
    return _WORD.findall(separate_words(_NON_WORDS.sub(" ", text).casefold()))


RULES: tuple[Rule, ...] = (
    no_words, echo, broken_off, pointer_only, repeated_lines, stuttering, repeated_phrases
)  # fmt: skip

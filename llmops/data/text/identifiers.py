"""Identifiers of persons in texts: e-mail addresses, names, customer and phone numbers.

A text contains an identifier if it has the same whole words in a row, with the same signs between them:
`ana@example.org` is in neither `diana@example.org` nor `ana@example.org.uk`. In scripts without spaces, and in Korean,
which adds particles to names, each character is a word. Upper case (`GROSS` is `Groß`), emphasis (`_Ana Li_`), white
space, invisible characters, typographic quotes, mojibake, escapes of HTML, JSON and URLs, and the gaps of a phone
number make no difference.

A search by a keyed hash does not know the identifier, only its shape. The shape is enough to find the spans where it
could be. Such a search hashes the text of each span, and so finds the same spans as a search by the identifier.
"""

import re
import unicodedata
from bisect import bisect
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Literal, NamedTuple

from llmops.data.text.normalization import list_characters
from llmops.data.text.spellings import repair_and_normalize
from llmops.data.text.words import UNSPACED

_AT, _DIGIT, _DIGITS, _NO_DIGIT = map(re.compile, (r"@", r"\d", r"\d+", r"\D"))
_KINDS_WITH_DIGITS = ("number", "phone")
_ASCII_WORDS = re.compile(r"\w+")
_PHONE = re.compile(r"\+?[\d\s().\-/]+")
_MIN_PHONE_DIGITS = 7
_MAX_PHONE_DIGITS = 20  #: with all prefixes
_DIGIT_SEPARATOR = re.compile(r"[\s().\-/]{1,3}")  #: separators of two groups of digits of a phone number
_WORD_CHARACTERS = f"{UNSPACED[1:-1]}\uac00-\ud7a3"  #: characters that are words by themselves
_WORD_CHARACTER = re.compile(f"[{_WORD_CHARACTERS}]")
_FIRST_SYLLABLE = "\u3005"  #: from this character on, each of `_WORD_CHARACTERS` is a whole syllable or word


class IdentifierShape(NamedTuple):
    """The public part of an identifier, by which texts can be searched without knowing it."""

    kind: Literal["mail", "name", "number", "phone"]
    size: int  #: number of words (of a mail address: one before and two or more after its @); of a phone number, digits


def parse_identifier(text: str) -> tuple[IdentifierShape, str]:
    """Return the shape of an identifier, and its normalized text, which all its spellings share.

    Signs around its words do not count: `(Ana Li)` is `ana li`.
    """
    plain = repair_and_normalize(text)
    digits = _NO_DIGIT.sub("", plain)
    if _MIN_PHONE_DIGITS <= len(digits) <= _MAX_PHONE_DIGITS and _PHONE.fullmatch(plain) and not plain.isdecimal():
        return IdentifierShape("phone", len(digits)), digits
    words = list(_get_word_pattern(plain).finditer(plain))
    plain = plain[words[0].start() : words[-1].end()] if words else ""
    kind: Literal["mail", "number", "name"] = "mail" if "@" in plain else "number" if digits else "name"
    return IdentifierShape(kind, len(words)), plain


def count_letters(plain: str) -> int:
    """Return the number of letters and digits of an identifier. A character that is a syllable or word counts twice."""
    return sum(
        1 + (character >= _FIRST_SYLLABLE and _has_word_character(character))
        for character in plain
        if character.isalnum()
    )


def find_possible_spans(
    text: str, shapes: Iterable[IdentifierShape]
) -> Iterator[tuple[IdentifierShape, list[tuple[int, int]]]]:
    """Yield for each shape the spans (start, end) of a text where an identifier of that shape could be.

    Only a span that passes `is_whole` is an identifier. `normalize_span` normalizes its text. The text is in lower case
    (`str.casefold`).
    """
    words: list[tuple[int, int]] = []
    for shape in shapes:
        if (shape.kind == "mail" and "@" not in text) or (shape.kind in _KINDS_WITH_DIGITS and not _DIGIT.search(text)):
            continue
        if shape.kind == "phone":
            yield shape, list(_find_phones(text, shape.size))
            continue
        words = words or [match.span() for match in _get_word_pattern(text).finditer(text)]
        starts, ends = zip(*words, strict=True) if words else ((), ())
        spans = list(zip(starts, ends[shape.size - 1 :], strict=False))
        if shape.kind == "mail":
            firsts = _find_run_starts(
                (bisect(starts, match.start()) - 1 for match in _AT.finditer(text)), shape.size - 1
            )
            spans = [spans[first] for first in firsts if 0 <= first < len(spans)]
        elif shape.kind == "number":
            firsts = _find_run_starts(
                (bisect(starts, match.start()) - 1 for match in _DIGITS.finditer(text)), shape.size
            )
            spans = [spans[first] for first in firsts if 0 <= first < len(spans)]
        yield shape, spans


def is_whole(text: str, start: int, end: int, shape: IdentifierShape) -> bool:
    """Return False for a span in a longer word or number: `jones` of `smith-jones`, `50` of `7.50`."""
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    word = _get_word_pattern(before + after)
    left, right = not (before and word.match(before[-1])), not (after and word.match(after))
    if not text.isascii():
        left = left or _has_word_character(before[-1] + text[start])
        right = right or (_has_word_character(text[end - 1] + after[0]) and unicodedata.category(after[0])[0] != "M")
    if len(before) == 2 and word.match(before) and _is_joining(before[1], before[0], shape, "-.+"):
        left = False
    if len(after) == 2 and word.match(after[1]) and _is_joining(after[0], after[1], shape, "-."):
        right = False
    return left and right


def _has_word_character(neighbours: str) -> bool:
    """Return True if one of two neighbouring characters is a word by itself, so that a word ends between them."""
    return bool(_WORD_CHARACTER.search(neighbours))


def _is_joining(sign: str, beyond: str, shape: IdentifierShape, mail_signs: str) -> bool:
    return sign in (mail_signs if shape.kind == "mail" else "-") or (sign in ".," and beyond.isdecimal())


def normalize_span(text: str, shape: IdentifierShape) -> str:
    """Return the text of a span, in lower case, normalized as the identifiers of `parse_identifier` are."""
    return _NO_DIGIT.sub("", text) if shape.kind == "phone" else " ".join(text.split())


def list_location_names(location: str) -> set[str]:
    """Return the possible names in a location: itself, its parts, its name without suffixes."""
    stem = location.rpartition("/")[2]
    names = {location, *location.split("/"), stem.rpartition(".")[0]} - {""}
    return names | {re.sub(r"[_+]", " ", name) for name in names}


def _find_run_starts(words: Iterable[int], size: int) -> list[int]:
    """Return the first word of each run of `size` words that contains one of these words."""
    return sorted({first for word in words for first in range(word - size + 1, word + 1)})


def _find_phones(text: str, size: int) -> Iterator[tuple[int, int]]:
    """Yield the spans of neighbouring groups of digits that have `size` digits together."""
    numbers = [match.span() for match in _DIGITS.finditer(text)]
    for first, (start, end) in enumerate(numbers):
        digits = end - start
        for next_start, next_end in numbers[first + 1 :]:
            if digits >= size or not _DIGIT_SEPARATOR.fullmatch(text, end, next_start):
                break
            digits, end = digits + next_end - next_start, next_end
        if digits == size:
            yield start, end


def _get_word_pattern(text: str) -> re.Pattern[str]:
    r"""Return the pattern of words: letters, digits, and marks on letters, which `\w` lacks.

    Each of `_WORD_CHARACTERS` is a word by itself.
    """
    return _ASCII_WORDS if text.isascii() else _compile_word_pattern()


@cache
def _compile_word_pattern() -> re.Pattern[str]:
    marks = list_characters("M")
    return re.compile(rf"[{_WORD_CHARACTERS}][{marks}]*|(?:[^\W{_WORD_CHARACTERS}]+|[{marks}]+)+")

"""Identifiers of persons in texts: e-mail addresses, names, customer and phone numbers.

A text names an identifier if it has the same whole words in a row, with the same signs between them: `ana@example.org`
is in neither `diana@example.org` nor `ana@example.org.uk`. In scripts without spaces, and in Korean, which adds
particles to names, each character is a word. Upper case (`GROSS` is `Groß`), emphasis (`_Ana Li_`), white space,
invisible characters, typographic quotes, mojibake, escapes of HTML, JSON and URLs, and the gaps of a phone number make
no difference.

The places where an identifier could be are found from its shape alone, without knowing it. So a search by a keyed hash
finds the same places as a search by the identifier: it hashes the text at each place.
"""

import re
import unicodedata
from bisect import bisect
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Literal, NamedTuple

from llmops.data.text.comparable import characters
from llmops.data.text.spellings import read
from llmops.data.text.words import UNSPACED

_AT, _DIGIT, _DIGITS, _NO_DIGIT = map(re.compile, (r"@", r"\d", r"\d+", r"\D"))
_WITH_DIGITS = ("number", "phone")
_ASCII_WORDS = re.compile(r"\w+")
_PHONE = re.compile(r"\+?[\d\s().\-/]+")
_PHONE_DIGITS = 7  #: least digits of a phone number
_MOST_DIGITS = 20  #: most digits of a phone number, with all prefixes
_BETWEEN = re.compile(r"[\s().\-/]{1,3}")  #: separators of two groups of digits of a phone number
_ALONE = f"{UNSPACED[1:-1]}\uac00-\ud7a3"  #: characters that are words by themselves
_ALONE_THERE = re.compile(f"[{_ALONE}]")
_SYLLABLE = "\u3005"  #: from this character on, each of `_ALONE` is a whole syllable or word


class Shape(NamedTuple):
    """The public part of an identifier, by which texts can be searched without knowing it."""

    kind: Literal["mail", "name", "number", "phone"]
    size: int  #: number of words (of a mail address: one before and two or more after its @); of a phone number, digits


def identifier(text: str) -> tuple[Shape, str]:
    """Return the shape of an identifier, and its compared form, which all its spellings share.

    Signs around its words do not count: `(Ana Li)` is `ana li`.
    """
    plain = read(text)
    digits = _NO_DIGIT.sub("", plain)
    if _PHONE_DIGITS <= len(digits) <= _MOST_DIGITS and _PHONE.fullmatch(plain) and not plain.isdecimal():
        return Shape("phone", len(digits)), digits
    words = list(_words(plain).finditer(plain))
    plain = plain[words[0].start() : words[-1].end()] if words else ""
    kind: Literal["mail", "number", "name"] = "mail" if "@" in plain else "number" if digits else "name"
    return Shape(kind, len(words)), plain


def letters(plain: str) -> int:
    """Return the number of letters and digits of an identifier. A character that is a syllable or word counts twice."""
    return sum(1 + (character >= _SYLLABLE and _separates(character)) for character in plain if character.isalnum())


def runs(text: str, shapes: Iterable[Shape]) -> Iterator[tuple[Shape, list[tuple[int, int]]]]:
    """Yield for each shape the places (start, end) in a text where such an identifier could be, if `whole`.

    `compared` gives the compared form of a place. The text is in lower case (`str.casefold`).
    """
    words: list[tuple[int, int]] = []
    for shape in shapes:
        if (shape.kind == "mail" and "@" not in text) or (shape.kind in _WITH_DIGITS and not _DIGIT.search(text)):
            continue
        if shape.kind == "phone":
            yield shape, list(_phones(text, shape.size))
            continue
        words = words or [match.span() for match in _words(text).finditer(text)]
        starts, ends = zip(*words, strict=True) if words else ((), ())
        places = list(zip(starts, ends[shape.size - 1 :], strict=False))
        if shape.kind == "mail":
            firsts = _run_starts((bisect(starts, match.start()) - 1 for match in _AT.finditer(text)), shape.size - 1)
            places = [places[first] for first in firsts if 0 <= first < len(places)]
        elif shape.kind == "number":
            firsts = _run_starts((bisect(starts, match.start()) - 1 for match in _DIGITS.finditer(text)), shape.size)
            places = [places[first] for first in firsts if 0 <= first < len(places)]
        yield shape, places


def whole(text: str, start: int, end: int, shape: Shape) -> bool:
    """Return True if a place is not part of a longer word or number: `jones` of `smith-jones`, `50` of `7.50`."""
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    word = _words(before + after)
    left, right = not (before and word.match(before[-1])), not (after and word.match(after))
    if not text.isascii():
        left = left or _separates(before[-1] + text[start])
        right = right or (_separates(text[end - 1] + after[0]) and unicodedata.category(after[0])[0] != "M")
    if len(before) == 2 and word.match(before) and _joins(before[1], before[0], shape, "-.+"):
        left = False
    if len(after) == 2 and word.match(after[1]) and _joins(after[0], after[1], shape, "-."):
        right = False
    return left and right


def _separates(some: str) -> bool:
    """Return True if neighbouring characters are two words because one is a word by itself."""
    return bool(_ALONE_THERE.search(some))


def _joins(sign: str, beyond: str, shape: Shape, of_mail: str) -> bool:
    return sign in (of_mail if shape.kind == "mail" else "-") or (sign in ".," and beyond.isdecimal())


def compared(found: str, shape: Shape) -> str:
    """Return the text at a place, in lower case, in the compared form of identifiers."""
    return _NO_DIGIT.sub("", found) if shape.kind == "phone" else " ".join(found.split())


def location_names(location: str) -> set[str]:
    """Return the possible names in a location: itself, its parts, its name without suffixes."""
    stem = location.rpartition("/")[2]
    names = {location, *location.split("/"), stem.rpartition(".")[0]} - {""}
    return names | {re.sub(r"[_+]", " ", name) for name in names}


def _run_starts(words: Iterable[int], size: int) -> list[int]:
    """Return the first words of all runs that have one of these words among their first `size` words."""
    return sorted({first for word in words for first in range(word - size + 1, word + 1)})


def _phones(text: str, size: int) -> Iterator[tuple[int, int]]:
    """Yield the places of nearby groups of digits that have `size` digits together."""
    numbers = [match.span() for match in _DIGITS.finditer(text)]
    for first, (start, end) in enumerate(numbers):
        digits = end - start
        for follows, last in numbers[first + 1 :]:
            if digits >= size or not _BETWEEN.fullmatch(text, end, follows):
                break
            digits, end = digits + last - follows, last
        if digits == size:
            yield start, end


def _words(text: str) -> re.Pattern[str]:
    r"""Return the pattern of words: letters, digits, and marks on letters, which `\w` lacks; each of `_ALONE`."""
    return _ASCII_WORDS if text.isascii() else _any_words()


@cache
def _any_words() -> re.Pattern[str]:
    marks = characters("M")
    return re.compile(rf"[{_ALONE}][{marks}]*|(?:[^\W{_ALONE}]+|[{marks}]+)+")

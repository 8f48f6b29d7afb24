"""The compared form of texts. Texts that differ only in typing have the same form.

Cleaning does not change good text, so the same sentence may occur with straight and with typographic quotes. All
comparisons of texts use this form.
"""

import re
import unicodedata
from functools import cache

from llmops.frame.records import content_id

#: typographic quotes → straight ones, for `str.translate`
QUOTES: dict[int, str] = {
    **dict.fromkeys(map(ord, "\u02bc\u2018\u2019\u201a\u201b"), "'"),
    **dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f"), '"'),
}
_EMPHASIS = re.compile(r"(?<!\w)(_{1,3})(?=[^\W_])(.{1,200}?)(?<=[^\s_])\1(?![\w@])")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_CLOSING = " \t.!?…。？！,;:"
_TYPED: dict[int, str] = {
    **QUOTES,
    # NFKC turns 10² into 102, another number.
    **{ord(digit): f"^{digit}" for digit in "\u00b2\u00b3\u00b9\u2070\u2074\u2075\u2076\u2077\u2078\u2079"},
    **{code: f"_{chr(code)}" for code in range(0x2080, 0x208A)},
    # Joiners, marks of direction and other invisible characters.
    **dict.fromkeys([0xAD, 0x61C, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2065)], ""),
    **dict.fromkeys([*range(0x2066, 0x206A), 0xFEFF], ""),
}


def comparable(
    text: str, *, closing: bool = True, case: bool = False, spaces: bool = False, repaired: bool = False
) -> str:
    """Return `text` with straight quotes and in NFKC. Raised and lowered digits stay distinct.

    Args:
        text: any text.
        closing: keep punctuation at the end.
        case: keep upper case.
        spaces: keep white space unchanged; otherwise it becomes single spaces.
        repaired: remove invisible characters and emphasis (`_Ana Li_`), as a reader sees it. Raised and lowered digits
            then become plain.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(QUOTES if repaired else _TYPED))
        if not case:
            text = unicodedata.normalize("NFKC", text.casefold())
        if repaired:
            text = _invisible().sub("", text)
    elif repaired and _CONTROL.search(text):
        text = _CONTROL.sub("", text)
    if repaired and "_" in text:
        text = _EMPHASIS.sub(r"\2", text)
    if not case:
        text = text.casefold()
    if not spaces:
        text = " ".join(text.split())
    return text if closing else text.rstrip(_CLOSING)


def wording_id(question: str, context: str) -> str:
    """Return a hash of a question and its context, equal for all ways of typing them."""
    return content_id(comparable(question, closing=False), comparable(context, closing=False))


def characters(category: str) -> str:
    """Return all assigned characters of a category, for a regular expression's class; for C without newline and tab."""
    wanted = [
        code
        for code in (*range(0x1F000), *range(0xE0000, 0xE1000))
        if (found := unicodedata.category(chr(code)))[0] == category and found != "Cn" and chr(code) not in "\n\t\r"
    ]
    ranges: list[list[int]] = []
    for code in wanted:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)


@cache
def _invisible() -> re.Pattern[str]:
    return re.compile(f"[{characters('C')}]")

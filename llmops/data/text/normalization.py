"""Normalization of texts for comparison: texts that differ only in how they were typed become equal.

Cleaning does not change good text, so the same sentence may occur with straight and with typographic quotes. All
comparisons of texts use normalized texts.
"""

import re
import unicodedata
from functools import cache

from llmops.frame.records import make_content_id

#: typographic quotes → straight ones, for `str.translate`
QUOTES: dict[int, str] = {
    **dict.fromkeys(map(ord, "\u02bc\u2018\u2019\u201a\u201b"), "'"),
    **dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f"), '"'),
}
_EMPHASIS = re.compile(r"(?<!\w)(_{1,3})(?=[^\W_])(.{1,200}?)(?<=[^\s_])\1(?![\w@])")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_CLOSING_CHARACTERS = " \t.!?…。？！,;:"
#: straight quotes, plain marks for raised and lowered digits, no invisible characters; for `str.translate`
_CHARACTER_TABLE: dict[int, str] = {
    **QUOTES,
    # NFKC turns 10² into 102, another number.
    **{ord(digit): f"^{digit}" for digit in "\u00b2\u00b3\u00b9\u2070\u2074\u2075\u2076\u2077\u2078\u2079"},
    **{code: f"_{chr(code)}" for code in range(0x2080, 0x208A)},
    # Joiners, marks of direction and other invisible characters.
    **dict.fromkeys([0xAD, 0x61C, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2065)], ""),
    **dict.fromkeys([*range(0x2066, 0x206A), 0xFEFF], ""),
}


def normalize_text(
    text: str,
    *,
    keep_closing: bool = True,
    keep_case: bool = False,
    keep_spaces: bool = False,
    visible_only: bool = False,
) -> str:
    """Return `text` with straight quotes and in NFKC. Raised and lowered digits stay distinct.

    Args:
        text: any text.
        keep_closing: keep punctuation at the end.
        keep_case: keep upper case.
        keep_spaces: keep white space unchanged; otherwise it becomes single spaces.
        visible_only: remove invisible characters and emphasis (`_Ana Li_`), as a reader sees it. Raised and lowered
            digits then become plain.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(QUOTES if visible_only else _CHARACTER_TABLE))
        if not keep_case:
            text = unicodedata.normalize("NFKC", text.casefold())
        if visible_only:
            text = _compile_invisible().sub("", text)
    elif visible_only and _CONTROL.search(text):
        text = _CONTROL.sub("", text)
    if visible_only and "_" in text:
        text = _EMPHASIS.sub(r"\2", text)
    if not keep_case:
        text = text.casefold()
    if not keep_spaces:
        text = " ".join(text.split())
    return text if keep_closing else text.rstrip(_CLOSING_CHARACTERS)


def hash_wording(question: str, context: str) -> str:
    """Return a hash of a question and its context, equal for all ways of typing them."""
    return make_content_id(normalize_text(question, keep_closing=False), normalize_text(context, keep_closing=False))


def list_characters(category: str) -> str:
    """Return all assigned characters of a category, for a regular expression's class; for C without newline and tab."""
    codes = [
        code
        for code in (*range(0x1F000), *range(0xE0000, 0xE1000))
        if (found := unicodedata.category(chr(code)))[0] == category and found != "Cn" and chr(code) not in "\n\t\r"
    ]
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)


@cache
def _compile_invisible() -> re.Pattern[str]:
    return re.compile(f"[{list_characters('C')}]")

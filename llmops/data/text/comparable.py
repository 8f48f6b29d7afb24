"""The form in which texts are compared: two texts that differ in nothing but how they were typed have the same.

Cleaning leaves good text as it stands, so the same sentence may come with straight quotes and with typographic ones.
Whatever asks whether two texts are the same asks it of this form.
"""

from __future__ import annotations

import unicodedata

#: Typographic quotes, and the straight ones that they are compared as; for `str.translate`.
QUOTES: dict[int, str] = {
    **dict.fromkeys(map(ord, "\u02bc\u2018\u2019\u201a\u201b"), "'"),
    **dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f"), '"'),
}
_TYPED: dict[int, str] = {
    **QUOTES,
    # NFKC makes 102 of 10², which is another number.
    **{ord(digit): f"^{digit}" for digit in "\u00b2\u00b3\u00b9\u2070\u2074\u2075\u2076\u2077\u2078\u2079"},
    **{code: f"_{chr(code)}" for code in range(0x2080, 0x208A)},
    # Joiners, marks of direction and other characters that nobody sees.
    **dict.fromkeys([0xAD, 0x61C, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2065)], ""),
    **dict.fromkeys([*range(0x2066, 0x206A), 0xFEFF], ""),
}


def comparable(text: str) -> str:
    """`text` without upper case, in straight quotes and single spaces, in NFKC; raised digits stay different ones."""
    if not text.isascii():
        folded = unicodedata.normalize("NFKC", text.translate(_TYPED)).casefold()
        text = unicodedata.normalize("NFKC", folded)
    return " ".join(text.casefold().split())

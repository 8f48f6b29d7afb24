"""The words of a text, as features count and compare them."""

from __future__ import annotations

import re
import zlib

from llmops.data.text.unspaced import parted

# Letters and digits, and the marks that belong to them, which `\w` leaves out: accents, vowels of Arabic and of Indic
# scripts.
_LETTER = r"(?:[^\W_]|[\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0fff])"
_WORD = re.compile(rf"{_LETTER}+(?:['\u2019]{_LETTER}+)*")


def words_of(text: str) -> list[str]:
    """The words of a text, in their order, without case; in scripts without spaces, pieces of about a word's length."""
    return _WORD.findall((text if text.isascii() else parted(text)).casefold())


def number_of(word: str, seed: int = 0) -> int:
    """A word as a number of 32 bits, the same in every process."""
    return zlib.crc32(word.encode("utf-8", "surrogatepass"), seed)

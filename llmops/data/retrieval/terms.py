"""The words by which passages are found, before the database takes off their English endings."""

from __future__ import annotations

import re
import unicodedata

from llmops.data.text.words import UNSPACED, words_of

_RUN = re.compile(f"{UNSPACED}+")


def terms_of(text: str) -> list[str]:
    """Return the words of a text, in their order, without case and accents.

    In scripts that put no spaces between words, every two characters that follow each other are a word, as in Lucene's
    analyser for Chinese, Japanese and Korean.
    """
    if not text.isascii():
        plain = (character for character in unicodedata.normalize("NFKD", text) if not _is_accent(character))
        text = unicodedata.normalize("NFC", "".join(plain))
    found, start = list[str](), 0
    for run in _RUN.finditer(text):
        found += words_of(text[start : run.start()])
        found += [run[0][at : at + 2] for at in range(max(1, len(run[0]) - 1))]
        start = run.end()
    return found + words_of(text[start:])


def _is_accent(character: str) -> bool:
    """Return whether a mark stands above or below a letter (Latin, Greek, Cyrillic), or is Hebrew or Arabic pointing.

    Vowel signs and viramas of Indic scripts, voiced marks of kana and tones of Thai change the word, and stay.
    """
    kind = unicodedata.combining(character)
    return 10 <= kind <= 35 or kind >= 200

"""The words by which passages are found.

Forms of a character are one, and accents of Greek, Cyrillic, Hebrew and Arabic are left out; of Latin the database
does that.

Of scripts that put no spaces between words, each two characters that follow each other are one, as Lucene has it for
Chinese, Japanese and Korean; for the database knows a word by what stands around it.
"""

from __future__ import annotations

import re
import unicodedata

from llmops.data.text.words import UNSPACED, words_of

_RUN = re.compile(f"{UNSPACED}+")

# Accents of those scripts, and those that stand alone: compatibility makes a blank with an accent of them.
_ACCENTS = re.compile(
    "(?<=[ \u0370-\u052f\u0590-\u06ff\u1f00-\u1fff])"
    "[\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"
    "\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed]+"
)


def terms_of(text: str) -> list[str]:
    """The words of a text, in their order, without case."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFKD", text)))
    found, start = list[str](), 0
    for run in _RUN.finditer(text):
        found += words_of(text[start : run.start()])
        characters = run[0]
        found += [characters[at : at + 2] for at in range(max(1, len(characters) - 1))]
        start = run.end()
    return found + words_of(text[start:])

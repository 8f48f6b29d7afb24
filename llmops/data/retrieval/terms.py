"""The words by which passages are found, and their stems, which the index has."""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections.abc import Sequence
from contextlib import closing

from llmops.data.text.words import UNSPACED, words_of

#: of FTS5; takes off English endings (Porter, 1980), `terms_of` does everything else
TOKENIZER = "porter unicode61 remove_diacritics 0 categories 'L* N* M* Co'"

_RUN = re.compile(f"{UNSPACED}+")
_STEMS = f"""
CREATE VIRTUAL TABLE words USING fts5(text, content = '', tokenize = "{TOKENIZER}");
CREATE VIRTUAL TABLE stems USING fts5vocab(words, instance);
"""


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


def stems_of(texts: Sequence[str]) -> list[str]:
    """Return the stems of each text as an index of files has them, with spaces between them."""
    found: list[list[str]] = [[] for _ in texts]
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(_STEMS)
        rows = ((number, " ".join(terms_of(text))) for number, text in enumerate(texts))
        database.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", rows)
        for number, stem in database.execute("SELECT doc, term FROM stems ORDER BY doc, offset"):
            found[number].append(stem)
    return [" ".join(stems) for stems in found]


def _is_accent(character: str) -> bool:
    """Return whether a mark stands above or below a letter (Latin, Greek, Cyrillic), or is Hebrew or Arabic pointing.

    Vowel signs and viramas of Indic scripts, voiced marks of kana and tones of Thai change the word, and stay.
    """
    kind = unicodedata.combining(character)
    return 10 <= kind <= 35 or kind >= 200

"""The words by which passages are found, and the stems of words that the index stores."""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import closing

from llmops.data.text.words import UNSPACED, split_words

#: FTS5's tokenizer: it removes English endings (Porter, 1980). `extract_terms` does everything else
FTS_TOKENIZER = "porter unicode61 remove_diacritics 0 categories 'L* N* M* Co'"

_UNSPACED_RUN = re.compile(f"{UNSPACED}+")
_STEM_TABLES = f"""
CREATE VIRTUAL TABLE words USING fts5(text, content = '', tokenize = "{FTS_TOKENIZER}");
CREATE VIRTUAL TABLE stems USING fts5vocab(words, instance);
"""


def extract_terms(text: str) -> list[str]:
    """Return the words of a text, in their order, without case and accents.

    In scripts that put no spaces between words, every two characters that follow each other are a word, as in Lucene's
    analyser for Chinese, Japanese and Korean.
    """
    if not text.isascii():
        plain = (character for character in unicodedata.normalize("NFKD", text) if not _is_accent(character))
        text = unicodedata.normalize("NFC", "".join(plain))
    terms, start = list[str](), 0
    for run in _UNSPACED_RUN.finditer(text):
        terms += split_words(text[start : run.start()])
        terms += [run[0][position : position + 2] for position in range(max(1, len(run[0]) - 1))]
        start = run.end()
    return terms + split_words(text[start:])


def stem_texts(texts: Sequence[str]) -> list[str]:
    """Return the stems of each text, separated by spaces, as FTS5 stores them in an index file."""
    stems_by_text: list[list[str]] = [[] for _ in texts]
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(_STEM_TABLES)
        rows = ((number, " ".join(extract_terms(text))) for number, text in enumerate(texts))
        database.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", rows)
        for number, stem in database.execute("SELECT doc, term FROM stems ORDER BY doc, offset"):
            stems_by_text[number].append(stem)
    return [" ".join(stems) for stems in stems_by_text]


def sum_shared_words(weights: Mapping[str, float], texts: Sequence[str]) -> list[float]:
    """Return for each text the summed weights of the words that it has, in any English form."""
    sums = [0.0] * len(texts)
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute(f'CREATE VIRTUAL TABLE read USING fts5(text, tokenize = "{FTS_TOKENIZER}")')
        rows = ((number, " ".join(extract_terms(text))) for number, text in enumerate(texts))
        database.executemany("INSERT INTO read (rowid, text) VALUES (?, ?)", rows)
        for word, weight in weights.items():
            for (number,) in database.execute("SELECT rowid FROM read WHERE read MATCH ?", (f'"{word}"',)):
                sums[number] += weight
    return sums


def _is_accent(character: str) -> bool:
    """Return whether a mark stands above or below a letter (Latin, Greek, Cyrillic), or is Hebrew or Arabic pointing.

    Vowel signs and viramas of Indic scripts, voiced marks of kana and tones of Thai change the word, and stay.
    """
    kind = unicodedata.combining(character)
    return 10 <= kind <= 35 or kind >= 200

"""The words of a text as the database of an index knows them, for whoever searches elsewhere by the same words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from llmops.data.index.files import TOKENIZER

_TABLES = f"""
CREATE VIRTUAL TABLE words USING fts5(text, content = '', tokenize = "{TOKENIZER}");
CREATE VIRTUAL TABLE instances USING fts5vocab(words, instance);
"""


class Stems:
    """SQLite's full-text search, which cuts words and takes off their endings. Any thread may use it, one at a time."""

    def __init__(self) -> None:
        self._database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._database.executescript(_TABLES)

    def of(self, said: Sequence[Iterable[str]]) -> list[list[str]]:
        """The stems of each text, in their order.

        Args:
            said: the terms of each, see `terms_of`.
        """
        self._database.execute("INSERT INTO words (words) VALUES ('delete-all')")
        rows = ((number, " ".join(terms)) for number, terms in enumerate(said))
        self._database.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", rows)
        found: list[list[str]] = [[] for _ in said]
        for number, term in self._database.execute("SELECT doc, term FROM instances ORDER BY doc, offset"):
            found[number].append(term)
        return found

    def close(self) -> None:
        """Give back what it holds."""
        self._database.close()

"""The files of an index, and how its database is opened."""

from __future__ import annotations

import sqlite3
from dataclasses import fields
from pathlib import Path

from llmops.records import Passage

PASSAGES = "passages.parquet"  #: what was indexed, for stages and erasures
DATABASE = "index.db"  #: the same for who searches, with their words
VECTORS = "vectors.npy"  #: their vectors; there is none without a model

#: How SQLite takes texts apart: their words without accents and English endings.
TOKENIZER = "porter unicode61 remove_diacritics 2 categories 'L* N* M* Co'"
COMMON = 250  #: passages that have a word; who asks is told how many, see `search`
LONGEST_TERM = 255  #: characters; a server does not count longer words

COLUMNS = tuple(field.name for field in fields(Passage))


def open_database(folder: Path) -> sqlite3.Connection:
    """The database, for reading, in any thread."""
    where = f"{(folder / DATABASE).absolute().as_uri()}?mode=ro&immutable=1"
    return sqlite3.connect(where, uri=True, check_same_thread=False)

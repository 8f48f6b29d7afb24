"""Normalization of a column of texts as by `normalize_text`, mostly computed by Polars."""

import polars as pl

from llmops.data.text.normalization import QUOTES, normalize_text

#: Characters that only need lower case and single spaces: ASCII, Latin-1 letters, dashes.
_PLAIN_CHARACTERS = r"\x00-\x7F\x{C0}-\x{D6}\x{D8}-\x{DE}\x{E0}-\x{F6}\x{F8}-\x{FF}\x{2013}\x{2014}"


def normalize_column(texts: pl.Series) -> pl.Series:
    """Return the result of `normalize_text` for each text.

    Only texts with other characters than `_PLAIN_CHARACTERS` and quotes are normalized one by one in Python.
    """
    rows = (texts.str.len_bytes() != texts.str.len_chars()).arg_true()
    if len(rows):
        some = texts.gather(rows)
        for straight in "'\"":
            some = some.str.replace_all(f"[{''.join(chr(c) for c, to in QUOTES.items() if to == straight)}]", straight)
        texts, rows = (
            texts.clone().scatter(rows, some),
            rows.gather(some.str.contains(f"[^{_PLAIN_CHARACTERS}]").arg_true()),
        )
    plain = texts.str.to_lowercase().str.replace_all("\n", " ", literal=True)
    # Two searches take a seventh of the time of one combined search.
    loose = (plain.str.contains(r"[\t-\r\x1c-\x1f]") | plain.str.contains("  ", literal=True)).arg_true()
    if len(loose):
        plain = plain.scatter(loose, plain.gather(loose).str.replace_all(r"[\t-\r\x1c-\x1f ]+", " "))
    plain = plain.str.strip_chars(" ")
    return (
        plain.scatter(rows, pl.Series(map(normalize_text, texts.gather(rows)), dtype=pl.String)) if len(rows) else plain
    )

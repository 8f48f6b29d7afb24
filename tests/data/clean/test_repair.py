"""Repairs of texts."""

from __future__ import annotations

import unicodedata

import ftfy
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmops.data.clean.repair import repair, unescape


@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        ("plain & simple", "plain & simple"),
        ("Tom &amp; Jerry &lt;3", "Tom & Jerry <3"),
        ("5&nbsp;&euro;", "5 €"),
        ("twice &amp;amp; escaped", "twice & escaped"),
        ("cafÃ© â€“ naÃ¯ve", "café – naïve"),
        ("itâ€™s", "it's"),
        ("ﬁne １２", "fine 12"),
        ("e\u0301", "é"),
        ("", ""),
    ],
)
def test_repairs(broken: str, whole: str) -> None:
    assert repair(pl.Series([broken])).to_list() == [whole]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_a_column_is_repaired_as_its_texts_are(texts: list[str]) -> None:
    assert repair(pl.Series(texts, dtype=pl.String)).to_list() == [repair(pl.Series([t]))[0] for t in texts]


# Text as a wrong program leaves it: UTF-8 taken for another encoding, once or twice.
@example("’€ß", "cp1252")
@given(
    st.text("éàüßñçøœŒÃÂ–—’“”€¡¿ž ЖдяβΩabc .,", min_size=1), st.sampled_from(["cp1252", "latin-1", "cp1250", "cp437"])
)
def test_no_mojibake_that_ftfy_would_find_is_overlooked(text: str, wrong: str) -> None:
    try:
        broken = text.encode().decode(wrong)
    except UnicodeDecodeError:
        broken = text.encode().decode("latin-1")
    # Not `fix_text`: it looks again after it has made quotes straight, and then takes the right "’€ß" for broken.
    expected = unicodedata.normalize("NFKC", ftfy.fixes.uncurl_quotes(ftfy.fix_encoding(unescape(broken))))
    assert repair(pl.Series([broken])).to_list() == [expected]

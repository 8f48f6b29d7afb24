"""The short cuts of the rules change no outcome, and the funnel counts every rule."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.config import Clean
from llmops.data.clean import rules
from llmops.data.clean.funnel import ORDER

# What tidying looks at, and a letter to put it between.
PIECES = st.sampled_from([*' \n\t\ra1.B\x00\x7f"&', "amp;", "&lt;", "é", "“", "Ã©", "\u00a0", "\u200d", "\u2028"])
TEXTS = st.lists(st.lists(PIECES, max_size=8).map("".join), min_size=1, max_size=20)


@given(TEXTS, st.booleans())
def test_what_looks_tidy_is_what_tidying_leaves_alone(texts: list[str], one_line: bool) -> None:
    column = pl.Series(texts)
    assert rules.tidy(column, one_line, Clean()).to_list() == rules._tidied(column, one_line, Clean()).to_list()


@pytest.mark.parametrize("few", [1, 5, 12, 30])
@pytest.mark.parametrize("length", [19, 20, 61, 200, 1000, 1001])
@pytest.mark.parametrize("late", [False, True])  # all the different words at the start, or at the end
def test_repetition_is_found_wherever_the_words_repeat(few: int, length: int, late: bool) -> None:
    words = [f"w{n}" for n in range(few)][:length]
    words += [words[0]] * (length - len(words))
    text = " ".join(words[::-1] if late else words)
    share = len(set(words)) / length
    found = rules._distinct_words(pl.Series(["", text]))[1]
    hit = found is not None and found < rules.MIN_DISTINCT_WORDS
    assert hit == (20 <= length <= 1000 and share < rules.MIN_DISTINCT_WORDS)
    assert found in (None, share)


def test_the_funnel_counts_every_rule_in_its_place() -> None:
    assert (*(name for name, _ in rules.RULES), "duplicate", "near_duplicate") == ORDER

"""The rule of repetition finds it anywhere, and the funnel counts every rule."""

from __future__ import annotations

import polars as pl
import pytest

from llmops.data.clean import rules
from llmops.data.clean.funnel import ORDER


@pytest.mark.parametrize("few", [1, 12, 30])
@pytest.mark.parametrize("length", [19, 20, 200, 1000, 1001])
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

"""Lines that a text repeats."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.clean.rules import _compute_duplicate_line_shares
from llmops.data.text.duplicate_lines import MIN_LINES, compute_duplicate_line_share


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("a\na\na", 0.0),  # too few lines to judge
        ("a\na\na\na", 0.75),
        ("a\n\n  a\nb \n\nb\n", 0.5),  # neither blank lines nor white space around a line count
        ("f(a) {\n}\nf(b) {\n}\nf(c) {\n}", 0.0),  # nor lines of code
        ("More\nf(a) {\n}\nMore\n}\nMore\nMore\n}", 0.375),
    ],
)
def test_the_share_of_lines_that_stood_before(text: str, share: float) -> None:
    assert compute_duplicate_line_share(text) == share


@given(st.lists(st.text("ab\n", max_size=12), max_size=6))
def test_cleaning_judges_a_column_as_it_would_each_text(texts: list[str]) -> None:
    found = _compute_duplicate_line_shares(pl.Series(texts, dtype=pl.String)).to_list()
    assert found == [compute_duplicate_line_share(t) if t.count("\n") >= MIN_LINES - 1 else None for t in texts]

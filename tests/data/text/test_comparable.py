"""The form in which texts are compared."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.text.comparable import comparable, wording_id
from llmops.data.text.comparable_texts import comparable_texts
from llmops.data.text.spellings import read


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("It’s  “FINE” ", 'it\'s "fine"'),
        ("ﬁne １２ Ａ！", "fine 12 a!"),
        ("5\u00a0km\u2009long", "5 km long"),
        ("می\u200cخواهم", "میخواهم"),
        ("e\u0301", "É"),
        ("a…b ™", "A...B TM"),
    ],
)
def test_typed_otherwise_is_the_same(one: str, other: str) -> None:
    assert comparable(one) == comparable(other)


@pytest.mark.parametrize(("one", "other"), [("10²", "102"), ("H₂", "H2"), ("a\x00b", "ab")])
def test_what_differs_in_more_stays_different(one: str, other: str) -> None:
    assert comparable(one) != comparable(other)


def test_the_options_leave_out_what_they_name() -> None:
    assert comparable("  How MUCH\n is it ?! ", closing=False) == comparable("how much is it", closing=False)
    assert comparable("C++", closing=False) != comparable("C", closing=False)
    assert wording_id("a", "b") != wording_id("ab", "") and wording_id("A?", "B.") == wording_id("a", "b")
    assert read("_Ana_  LÃ¼\x07", case=True, spaces=True) == "Ana  Lü"


@given(st.lists(st.text() | st.text("aB \n\t\r\x0b\x1c\x00’„ÄÞ—²ßé\u0301\u00a0"), max_size=6))
def test_a_column_is_compared_as_its_texts_are(texts: list[str]) -> None:
    found = comparable_texts(pl.Series(texts, dtype=pl.String)).to_list()
    assert found == [comparable(text) for text in texts] == [comparable(text) for text in found]

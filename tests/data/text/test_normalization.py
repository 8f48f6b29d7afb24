"""The form in which texts are compared."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.text.column_normalization import normalize_column
from llmops.data.text.normalization import hash_wording, normalize_text
from llmops.data.text.spellings import repair_and_normalize


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
    assert normalize_text(one) == normalize_text(other)


@pytest.mark.parametrize(("one", "other"), [("10²", "102"), ("H₂", "H2"), ("a\x00b", "ab")])
def test_what_differs_in_more_stays_different(one: str, other: str) -> None:
    assert normalize_text(one) != normalize_text(other)


def test_the_options_leave_out_what_they_name() -> None:
    assert normalize_text("  How MUCH\n is it ?! ", keep_closing=False) == normalize_text(
        "how much is it", keep_closing=False
    )
    assert normalize_text("C++", keep_closing=False) != normalize_text("C", keep_closing=False)
    assert hash_wording("a", "b") != hash_wording("ab", "") and hash_wording("A?", "B.") == hash_wording("a", "b")
    assert repair_and_normalize("_Ana_  LÃ¼\x07", keep_case=True, keep_spaces=True) == "Ana  Lü"


@given(st.lists(st.text() | st.text("aB \n\t\r\x0b\x1c\x00’„ÄÞ—²ßé\u0301\u00a0"), max_size=6))
def test_a_column_is_compared_as_its_texts_are(texts: list[str]) -> None:
    found = normalize_column(pl.Series(texts, dtype=pl.String)).to_list()
    assert found == [normalize_text(text) for text in texts] == [normalize_text(text) for text in found]

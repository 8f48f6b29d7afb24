"""Repairs of single texts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.repair import repair, repair_fields


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
    assert repair(broken) == whole


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_repairing_fields_never_breaks_their_json(value: str) -> None:
    fields = json.dumps({'a"b': value, "＂": "＂quoted＂"}, ensure_ascii=False)
    assert json.loads(repair_fields(fields)) == {'a"b': repair(value), "＂": '"quoted"'}

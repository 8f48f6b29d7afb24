"""What a heading asks, and its number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.text.headings import compute_depth, is_question, join_headings, remove_number
from tests.growth import assert_linear

ASKING = """
    Why should I use “Debian”?|Unanswered?!|__import__('x.y.z') returns <module 'x'>; how do I get z?|支払い方法は？|
    كيف أعيد المنتج؟|Ποιο είναι το X100;|How to leave the command prompt|What's new in 3.13|Was ist Debian|
    Contact the seller of an item|Wie Sie das System herunterfahren|Comment arrêter le système|Jak zwrócić towar|
    Como redefinir a senha|Come posso restituire un articolo|Hoe retourneer ik een artikel|
    Как вернуть товар|如何退货|怎么修改密码|システムをシャットダウンする方法|비밀번호를 재설정하는 방법|
    Reset your password|Returning an item
"""
NOT_ASKING = """
    You probably do not want to:|Table of contents|Chapter 3|Order status|During the installation|Comment syntax|
    Come back later|Contact us|Contact our support|Find us on Mastodon|What's new|What’s new:|Was ist neu|
    Share this page|Who|which(1)|--show-forced-updates|add(child, **kw)|Show <name>|Whatever else|Was|概要|May 2024|
    int foo(void);|x = 5; // Ok;|µ = 2;
"""


def test_what_asks_and_what_does_not() -> None:
    for headings, wanted in ((ASKING, True), (NOT_ASKING, False)):
        expected = {heading.strip(): wanted for heading in headings.split("|")}
        assert {heading: is_question(heading) for heading in expected} == expected
    assert not is_question(
        "What we found, and what we did about it in the long winter of that year when nothing else " * 4
    )


NUMBERED = """
    5.3. How can I pay?|5.3 How can I pay?|2) Who pays?|1. Refunds|12.1.4. Shell-Schleifen|A.1. Authors|IV. Who pays?|
    B) Can I pay later?|Chapter 11. Customizing|Kapitel 2 Pakete|Section 4: Returns|§ 5 Widerruf|第2章 パッケージ|
    Q3: How long?
"""
LEFT = """
    How can I pay?|How can I pay?|Who pays?|Refunds|Shell-Schleifen|Authors|Who pays?|Can I pay later?|Customizing|
    Pakete|Returns|Widerruf|パッケージ|How long?
"""
SAYING = """
    3 ways to pay|2FA: how do I use it?|3.13 is out|3.13 What’s-new pages?|1. Mai 2026: Haben Sie offen?|24. Dezember|
    2026-01-31 Was gilt?|10 % off?|2.5 GHz or 5 GHz?|Chapter 3|1.|C compilers|I have a tent|A. Smith|D-Bus
"""


def test_numbers_of_sections_go_and_numbers_that_say_something_stay() -> None:
    for headings, left in ((NUMBERED, LEFT), (SAYING, SAYING)):
        given_, wanted = ([part.strip() for part in text.split("|")] for text in (headings, left))
        assert [remove_number(heading) for heading in given_] == wanted


def test_a_long_path_keeps_its_ends() -> None:
    assert join_headings(["Returns", "", "Refunds"]) == "Returns › Refunds"
    assert join_headings(["Title", "x" * 150, "y" * 100, "End"]) == f"Title › {'y' * 100} › End"


@given(st.text(max_size=60))
def test_nothing_is_added(heading: str) -> None:
    assert heading.endswith(remove_number(heading)) and (remove_number(heading) or not heading)


@pytest.mark.parametrize("unit", ["1.", "A.", "?", "How ", "1. ", " ", "「", "如何", "Returning "])
def test_long_hostile_headings_cost_no_more_than_linear_time(unit: str) -> None:
    for function in (is_question, remove_number, compute_depth):
        assert_linear(function, unit)

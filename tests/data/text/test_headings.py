"""What a heading asks, and its number."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.text.headings import asks, depth, ends_as_question, path, without_number


@pytest.mark.parametrize(
    "heading",
    [
        "Who pays?",
        "Why should I use “Debian”?",
        "Unanswered?!",
        "__import__('x.y.z') returns <module 'x'>; how do I get z?",
        "支払い方法は？",
        "كيف أعيد المنتج؟",
        "Πόσο κοστίζει;",
        "How to leave the command prompt",
        "What's new in 3.13",
        "Contact the seller of an item",
        "Was ist Debian",
        "Wie Sie das System herunterfahren",
        "Comment arrêter le système",
        "Cómo devolver un artículo",
        "Como redefinir a senha",
        "Come posso restituire un articolo",
        "Hoe retourneer ik een artikel",
        "Jak zwrócić towar",
        "Как вернуть товар",
        "如何退货",
        "怎么修改密码",
        "システムをシャットダウンする方法",
        "비밀번호를 재설정하는 방법",
        "Reset your password",
        "Track your parcel",
        "Returning an item",
        "Install Debian from a CD",
    ],
)
def test_what_asks(heading: str) -> None:
    assert asks(heading)


@pytest.mark.parametrize("line", ["int foo(void);", "const x = 5;", "x = 5; // Ok;", "µ = 2;"])
def test_a_semicolon_asks_only_where_there_is_greek(line: str) -> None:
    assert not asks(line) and not ends_as_question(line)
    assert ends_as_question("Ποιο είναι το X100;") and ends_as_question("Πόσο\u037e")


@pytest.mark.parametrize(
    "heading",
    [
        "You probably do not want to:",
        "Overview",
        "Table of contents",
        "Chapter 3",
        "Returns",
        "Order status",
        "Shipping costs",
        "During the installation",
        "Comment syntax",
        "Come back later",
        "Contact us",
        "Contact our support",
        "Find us on Mastodon",
        "What's new",
        "What’s new:",
        "Was ist neu",
        "Share this page",
        "Who",
        "which(1)",
        "--show-forced-updates",
        "add(child, **kw)",
        "Show <name>",
        "Whatever else",
        "Was",
        "概要",
        "May 2024",
        "What we found, and what we did about it in the long winter of that year when nothing else could be done " * 3,
    ],
)
def test_what_does_not(heading: str) -> None:
    assert not asks(heading)


@pytest.mark.parametrize(
    ("heading", "left"),
    [
        ("5.3. How can I pay?", "How can I pay?"),
        ("5.3 How can I pay?", "How can I pay?"),
        ("2) Who pays?", "Who pays?"),
        ("1. Refunds", "Refunds"),
        ("12.1.4. Shell-Schleifen", "Shell-Schleifen"),
        ("A.1. Authors", "Authors"),
        ("IV. Who pays?", "Who pays?"),
        ("B) Can I pay later?", "Can I pay later?"),
        ("Chapter 11. Customizing", "Customizing"),
        ("Kapitel 2 Pakete", "Pakete"),
        ("Section 4: Returns", "Returns"),
        ("§ 5 Widerruf", "Widerruf"),
        ("第2章 パッケージ", "パッケージ"),
        ("Q3: How long?", "How long?"),
    ],
)
def test_numbers_of_sections_go(heading: str, left: str) -> None:
    assert without_number(heading) == left


@pytest.mark.parametrize(
    "heading",
    [
        "3 ways to pay",
        "2FA: how do I use it?",
        "3.13 is out",
        "3.13 What’s-new pages?",
        "1. Mai 2026: Haben Sie offen?",
        "24. Dezember",
        "2026-01-31 Was gilt?",
        "10 % off?",
        "2.5 GHz or 5 GHz?",
        "365 days",
        "Chapter 3",
        "1.",
        "C compilers",
        "I have a tent",
        "A. Smith",
        "D-Bus",
    ],
)
def test_numbers_that_say_something_stay(heading: str) -> None:
    assert without_number(heading) == heading


def test_depth_follows_the_number() -> None:
    lines = ["Chapter 2. Returns", "2.1. How?", "2.1.1 On islands", "2.1.1. On islands", "Returns"]
    assert [depth(line) for line in lines] == [1, 2, 0, 3, 0]


def test_a_long_path_keeps_its_ends() -> None:
    assert path(["Returns", "", "Refunds"]) == "Returns › Refunds"
    assert path(["Title", "x" * 150, "y" * 100, "End"]) == f"Title › {'y' * 100} › End"


@given(st.text(max_size=60))
def test_nothing_is_added(heading: str) -> None:
    assert heading.endswith(without_number(heading)) and (without_number(heading) or not heading)


@pytest.mark.parametrize("unit", ["1.", "A.", "?", "How ", "1. ", " ", "「", "如何", "Returning "])
def test_long_hostile_headings_cost_no_more_than_linear_time(unit: str) -> None:
    started = time.process_time()
    asks(unit * 50_000)
    without_number(unit * 50_000)
    depth(unit * 50_000)
    assert time.process_time() - started < 2

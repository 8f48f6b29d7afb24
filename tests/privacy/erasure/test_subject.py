"""Which texts name a person, and which only look as if."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from llmops.frame.errors import LlmopsError
from llmops.privacy.erasure.search import is_named_in_file
from llmops.privacy.erasure.subject import MARK, Subject, remove_numbers

MAIL = "ana@example.org"


@pytest.mark.parametrize(
    ("identifier", "text"),
    [
        (MAIL, "Write to ANA@Example.org."),
        (MAIL, "ana&#64;example.org"),
        (MAIL, "an\u200ba@exam\u00adple.org"),
        (MAIL, json.dumps({"fields": json.dumps({"says": f"hello\n{MAIL}\n"})})),
        (MAIL, r'{"broken": "\u0061na@example.org'),
        (MAIL, "https://shop.example/?to=ana%40example.org"),
        ("Ana Li", "Ana\nLi's parcel"),
        ("josé", "JosÃ© is here"),
        ("202-555-0143", "call (202) 555-0143 now"),
        ("+49 170 1234567", "+⁴⁹ ¹⁷⁰ ¹²³⁴⁵⁶⁷"),
        ("H2O Meier", "H₂O Meier"),
        ("Straße 5²", "Straße 5²"),
        ("C-102", "order of c-102."),
        ("5678901 5678901 5678901", "card 5678901 5678901  5678901"),
        ("Ana Li", "_Ana Li_ and __no_one__"),
        ("李小龙", "我叫李小龙，你好"),
        ("สมชาย ใจดี", "ผมชื่อสมชาย ใจดีครับ"),
        ("Jörg Gross", "DAS PAKET VON JÖRG GROẞ"),
        ("Ana Lima", json.dumps({"url": "https://shop.example/?for=%22Ana+Lima%22"})),
        (MAIL, "Пишите на ana@example.org.Спасибо"),
    ],
)
def test_named(identifier: str, text: str) -> None:
    subject = Subject(identifier)
    assert subject.is_named_in(text) and subject.hide([{text: f"{text}!"}, 1]) == [{MARK: MARK}, 1]


@pytest.mark.parametrize(
    ("identifier", "text"),
    [
        (MAIL, "diana@example.org"),
        (MAIL, "ana@example.org.uk"),
        ("Ana Li", "Diana Li and Ana Lima"),
        ("202-555-0143", "1202-555-01435"),
        ("C-102", "C-1025, C-102-7, BC-102"),
        ("10234", "It costs 10234.50 or 10,234."),
        ("Ana Li", "x_Ana Li_ and _Ana Li_x and _Diana Li_"),
        ("สมช", "สมชื่อ"),
        ("Jörg Groß", "Jörg Grossmann, Jörg Gros"),
        ("Ana Lima", "Ana+Lima"),
        (MAIL, "https://shop.example/?to=big+ana@example.org&page=2"),
    ],
)
def test_another(identifier: str, text: str) -> None:
    assert not Subject(identifier).is_named_in(text)
    assert Subject(identifier).hide(text) == text


def test_too_little_to_name_anybody() -> None:
    for identifier in ("", "a", "??", " \u200b ", "a-b", "李", "สม"):
        with pytest.raises(LlmopsError):
            Subject(identifier)


def test_a_file_may_be_named_after_the_person() -> None:
    assert Subject("Ana Li").is_named_in_location("chats/ana_li.json.gz")
    assert Subject(MAIL).is_named_in_location(f"chats/{MAIL}.txt")
    assert Subject(MAIL).is_named_in_location(f"{MAIL}/1.txt")
    assert not Subject("Ana Li").is_named_in_location("chats/diana_li.json")


def test_it_hides_the_person_and_nothing_else() -> None:
    subject = Subject(MAIL)
    value = {"a": f"to {MAIL}", MAIL: ["x", 1, None, r"\u0061na@example.org"]}
    hidden = {"a": MARK, MARK: ["x", 1, None, MARK]}
    assert subject.hide(value) == json.loads(subject.hide_lines(json.dumps(value))) == hidden
    assert subject.hide_lines(f"one\ntwo {MAIL}\nan\u200ba@example.org\nfour\n") == f"one\n{MARK}\n{MARK}\nfour\n"
    assert repr(subject) == f"{subject}" == MARK


def test_it_leaves_the_numbers_of_json_alone() -> None:
    assert remove_numbers('{"rows": 104, "says": "104"}') == '{"rows": 0, "says": "104"}'  # a count is nobody's
    subject = Subject("122")
    lines = '{"at": "customer 122", "n": 122}\n{"n": [122, 1.5]}\ncustomer\n122 and 122\n'
    hidden = f'{{"at": "{MARK}", "n": 122}}\n{{"n": [122, 1.5]}}\ncustomer\n{MARK}\n'
    assert subject.hide_lines(lines) == hidden


def test_a_count_in_a_record_or_an_event_or_a_database_is_nobodys(tmp_path: Path) -> None:
    for value, named in ((122, False), ("customer 122", True)):
        files = [tmp_path / "record.json", tmp_path / "events.jsonl", tmp_path / f"{named}.db"]
        files[0].write_text(json.dumps({"rows": value}, indent=1))
        files[1].write_text(json.dumps({"rows": value}) + "\n")
        with closing(sqlite3.connect(files[2])) as database, database:
            database.execute("CREATE TABLE events (document TEXT)")
            database.execute("INSERT INTO events VALUES (?)", [json.dumps({"rows": value})])
        assert [is_named_in_file(file, Subject("122")) for file in files] == [named] * 3


def test_a_name_over_two_lines_and_files_named_after_them_are_found(tmp_path: Path) -> None:
    subject = Subject("Ana Li")
    assert subject.hide_lines("one\nof Ana\nLi two\n") == f"one\n{MARK}\n{MARK}\n"
    (tmp_path / "a.log").write_text("one\nof Ana\nLi two\n")
    (tmp_path / "a.bin2").write_bytes(b"\0" * 9 + b" Ana  Li \0")
    assert is_named_in_file(tmp_path / "a.log", subject) and is_named_in_file(tmp_path / "a.bin2", subject)
    assert subject.hide_lines("Die STRASSE von JÖRG\n") == "Die STRASSE von JÖRG\n"
    assert Subject("Jörg Groß").hide_lines("Von JÖRG GROSS.\nIst groß.\n") == f"{MARK}\nIst groß.\n"

"""forgotten_list: a forgotten person's row stays out however it changes, and nobody else's row does."""

import json
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmops.data.collect import forgotten_list
from llmops.data.collect.forgotten_list import ForgottenList
from llmops.data.text.identifiers import parse_identifier
from llmops.frame.records import Document, DroppedRow
from llmops.privacy.erasure.subject import Subject
from llmops.state.database import Database

PEOPLE = ("ana.li@example.org", "Ana Li", "C-10234", "+49 30 1234567", "Seán O’Brien", "मरिया सिंह", "10234")


def make_list(*people: str) -> ForgottenList:
    with TemporaryDirectory() as folder:
        return add_people(f"sqlite:///{folder}/state.db", *people)


def add_people(url: str, *people: str, rows: Iterable[tuple[str, str]] = ()) -> ForgottenList:
    database = Database(url)
    forgotten_list.load_list_with_key(database)
    with database.change() as connection:
        for person in people:
            forgotten_list.add_person(connection, *parse_identifier(person), rows)
    return forgotten_list.load_list(database)


ALL = make_list(*PEOPLE)
EACH = {person: make_list(person) for person in PEOPLE}


def make_document(text: str, position: str = "row 1", **more: str) -> Document:
    return Document(id="1", source="s", location="f.csv", position=position, **{"question": text, **more})


def is_kept(list_: ForgottenList, row: Document | DroppedRow) -> bool:
    return list(list_.quarantine_rows([row])) == [row]


@pytest.mark.parametrize("field", ["question", "answer", "context", "same_as", "group", "text", "fields", "json"])
@pytest.mark.parametrize("person", PEOPLE)
def test_a_row_that_names_them_stays_out_whatever_field_it_stands_in(person: str, field: str) -> None:
    text = f"Dear\u00a0{person.upper()}, you have 11 points."
    named = {field: text}
    if field in ("fields", "json"):
        named = {"fields": json.dumps({"who": text, "points": 11}, ensure_ascii=field == "json")}
    row = Document(id="2", source="b", location="b.csv", position="row 2", **named)
    (out,) = EACH[person].quarantine_rows([row])
    assert isinstance(out, DroppedRow) and (out.rule, out.content, out.position) == ("forgotten", "", row.position)
    broken = DroppedRow(id="1", source="s", location="x", position="line 1", rule="malformed", detail="", content=text)
    assert not is_kept(ALL, row) and not is_kept(ALL, broken)


PIECES = st.sampled_from(
    ["ana", "Ana", "li", "Lima", "diana", "@", "example", "org", "uk", ".", ",", "-", "+", " ", "\n", "49", "30",
     "1234567", "10234", "C", "(", ")", "/", "é", "e\u0301", "\u200b", "&#64;", "%40", "\\n", "\\u0061", "O’", "Brien",
     "सिंह", "मरिया", "मरिय", "İ", "ſ", "_", "７", "x" * 5],
)  # fmt: skip


@settings(max_examples=200)
@given(pieces=st.lists(PIECES, max_size=14))
@example(["x", ".", "ana", "example", ".", "ana"])
@example(["İ", " ", "Ana", " ", "li"])
@example(["49", " ", "30", " ", "1234567", "10234"])
@example(["Ana", " ", "Lima", " and Diana Li ask together with Ana Maria, not Ana Li-Smith."])
@example(["bana.li@example.org, ana.li@example.org.uk and x.ana.li@example.org"])
@example(["It costs 10234.50 at BC-10234-7; call +49 30 12345678; Seán and O’Brien"])
def test_collect_keeps_out_exactly_what_an_erasure_finds(pieces: list[str]) -> None:
    text = "".join(pieces)
    for person, list_ in EACH.items():
        assert is_kept(list_, make_document(text)) == (not Subject(person).is_named_in(text)), (person, text)


@pytest.mark.parametrize("before", [*range(65_520, 65_540, 3), 64_512, 200_000])
def test_a_long_text_is_looked_through_in_parts_and_no_part_makes_a_word(before: int) -> None:
    text = "x" * (before % 7) + " x" * (before // 2)
    assert not is_kept(ALL, make_document(text + " Ana Li. " + "y " * 9))
    assert is_kept(ALL, make_document(text + " Ana Lima. Diana Li. " + "y " * 70_000))


def test_a_number_of_a_row_is_no_customer_number_but_a_key_is_and_names_are_hidden() -> None:
    assert is_kept(ALL, make_document("Yes?", "row 10234"))
    (out,) = ALL.quarantine_rows([make_document("Yes?", "key 10234")])
    assert isinstance(out, DroppedRow) and out.position == ""  # it would name them
    (out,) = ALL.quarantine_rows(
        [Document(id="1", source="s", location="chats/ana_li.txt", position="line 1", text="Yes.")]
    )
    assert isinstance(out, DroppedRow) and (out.location, out.position) == (forgotten_list.HIDDEN_LOCATION, "")


def test_a_row_with_a_key_stays_out_without_the_name(tmp_path: Path) -> None:
    list_ = add_people(f"sqlite:///{tmp_path / 'state.db'}", "Ana Li", "Ana Li", rows=[("s", "key 7"), ("s", "row 7")])
    assert not is_kept(list_, make_document("11 points", "key 7"))
    assert is_kept(list_, make_document("11 points", "key 70")) and is_kept(list_, make_document("11 points", "row 7"))


def test_a_conversation_goes_with_all_its_messages_and_the_next_one_stays() -> None:
    rows = [make_document(text, f"line {line}, message {number}") for line, number, text in [
        (1, 1, "My cat?"), (1, 2, "Of Ana Li"), (1, 3, "Thanks!"), (2, 1, "Thanks!"),
    ]]  # fmt: skip
    assert [isinstance(row, DroppedRow) for row in ALL.quarantine_rows(rows)] == [True, True, True, False]

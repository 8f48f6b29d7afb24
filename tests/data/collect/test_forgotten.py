"""forgotten: whoever an erasure found in a row stays out of it however the row changes, and nobody else does."""

import json
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmops.data.collect import forgotten
from llmops.data.collect.forgotten import Forgotten
from llmops.data.text.identity import identifier
from llmops.frame.records import Document, Dropped
from llmops.privacy.erasure.subject import Subject
from llmops.state.database import Database

PEOPLE = ("ana.li@example.org", "Ana Li", "C-10234", "+49 30 1234567", "Seán O’Brien", "मरिया सिंह", "10234")


def listed(*people: str) -> Forgotten:
    with TemporaryDirectory() as folder:
        return known(f"sqlite:///{folder}/state.db", *people)


def known(url: str, *people: str, rows: Iterable[tuple[str, str]] = ()) -> Forgotten:
    database = Database(url)
    forgotten.keyed(database)
    with database.change() as connection:
        for person in people:
            forgotten.add(connection, *identifier(person), rows)
    return forgotten.load(database)


ALL = listed(*PEOPLE)
EACH = {person: listed(person) for person in PEOPLE}


def said(text: str, position: str = "row 1", **more: str) -> Document:
    return Document(id="1", source="s", location="f.csv", position=position, **{"question": text, **more})


def kept(list_: Forgotten, row: Document | Dropped) -> bool:
    return list(list_.without([row])) == [row]


@pytest.mark.parametrize("field", ["question", "answer", "context", "same_as", "group", "text", "fields", "json"])
@pytest.mark.parametrize("person", PEOPLE)
def test_a_row_that_names_them_stays_out_whatever_field_it_stands_in(person: str, field: str) -> None:
    text = f"Dear\u00a0{person.upper()}, you have 11 points."
    named = {field: text}
    if field in ("fields", "json"):
        named = {"fields": json.dumps({"who": text, "points": 11}, ensure_ascii=field == "json")}
    row = Document(id="2", source="b", location="b.csv", position="row 2", **named)
    (out,) = EACH[person].without([row])
    assert isinstance(out, Dropped) and (out.rule, out.content, out.position) == ("forgotten", "", row.position)
    broken = Dropped(id="1", source="s", location="x", position="line 1", rule="malformed", detail="", content=text)
    assert not kept(ALL, row) and not kept(ALL, broken)


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
        assert kept(list_, said(text)) == (not Subject(person).is_named_in(text)), (person, text)


@pytest.mark.parametrize("before", [*range(65_520, 65_540, 3), 64_512, 200_000])
def test_a_long_text_is_looked_through_in_parts_and_no_part_makes_a_word(before: int) -> None:
    text = "x" * (before % 7) + " x" * (before // 2)
    assert not kept(ALL, said(text + " Ana Li. " + "y " * 9))
    assert kept(ALL, said(text + " Ana Lima. Diana Li. " + "y " * 70_000))


def test_a_number_of_a_row_is_no_customer_number_but_a_key_is_and_names_are_hidden() -> None:
    assert kept(ALL, said("Yes?", "row 10234"))
    (out,) = ALL.without([said("Yes?", "key 10234")])
    assert isinstance(out, Dropped) and out.position == ""  # it would name them
    (out,) = ALL.without([Document(id="1", source="s", location="chats/ana_li.txt", position="line 1", text="Yes.")])
    assert isinstance(out, Dropped) and (out.location, out.position) == (forgotten.HIDDEN, "")


def test_a_row_with_a_key_stays_out_without_the_name(tmp_path: Path) -> None:
    list_ = known(f"sqlite:///{tmp_path / 'state.db'}", "Ana Li", "Ana Li", rows=[("s", "key 7"), ("s", "row 7")])
    assert not kept(list_, said("11 points", "key 7"))
    assert kept(list_, said("11 points", "key 70")) and kept(list_, said("11 points", "row 7"))


def test_a_conversation_goes_with_all_its_messages_and_the_next_one_stays() -> None:
    rows = [said(text, f"line {line}, message {number}") for line, number, text in [
        (1, 1, "My cat?"), (1, 2, "Of Ana Li"), (1, 3, "Thanks!"), (2, 1, "Thanks!"),
    ]]  # fmt: skip
    assert [isinstance(row, Dropped) for row in ALL.without(rows)] == [True, True, True, False]

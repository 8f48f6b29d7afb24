"""forgotten: whoever an erasure found in a row stays out of it however the row changes, and nobody else does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmops.data.collect import forgotten
from llmops.data.collect.forgotten import Forgotten
from llmops.data.text.identity import identifier
from llmops.erasure.subject import Subject
from llmops.errors import ArtifactError
from llmops.records import Document, Dropped

PEOPLE = ("ana.li@example.org", "Ana Li", "C-10234", "+49 30 1234567", "Seán O’Brien", "मरिया सिंह", "10234")


def listed(*people: str) -> Forgotten:
    """A list with these persons, as it is read from its file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "forgotten.json"
        for person in people:
            forgotten.add(path, (), identifier(person))
        return forgotten.load(path)


ALL = listed(*PEOPLE)
EACH = {person: listed(person) for person in PEOPLE}


def said(text: str, position: str = "row 1", **more: str) -> Document:
    return Document(id="1", source="s", location="f.csv", position=position, **{"question": text, **more})


def kept(list_: Forgotten, row: Document | Dropped) -> bool:
    return list(list_.without([row])) == [row]


def spelled(person: str) -> st.SearchStrategy[str]:
    """How somebody may write an identifier."""
    cased = st.sampled_from([person, person.lower(), person.upper()])
    spaced = st.sampled_from([" ", "\n", "  ", "\u00a0", "\t"])
    hidden = st.sampled_from(["", "\u200b", "\u00ad"])
    return st.builds(lambda p, s, h: re.sub(" ", s, p[:2] + h + p[2:]), cased, spaced, hidden)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), person=st.sampled_from(PEOPLE))
def test_a_row_that_names_them_stays_out_whatever_changes(data: st.DataObject, person: str) -> None:
    """Spelling, the field it stands in, the rest of the row, its place, its file, its source."""
    around = st.sampled_from(["", "Points: 10.", "Points: 11; ", "(", ")", "\n\n", "ünï ", "?", "<b>", "Dear "])
    text = data.draw(around) + " " + data.draw(spelled(person)) + " " + data.draw(around)
    field = data.draw(st.sampled_from(["question", "answer", "context", "same_as", "group", "text", "fields", "json"]))
    if field in ("fields", "json"):
        points = data.draw(st.integers(10, 11))
        parts = {"fields": json.dumps({"who": text, "points": points}, ensure_ascii=field == "json")}
    else:
        parts = {field: text}
    place = data.draw(st.tuples(*[st.sampled_from(["a", "b"])] * 3))
    row = Document(id=place[0], source=place[0], location=f"{place[1]}.csv", position=f"row {place[2]}", **parts)
    (out,) = EACH[person].without([row])
    assert isinstance(out, Dropped) and (out.rule, out.content, out.position) == ("forgotten", "", row.position)
    assert not kept(ALL, row)
    broken = Dropped(id="1", source="s", location="x", position="line 1", rule="malformed", detail="", content=text)
    assert not kept(ALL, broken)


PIECES = st.sampled_from(
    ["ana", "Ana", "li", "Lima", "diana", "@", "example", "org", "uk", ".", ",", "-", "+", " ", "\n", "49", "30",
     "1234567", "10234", "C", "(", ")", "/", "é", "e\u0301", "\u200b", "&#64;", "%40", "\\n", "\\u0061", "O’", "Brien",
     "सिंह", "मरिया", "मरिय", "İ", "ſ", "_", "７", "x" * 5],
)  # fmt: skip


@settings(max_examples=200, deadline=None)
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
        assert kept(list_, said(text)) == (not Subject(person).named_in(text)), (person, text)


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
    path = tmp_path / "forgotten.json"
    forgotten.add(path, [forgotten.hasher(path)(said("Ana Li has 10 points", "key 7"), "key")], identifier("Ana Li"))
    list_ = forgotten.load(path)
    assert not kept(list_, said("11 points", "key 7"))
    assert kept(list_, said("11 points", "key 70")) and kept(list_, said("11 points", "row 7"))
    assert forgotten.hasher(path)(said("Ana Li", "row 7"), "key") == ""


def test_a_conversation_goes_with_all_its_messages_and_the_next_one_stays() -> None:
    rows = [said(text, f"line {line}, message {number}") for line, number, text in [
        (1, 1, "My cat?"), (1, 2, "Of Ana Li"), (1, 3, "Thanks!"), (2, 1, "Thanks!"),
    ]]  # fmt: skip
    assert [isinstance(row, Dropped) for row in ALL.without(rows)] == [True, True, True, False]


@pytest.mark.parametrize("damage", ["{", '{"key": "xy", "rows": []}', '{"rows": []}', '{"key": "00", "rows": 1}',
                                    '{"key": "00", "rows": [], "people": {"name": {"a": 1}}}'])  # fmt: skip
def test_a_damaged_list_is_an_error(tmp_path: Path, damage: str) -> None:
    (tmp_path / "forgotten.json").write_text(damage)
    with pytest.raises(ArtifactError, match="damaged"):
        forgotten.load(tmp_path / "forgotten.json")
    with pytest.raises(ArtifactError):
        forgotten.add(tmp_path / "forgotten.json", ["x"])

"""Which entries of the split ledger are a person's."""

from __future__ import annotations

from pathlib import Path

from llmops.config import Annotate
from llmops.data.annotate.ledger import planned
from llmops.data.annotate.past import TEST, TRAIN, Entry
from llmops.erasure import split_entries
from llmops.erasure.subject import Subject
from llmops.erasure.trace import Found, Known
from llmops.records import Example, content_id
from llmops.state.database import database_at

MAIL = "ana@example.org"


def entry(id_: str, wording: str, split: str = TEST, answer: str = "It is lost.") -> Entry:
    example = Example(
        id=id_, question=wording, answer=answer, group="g", split=split, source="s", location="l", position=id_
    )
    return Entry(0, "", id_, wording, "g", split, wording, example if split == TEST else None)


def write(url: str, day: str, entries: list[Entry], model: str = "bot") -> None:
    planned(url, model, Annotate(), day, lambda read: content_id(day, read)).write(entries)


def test_the_earlier_answer_of_a_tested_question_goes_with_it(tmp_path: Path) -> None:
    """The artifacts of the earlier days are gone, so that nothing else tells whose their answers were."""
    url = f"sqlite:///{tmp_path / 'state.db'}"
    for day, entries in {
        "002": [entry("old", "parcel"), entry("else", "price")],
        "001": [entry("older", "parcel"), entry("trained", "parcel?", TRAIN)],  # a backfill
        "003": [entry("new", "parcel"), entry("beside", "parcel")],
        "004": [entry("next", "parcel")],  # somebody else's, since the person's row has left
    }.items():
        write(url, day, entries)
    write(url, "001", [entry("foreign", "parcel")], model="other")
    found = Found(known={"annotate/x": Known({"new"})})
    keys = split_entries.find(database_at(url), Subject(MAIL), found)
    assert {key[2] for key in keys} == {"older", "old", "new"}
    write(url, "005", [entry("1005", "table")])  # tested, and stands in the row of a customer's number
    assert split_entries.find(database_at(url), Subject("1005"), Found()) == []
    split_entries.erase(database_at(url), keys)
    assert split_entries.find(database_at(url), Subject(MAIL), found) == []


def test_what_was_trained_on_says_nothing_of_earlier_rows(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    for day, name in (("001", "others"), ("002", "persons")):
        write(url, day, [entry(name, "parcel", TRAIN)])
    found = Found(known={"annotate/x": Known({"persons"})})
    assert [key[2] for key in split_entries.find(database_at(url), Subject(MAIL), found)] == ["persons"]

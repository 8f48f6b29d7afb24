"""Which entries of the split ledger are a person's."""

from collections import defaultdict
from pathlib import Path

from llmops.config import Annotate
from llmops.data.annotate.ledger import planned
from llmops.data.annotate.past import TEST, TRAIN, Entry
from llmops.frame.records import Example, content_id
from llmops.privacy.erasure import split_entries
from llmops.privacy.erasure.subject import Subject
from llmops.state.database import database_at

MAIL = "ana@example.org"


def entry(id_: str, wording: str, split: str = TEST, answer: str = "It is lost.", documents: str = "") -> Entry:
    example = Example(
        id=id_, question=wording, answer=answer, group="g", split=split, source="s", location="l", position=id_
    )
    return Entry(0, "", id_, wording, "g", split, wording, example if split == TEST else None, documents or f"d{id_}")


def test_by_words_documents_examples_and_what_the_test_would_carry_in_their_place(tmp_path: Path) -> None:
    """The artifacts of the earlier days are gone, so that nothing else tells whose the earlier answers were."""
    made = dict[str, str]()
    url = f"sqlite:///{tmp_path / 'state.db'}"

    def write(day: str, entries: list[Entry], model: str = "bot") -> None:
        ledger = planned(url, model, Annotate(), day, lambda read: content_id(day, read, model))
        ledger.write(entries)
        made[day] = ledger.fingerprint

    write("002", [entry("old", "parcel"), entry("else", "price"), entry("named", "tea", answer=f"Ask {MAIL}.")])
    write("001", [entry("older", "parcel"), entry("trained", "parcel", TRAIN)])  # a backfill
    write("003", [entry("new", "parcel"), entry("beside", "parcel"), entry("reworded", "lid", documents="d1 dnew")])
    write("004", [entry("next", "parcel"), entry("1005", "table")])  # somebody else's, since the row has left
    write("001", [entry("foreign", "parcel")], model="other")
    database = database_at(url)

    def found(who: str, ids: set[str], examples: set[str]) -> set[str]:
        return {key[2] for key in split_entries.find(database, Subject(who), lambda _: ids, examples)}

    assert found(MAIL, {"dnew"}, set()) == {"named", "new", "reworded", "old", "older"}
    assert found(MAIL, set(), {"new", "trained"}) == {"named", "new", "trained", "old", "older"}
    assert found("1005", set(), set()) == set(), "tested, and stands in the row of a customer's number"
    for day, count in (("003", 4), ("004", 0)):  # a document is theirs in the run that read it
        theirs = defaultdict[str, set[str]](set, {made[day]: {"dnew"}})
        assert len(split_entries.find(database, Subject("Bo Ek"), theirs.__getitem__, set())) == count
    split_entries.forget(database, split_entries.find(database, Subject(MAIL), lambda _: {"dnew"}, set()))
    assert found(MAIL, {"dnew"}, {"old"}) == set()

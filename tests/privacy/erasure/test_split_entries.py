"""Which entries of the split ledger are a person's."""

from collections import defaultdict
from pathlib import Path

from llmops.config import Annotate
from llmops.data.annotate.split_history import TEST, TRAIN, SplitEntry
from llmops.data.annotate.split_ledger import open_split_ledger
from llmops.frame.records import Example, make_content_id
from llmops.privacy.erasure import split_entries
from llmops.privacy.erasure.subject import Subject
from llmops.state.database import database_at

MAIL = "ana@example.org"


def make_entry(
    id_: str, wording: str, split: str = TEST, answer: str = "It is lost.", documents: str = ""
) -> SplitEntry:
    example = Example(
        id=id_, question=wording, answer=answer, group="g", split=split, source="s", location="l", position=id_
    )
    return SplitEntry(
        0, "", id_, wording, "g", split, wording, example if split == TEST else None, documents or f"d{id_}"
    )


def test_by_words_documents_examples_and_what_the_test_would_carry_in_their_place(tmp_path: Path) -> None:
    """The artifacts of the earlier days are gone, so that nothing else tells whose the earlier answers were."""
    made = dict[str, str]()
    url = f"sqlite:///{tmp_path / 'state.db'}"

    def write(day: str, entries: list[SplitEntry], model: str = "bot") -> None:
        ledger = open_split_ledger(url, model, Annotate(), day, lambda read: make_content_id(day, read, model))
        ledger.write(entries)
        made[day] = ledger.fingerprint

    write(
        "002",
        [make_entry("old", "parcel"), make_entry("else", "price"), make_entry("named", "tea", answer=f"Ask {MAIL}.")],
    )
    write("001", [make_entry("older", "parcel"), make_entry("trained", "parcel", TRAIN)])  # a backfill
    write(
        "003",
        [
            make_entry("new", "parcel"),
            make_entry("beside", "parcel"),
            make_entry("reworded", "lid", documents="d1 dnew"),
        ],
    )
    write("004", [make_entry("next", "parcel"), make_entry("1005", "table")])  # somebody else's, since the row has left
    write("001", [make_entry("foreign", "parcel")], model="other")
    database = database_at(url)

    def found(who: str, ids: set[str], examples: set[str]) -> set[str]:
        return {key[2] for key in split_entries.find_entries(database, Subject(who), lambda _: ids, examples)}

    assert found(MAIL, {"dnew"}, set()) == {"named", "new", "reworded", "old", "older"}
    assert found(MAIL, set(), {"new", "trained"}) == {"named", "new", "trained", "old", "older"}
    assert found("1005", set(), set()) == set(), "tested, and stands in the row of a customer's number"
    for day, count in (("003", 4), ("004", 0)):  # a document is theirs in the run that read it
        theirs = defaultdict[str, set[str]](set, {made[day]: {"dnew"}})
        assert len(split_entries.find_entries(database, Subject("Bo Ek"), theirs.__getitem__, set())) == count
    split_entries.forget_entries(
        database, split_entries.find_entries(database, Subject(MAIL), lambda _: {"dnew"}, set())
    )
    assert found(MAIL, {"dnew"}, {"old"}) == set()

"""Following rows where nothing names the person any more, and where a place alone would mislead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmops import artifacts
from llmops.artifacts import Record
from llmops.data.collect import forgotten
from llmops.erasure.subject import Subject
from llmops.erasure.trace import Known, find_rows, trace
from llmops.records import Document, Dropped, Example, content_id, write_rows

MAIL = "ana@example.org"
STAGES = ("collect", "clean", "annotate")


def document(row: int, **parts: str) -> Document:
    place = ("faq", "faq.csv", f"row {row}")
    return Document(id=content_id(*place), source=place[0], location=place[1], position=place[2], **parts)


def example(of: Document, question: str = "", answer: str = "") -> Example:
    return Example(
        id=content_id(of.id, question), question=question or of.question, answer=answer or of.answer, group="g",
        split="train", source=of.source, location=of.location, position=of.position,
    )  # fmt: skip


def finish(root: Path, ref: str, inputs: dict[str, str], **files: list[Any]) -> None:
    path = root / ref
    for name, rows in files.items():
        write_rows(path / f"{name}.parquet", rows, type(rows[0]))
    path.mkdir(parents=True, exist_ok=True)
    stage, key = ref.split("/")
    artifacts.commit(path, Record(stage, key, {}, inputs, "", "", {}, {}, "", "", ""))


def numbers(root: Path) -> dict[str, list[int]]:
    found = trace(root, STAGES, Subject(MAIL))
    return {str(path.relative_to(root)): [row.number for row in rows] for path, rows in found.files.items()}


def test_a_place_is_one_of_its_own_chain(tmp_path: Path) -> None:
    """Row 1 is the person's in one artifact and somebody else's in the next."""
    mine, other = document(1, question=f"I am {MAIL}?", answer="Yes."), document(1, question="Who?", answer="Me.")
    for day, row, redacted in (("a", mine, "I am <EMAIL_ADDRESS>?"), ("b", other, "Who?")):
        finish(tmp_path, f"collect/{day}", {}, documents=[row])
        finish(tmp_path, f"clean/{day}", {"collect": f"collect/{day}"}, **{"documents/part-0": [row]})
        finish(tmp_path, f"annotate/{day}", {"clean": f"clean/{day}"}, train=[example(row, redacted)])
    assert numbers(tmp_path) == {
        "collect/a/documents.parquet": [0],
        "clean/a/documents/part-0.parquet": [0],
        "annotate/a/train.parquet": [0],
    }


def test_what_an_artifact_carries_is_found_though_its_origin_was_made_again_since(tmp_path: Path) -> None:
    mine, others = document(1, question=f"I am {MAIL}?", answer="Yes."), document(2, question="Who?", answer="Me.")
    asked = [example(others), example(mine, "I am <EMAIL_ADDRESS>?")]
    for day, row, examples in (("b", others, asked), ("c", others, asked[:1]), ("a", mine, asked[1:])):
        finish(tmp_path, f"collect/{day}", {}, documents=[row])
        finish(tmp_path, f"clean/{day}", {"collect": f"collect/{day}"}, **{"documents/part-0": [row]})
        finish(tmp_path, f"annotate/{day}", {"clean": f"clean/{day}"}, test=examples)
    found = numbers(tmp_path)
    assert {name: rows for name, rows in found.items() if name.startswith("annotate")} == {
        "annotate/a/test.parquet": [0],
        "annotate/b/test.parquet": [1],
    }


@pytest.mark.parametrize("answered_elsewhere", [False, True])
def test_another_wording_has_the_persons_answer(tmp_path: Path, answered_elsewhere: bool) -> None:
    mine = document(1, question="Where is it?", answer=f"{MAIL} has it.")
    wording = document(2, question="Where did it go?", same_as="Where is it?")
    rows = [mine, wording, document(3, question="Where is it?" if answered_elsewhere else "Why?", answer="There.")]
    finish(tmp_path, "clean/a", {}, **{"documents/part-0": rows})
    train = [example(mine, answer="<EMAIL_ADDRESS> has it."), example(wording, answer="<EMAIL_ADDRESS> has it.")]
    finish(tmp_path, "annotate/a", {"clean": "clean/a"}, train=train)
    found = numbers(tmp_path)
    assert found["clean/a/documents/part-0.parquet"] == [0]  # the wording itself is nobody's
    assert found["annotate/a/train.parquet"] == ([0] if answered_elsewhere else [0, 1])


def test_an_input_that_is_gone_is_told(tmp_path: Path) -> None:
    finish(tmp_path, "clean/a", {"collect": "collect/gone"}, **{"documents/part-0": [document(1, text=MAIL)]})
    found = trace(tmp_path, STAGES, Subject(MAIL))
    assert len(found.files) == 1 and "collect/gone" in found.notes[0]


def test_older_versions_of_a_database_row_go_too(tmp_path: Path) -> None:
    """Else the older one would be the newest of its key."""
    from llmops.erasure.trace import Found

    write_rows(tmp_path / "1_2.parquet", [document(17, text="Ana, before she gave an address")], Document)
    write_rows(tmp_path / "2_3.parquet", [document(17, text=MAIL), document(18, text="other")], Document)
    found = Found()
    find_rows(tmp_path, Subject(MAIL), Known(), found)
    assert {path.name: [row.number for row in rows] for path, rows in found.files.items()} == {
        "1_2.parquet": [0], "2_3.parquet": [0],
    }  # fmt: skip


def test_who_is_in_charge_of_a_source_and_whose_number_is_that_of_a_row_own_none_of_its_rows(tmp_path: Path) -> None:
    finish(tmp_path, "collect/a", {}, documents=[document(1005, text="text", owner=MAIL)])
    assert numbers(tmp_path) == {} and not trace(tmp_path, STAGES, Subject("1005")).files


def test_what_is_forgotten_only_in_its_file_or_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "forgotten.json"
    keyed = forgotten.hasher(path)
    thanks = document(1, question="Thanks!", answer="Welcome.")
    broken = Dropped(id="1", source="s", location="ana.txt", position="row 1", rule="r", detail="", content=f"x {MAIL}")
    forgotten.add(path, [keyed(thanks, "here"), keyed(broken, "hidden")])
    moved = Document(
        id="2", source="faq", location="other.csv", position="row 9", question="Thanks!", answer="Welcome."
    )
    kept, dropped, hidden = forgotten.load(path).without([moved, thanks, broken])
    assert kept is moved
    assert isinstance(dropped, Dropped)
    assert (dropped.rule, dropped.location, dropped.content) == (forgotten.RULE, "faq.csv", "")
    assert isinstance(hidden, Dropped) and (hidden.location, hidden.position) == (forgotten.HIDDEN, "")

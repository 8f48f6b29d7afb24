"""By what an erasure finds an entry of the split ledger: who is named in any row that it was made of, nobody else."""

from __future__ import annotations

import json
from pathlib import Path

from llmops.config import Annotate
from llmops.data.annotate import stage as annotate
from llmops.data.annotate.ledger import planned
from llmops.erasure import split_entries
from llmops.erasure.subject import Subject
from llmops.records import Document, Example, content_id, read_rows, write_rows
from llmops.state.database import database_at

SPLITS = ("train", "validation", "test")


def row(source: str, position: str, location: str = "l", **texts: str) -> Document:
    key = content_id(source, location, position)
    return Document(id=key, source=source, location=location, position=position, **texts)


DOCUMENTS = [
    row("faq", "row 1", question="Where is it?", answer="Ask ana.li@example.org for it.", group="lost"),
    row("faq", "row 2", question="Is it blue?", answer="It is rather green.", group="color", text="seen by Bo  Ek"),
    row("more", "row 1", question="What of its colour?", same_as="Is it blue?", fields=json.dumps({"by": "Cy Oz"})),
    row("chat", "line 1, message 1", question="Is it big?", answer="As a house.", context="I am Di Ek.", group="size"),
    row("chat", "line 1, message 3", question="Is it heavy?", answer="As a feather.", group="weight"),
    row("chat", "line 1, message 5", question="thanks", text="Call (0151) 234-5678 or 99 12345."),
    row("chat", "line 2, message 1", question="Is it old?", answer="As the hills.", group="age"),
    row("shop", "key 4711", fields=json.dumps({"product": "tent", "price": "7", "owner": "Eve O\u2019Neil"})),
    row("file", "row 1", location="chats/fay_li.csv", question="Is it loud?", answer="As a drum.", group="sound"),
]  # fmt: skip
SHOP = {"question": "What does the {product} cost?", "answer": "It costs {price} at most.", "group": "{product}"}


def test_who_is_named_in_what_an_example_was_made_of(url: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "clean" / "documents" / "part-0.parquet", DOCUMENTS, Document)
    config = Annotate(templates={"shop": [SHOP]}, min_test_items=1, test=0.4)
    (tmp_path / "out").mkdir()
    annotate.run(config, clean=tmp_path / "clean", out=tmp_path / "out", ledger=planned(url, "bot", config, "001", str))
    files = [tmp_path / "out" / f"{split}.parquet" for split in SPLITS]
    question = {e.id: e.question for path in files for e in read_rows(path, Example)}
    both = {"Is it big?", "Is it heavy?"}
    for who, theirs in {
        "ana.li@example.org": {"Where is it?"},
        "Ana Li": set(),
        "bo ek": {"Is it blue?", "What of its colour?"},
        "Cy Oz": {"What of its colour?"},
        "Di Ek": both,
        "+0151 2345678": both,
        "99-123-45": both,
        "Eve O'Neil": {"What does the tent cost?"},
        "4711": {"What does the tent cost?"},
        "Fay Li": {"Is it loud?"},
        "Fay Ek": set(),
    }.items():
        assert {question[id] for id in split_entries.named(database_at(url), Subject(who))} == theirs, who


def test_who_is_named_only_later_in_a_row_that_gives_the_same_example(url: str, tmp_path: Path) -> None:
    config = Annotate(min_test_items=1, test=0.4, validation=0.2)
    things = [{"question": f"What is {n}?", "answer": f"It is number {n}.", "group": str(n)} for n in range(20)]
    for day, more in (("001", {}), ("002", {"text": "seen by Bo Ek"}), ("003", {})):
        rows = [row("faq", f"row {n}", **one, **(more if n < 10 else {})) for n, one in enumerate(things)]
        clean, out = tmp_path / day / "clean", tmp_path / day
        write_rows(clean / "documents" / "part-0.parquet", rows, Document)
        ledger = planned(url, "bot", config, day, lambda read, day=day: f"{day} {read}")
        annotate.run(config, clean=clean, out=out, ledger=ledger)
        found = split_entries.named(database_at(url), Subject("Bo Ek"))
        assert len(found) == (0 if day == "001" else 10)
    files = [tmp_path / "001" / f"{split}.parquet" for split in SPLITS]
    assert all(found & {example.id for example in read_rows(path, Example)} for path in files)
    assert {e.id for f in files for e in read_rows(f, Example) if int(e.group) < 10} == found

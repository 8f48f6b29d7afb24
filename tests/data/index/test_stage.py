"""The index of documents, by `run_stage`, and what is found in it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmops import cli, config
from llmops.data.retrieval.search import USUAL_LIKENESS, open_index
from llmops.frame import artifacts
from llmops.frame.artifacts import Record
from llmops.frame.errors import ArtifactError
from llmops.frame.records import Document, make_content_id, write_rows
from llmops.pipeline import pipeline

DAY = "2026-01-31"
MAIL, TOKEN, CARD = "ana.li@example.org", "hf_" + "aB3dE5fG7h" * 3, "4111 1111 1111 1111"
SHOP = {
    "How long does delivery take?": "Delivery takes three to five days within the country.",
    "How long is the guarantee?": "Every kettle comes with a guarantee of two years.",
    "May I return a gift?": "Gifts can be returned within thirty days, with the receipt.",
    "": "The workshop mends tents in winter.",
}
KINDS = {
    "help": "html",
    "old": "html",
    "book": "docx",
    "customers": "csv",
    "catalogue": "xml",
    "mail": "eml",
    "chats": "chat",
}
SOURCES = [{"name": name, "kind": kind, "location": "a"} for name, kind in KINDS.items()]
Made = Callable[..., Path]


def make_page(number: int, **parts: str) -> Document:
    place = {"source": "help", "location": f"{number}.html", "position": "section 1"}
    return Document(**({"id": make_content_id(str(number)), **place} | parts))


def shop(**changed: str) -> list[Document]:
    answers = {q: changed.get(q.partition(" ")[0], a) for q, a in SHOP.items()}
    parts = [{"question": q, "answer": a} if q else {"text": a} for q, a in answers.items()]
    return [make_page(number, **part) for number, part in enumerate(parts, 1)]


@pytest.fixture
def indexed(tmp_path: Path) -> Made:
    """Run the stage on documents, with settings of its section."""

    def run(*documents: Document, redact: Any = None, **index: Any) -> Path:
        clean = tmp_path / "artifacts" / "clean" / make_content_id(*map(repr, documents))
        if not artifacts.is_done(clean):
            write_rows(clean / "documents" / "part-00000.parquet", documents, Document)
            record = Record("clean", clean.name, {}, {}, DAY, "c", {}, {}, git_commit="", started=DAY, finished=DAY)
            artifacts.commit(clean, record)
        sections: dict[str, Any] = {"home": str(tmp_path), "index": {"model": ""} | index}
        sections["collect"] = {"sources": SOURCES}
        sections |= {} if redact is None else {"annotate": {"redact": redact}}
        return pipeline.run_stage("index", config.load(overrides=sections, environ={}), DAY, {"clean": clean})

    return run


def read_all_texts(folder: Path) -> str:
    """Everything that the files of an index hold, as text without case."""
    return "\n".join(path.read_bytes().decode("utf-8", "replace") for path in folder.iterdir()).casefold()


def test_another_wording_finds_the_answer_and_only_changed_documents_are_embedded_again(indexed: Made) -> None:
    model = {"model": "all-MiniLM-L6-v2"}
    first = indexed(*shop(), **model)
    record = artifacts.read_record(first)
    assert record.metrics["embedded"] == len(SHOP) and list(record.inputs) == ["clean"]
    assert record.metrics["likeness"] == {"chosen": USUAL_LIKENESS, "questions": 3}
    with open_index(first) as index:
        best = index.search("When will the parcel reach me?", 1)[0]
        assert best.passage.text == SHOP["How long does delivery take?"] and best.dense == 1
        assert index.search("mended tent", 1)[0].bm25 == 1
    later = indexed(*shop(May="Gifts cannot be returned."), **model)
    assert artifacts.read_record(later).metrics["embedded"] == 1
    before, after = (np.load(folder / "vectors.npy") for folder in (first, later))
    assert (before == after).all(axis=1).tolist() == [True, True, False, True]
    assert np.allclose(np.linalg.norm(after, axis=1), 1, atol=1e-5)
    (first / "index.db").write_bytes(b"damaged")
    (later / "vectors.npy").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="cannot be read"):
        open_index(later)
    assert artifacts.read_record(indexed(*shop()[:2], **model)).metrics["embedded"] == 2  # nothing can be copied


def test_personal_data_and_secrets_are_in_none_of_its_files(indexed: Made) -> None:
    secret = [
        make_page(
            1, question=f"Why did {MAIL} write?", answer=f"To tell the token {TOKEN}.", context=f"Cases › {MAIL}"
        ),
        make_page(3, text="A key.", location=f"{MAIL}.html", position=f"key {MAIL}"),
        make_page(2, text=f"Call +1 415 555 2671. {'The tent is here. ' * 28}My card is {CARD}."),
    ]
    folder = indexed(*secret)
    assert [
        text for text in (MAIL, "ana.li", TOKEN, "555 2671", CARD, "4111") if text.casefold() in read_all_texts(folder)
    ] == []
    assert artifacts.read_record(folder).metrics["redactions"] == {
        "CREDIT_CARD": 1, "EMAIL_ADDRESS": 4, "PHONE_NUMBER": 1, "SECRET": 1,
    }  # fmt: skip
    assert MAIL in read_all_texts(indexed(*secret, redact=[]))


def test_left_out_sources_and_opinions_of_users_are_not_indexed(indexed: Made) -> None:
    def said(number: int, kind: str, accepted: str) -> Document:
        row = json.dumps({"event": "e", "key": "k", "kind": kind, "version": "v1", "accepted": accepted})
        return make_page(number, location="feedback", position=f"key {number}", answer=f"Text {number}.", fields=row)

    documents = [
        make_page(1, text="A tent is light.", source="book"), make_page(2, text="Ana Li, 300 points.", source="old"),
        make_page(3, question="Who?", same_as="Which?"), said(4, "correction", "review"),
        said(5, "correction", "policy"), said(6, "answer", "review"),
        make_page(7, location="feedback", position="key 7", text="A table of that name.", fields='{"kind": "answer"}'),
        make_page(8, text="Bo Ek, Cork.", fields='{"name": "Bo Ek"}', source="customers"),
        make_page(9, text="A kettle, 9 euros.", source="catalogue"),
        make_page(10, question="Where is it?", answer="In Cork, Bo.", source="chats"),
        *(make_page(n, text=f"A {mark} tent.") for n, mark in enumerate(("[Answer]", "####", "<|im_end|>"), 11)),
        make_page(14, question="[Context] What?", answer="A tent."), make_page(15, text="In Cork, Bo.", source="mail"),
    ]  # fmt: skip
    folder = indexed(*documents, leave_out=["old"])
    with open_index(folder) as index:
        assert index.search("points") == [] and index.search("tent")
        assert [hit.passage.text for hit in index.search("text")] == ["Text 4."]
        assert index.search("Cork kettle") == [] and len(index.search("tent")) == 1
    dropped = {"left_out": 5, "nothing_but_a_question": 1, "prompt_marker": 4, "said_by_users": 2}
    metrics = artifacts.read_record(folder).metrics
    assert (metrics["dropped"], metrics["sources"]) == (dropped, {"book": 1, "help": 2})
    every = indexed(*documents, include=["catalogue"])
    with open_index(every) as index:
        assert index.search("points") and index.search("kettle") and index.search("Cork") == []
    os.utime(every / artifacts.RECORD, (1, 1))
    assert indexed(*documents, leave_out=["old"]) == artifacts.find_newest(every.parent) == folder
    with open_index(indexed(*documents, enabled=False)) as index:
        assert index.search("tent") == []
    for field in ("leave_out", "include"):
        with pytest.raises(ValueError, match=f"index.{field} names 'customer'"):
            config.Config(collect={"sources": SOURCES}, index={field: ["customer"]})


def test_a_table_of_contents_is_left_out_and_counted(indexed: Made) -> None:
    titles = [*filter(None, SHOP), "Guide › Who we are"]
    lines = [f"- {title.split(' › ')[-1]}" for title in titles]
    contents = make_page(9, location="index.html", text="\n".join(lines))
    folder = indexed(*shop(), contents, make_page(10, text="A shop of tents.", context=titles[-1]))
    assert artifacts.read_record(folder).metrics["dropped"] == {"table_of_contents": 1}
    with open_index(folder) as index:
        assert all(hit.passage.location != "index.html" for hit in index.search("delivery guarantee gifts", 10))


def test_the_command_searches_the_newest_index_and_counts_it(
    indexed: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = indexed(*shop())

    def said(*words: str, status: int = 0) -> str:
        assert cli.main(["index", *words, "--set", f"home={tmp_path}"]) == status
        done = capsys.readouterr()
        return done.err if status else done.out

    found = said("search", "guarantees")
    assert "1. How long is the guarantee?  (bm25 1)" in found and "help: 2.html, section 1" in found
    assert json.loads(said("search", "guarantees", "--json"))[0]["passage"]["text"].startswith("Every kettle")
    assert said("search", "zebra") == "Nothing was found.\n" and f"{folder}" in said("stats")
    stats = json.loads(said("stats", "--json"))
    assert (stats["documents"], stats["passages"], stats["sources"]) == (4, 4, {"help": 4})
    assert "1 to 1,000" in said("search", "a", "-k", "0", status=1) and "Say what" in said("search", status=1)
    assert "no vectors" in said("search", "a", "--way", "dense", status=1)

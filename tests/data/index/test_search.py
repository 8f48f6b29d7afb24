"""What a search finds, and what not: equal passages, equal scores, lost files, and the index that is asked."""

from __future__ import annotations

import json
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmops import artifacts, cli, config, pipeline
from llmops.artifacts import Record
from llmops.data.index import database, ranking
from llmops.data.index.ranking import CANDIDATES, MOST_HITS, WORDS, fused
from llmops.data.index.search import open_index
from llmops.data.index.terms import terms_of
from llmops.embedding.embedder import Embedder
from llmops.errors import ArtifactError, LlmopsError
from llmops.records import Document, Passage, content_id, read_rows, write_rows

DAY = "2026-01-31"
SAME = "How long does delivery take? Please note that times of delivery in this mail are not binding for us at all."


def page(number: int, text: str, source: str = "help") -> Document:
    place = {"location": f"{number}.html", "position": "section 1"}
    return Document(id=content_id(str(number)), source=source, text=text, **place)


def indexed(home: Path, *documents: Document, **index: Any) -> Path:
    clean = home / "artifacts" / "clean" / content_id(*map(repr, documents))
    if not artifacts.is_done(clean):
        write_rows(clean / "documents" / "part-00000.parquet", documents, Document)
        record = Record("clean", clean.name, {}, {}, DAY, "c", {}, {}, git_commit="", started=DAY, finished=DAY)
        artifacts.commit(clean, record)
    settings = config.load(overrides={"home": str(home), "index": {"model": ""} | index}, environ={})
    return pipeline.run_stage("index", settings, DAY, {"clean": clean})


def told(home: Path, capsys: pytest.CaptureFixture[str], *line: str) -> Any:
    capsys.readouterr()
    assert cli.main(["index", *line, "--json", "--set", f"home={home}"]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_was_taken_out_again_is_not_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The index of before is used again, and made before the one that has it."""
    public, private = page(1, "A voucher is valid for three years."), page(2, "The code of the staff is 77.", "staff")
    first = indexed(tmp_path, public)
    os.utime(first / artifacts.RECORD, (1, 1))
    assert told(tmp_path, capsys, "search", "code") == []
    later = indexed(tmp_path, public, private)
    os.utime(later / artifacts.RECORD, (2, 2))
    assert told(tmp_path, capsys, "search", "code")[0]["passage"]["source"] == "staff"
    assert indexed(tmp_path, public) == first
    assert told(tmp_path, capsys, "search", "code") == []
    assert told(tmp_path, capsys, "stats")["artifact"] == str(first)
    artifacts.amend(later, {"id": "e", "rows": 1})  # an erasure is no use
    assert told(tmp_path, capsys, "stats")["artifact"] == str(first)


def test_a_source_that_is_left_out_again_is_not_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = page(1, "A voucher is valid for three years."), page(2, "Ana Li lives in Bern.", "customers")
    for moment, names in enumerate((["customers"], [], ["customers"]), 1):
        folder = indexed(tmp_path, *both, leave_out=names)
        assert bool(told(tmp_path, capsys, "search", "Ana Li")) == (not names)
        os.utime(folder / artifacts.RECORD, (moment, moment))


@pytest.mark.parametrize("way", ["bm25", "dense", "fused"])
def test_a_text_that_many_pages_have_leaves_room_for_others(tmp_path: Path, way: Any) -> None:
    others = [page(1_000 + n, f"A parcel takes two days to region {n}; delivery may be slow.") for n in range(6)]
    folder = indexed(tmp_path, *(page(n, SAME) for n in range(410)), *others, model="all-MiniLM-L6-v2")
    with open_index(folder) as index:
        for k in (1, 5, 7, 50):
            hits = index.search("How long does delivery take?", k, way)
            assert len(hits) == len({hit.passage.text for hit in hits}) == min(k, 7)
        best, second, *_ = hits
    assert best.passage.text == SAME and (best.bm25 or 1, best.dense or 1) == (1, 1)
    assert 2 in (second.bm25, second.dense)
    assert best.passage.id == min(p.id for p in read_rows(folder / "passages.parquet", Passage) if p.text == SAME)


def test_what_a_page_and_its_pdf_say_is_given_once_but_a_few_words_under_each_heading(tmp_path: Path) -> None:
    def under(heading: str, number: int, text: str) -> Document:
        return replace(page(number, text), context=heading)

    printed = SAME.replace(". ", ".\n").upper()
    others = [
        page(1_000 + n, f"A delivery to region {n} takes {n} days, and may be slow where there is snow.")
        for n in range(3)
    ]
    long = indexed(tmp_path, under("Delivery", 1, SAME), under("The manual, page 7", 2, printed), *others)
    with open_index(long) as index:
        texts = [hit.passage.text for hit in index.search("How long does delivery take?", 3)]
    assert len(texts) == 3 and sum(text.lower().startswith("how long") for text in texts) == 1
    few = indexed(tmp_path, under("The jacket", 3, "It costs 90 euros."), under("The boots", 4, "It costs 90 euros."))
    with open_index(few) as index:
        assert len(index.search("What costs 90 euros?", 3)) == 2


def test_equal_scores_are_in_the_order_of_ids_whatever_is_cut(tmp_path: Path) -> None:
    folder = indexed(tmp_path, *(page(n, f"Voucher x{n:03d} is valid for three years.") for n in range(300)))
    ids = sorted(passage.id for passage in read_rows(folder / "passages.parquet", Passage))
    with open_index(folder) as index:
        for k in (1, 5, 120, MOST_HITS):
            assert [hit.passage.id for hit in index.search("voucher", k)] == ids[:k]


def test_words_that_no_passage_has_keep_no_place_of_those_that_some_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a large index only the rarest words are looked for, and what nobody has written is the rarest of all."""
    monkeypatch.setattr(ranking, "ALONE", (100, 2))
    folder = indexed(tmp_path, *(page(n, f"Voucher x{n:03d} is valid for three years.") for n in range(300)))
    with open_index(folder) as index:
        assert index.search("xyzzy plugh voucher", 5) and not index.search("xyzzy plugh", 5)


@pytest.mark.parametrize("k", ["0", "-3", "1001", "99999999999999999999"])
def test_a_number_of_passages_that_makes_no_sense_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], k: str
) -> None:
    folder = indexed(tmp_path, page(1, "A voucher is valid for three years."))
    assert cli.main(["index", "search", "voucher", "-k", k, "--set", f"home={tmp_path}"]) == 1
    assert f"1 to 1,000 passages; {k} were" in capsys.readouterr().err
    with open_index(folder) as index, pytest.raises(LlmopsError, match="1 to 1,000"):
        index.search("voucher", int(k))


def test_lost_vectors_are_an_error_that_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = indexed(tmp_path, page(1, "A voucher is valid for three years."), model="all-MiniLM-L6-v2")
    (folder / "vectors.npy").unlink()
    with pytest.raises(ArtifactError, match=r"lost its vectors.npy; delete it and run `llmops run index`"):
        open_index(folder)
    assert cli.main(["index", "search", "voucher", "--set", f"home={tmp_path}"]) == 1
    assert "vectors.npy" in capsys.readouterr().err


def test_what_is_left_after_an_erasure_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = indexed(tmp_path, page(1, "A voucher is valid for years."), page(2, "Ana Li lives in Bern.", "customers"))
    before = told(tmp_path, capsys, "stats")
    assert (before["documents"], before["passages"], before["words"]) == (2, 2, 11)
    assert before["sources"] == {"customers": 1, "help": 1}
    passages = list(read_rows(folder / "passages.parquet", Passage))
    gone = {number for number, passage in enumerate(passages) if passage.source != "help"}
    write_rows(folder / "passages.parquet", [p for n, p in enumerate(passages) if n not in gone], Passage)
    database.rewrite(folder, gone)
    artifacts.amend(folder, {"id": "e", "rows": 1})
    after = told(tmp_path, capsys, "stats")
    assert (after["documents"], after["passages"], after["words"], after["sources"]) == (1, 1, 6, {"help": 1})


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ("Ελλάδα", "ΕΛΛΑΔΑ"), ("ёлка", "елка"), ("أحمد كِتَابٌ", "احمد كتاب"), ("שָׁלוֹם", "שלום"),
        ("Ｆｕｌｌ ﬁne", "full fine"), ("ﻛﺘﺎب", "كتاب"), ("d´accord", "D accord"),
    ],
)  # fmt: skip
def test_forms_and_accents_are_aside_in_all_scripts(tmp_path: Path, said: str, asked: str) -> None:
    assert terms_of(said) == terms_of(asked)
    with open_index(indexed(tmp_path, page(1, f"{said}!"), page(2, "Something else."))) as index:
        for question in (said, asked):
            assert [hit.passage.text for hit in index.search(question)] == [f"{said}!"]


def test_vowels_that_are_marks_stay() -> None:
    assert terms_of("हिन्दी") == ["हिन्दी"] and terms_of("क्या") != terms_of("कया")


def test_what_a_heading_asks_counts_once_more_and_other_headings_do_not(tmp_path: Path) -> None:
    asked = "What happens to my deposit when I bring the canoe back late?"
    answer = "Every day that it stays out takes nine euros of it, until nothing is left."
    place = {"source": "help", "location": "1.html", "position": "1"}
    documents = [
        Document(id="a", context="Rental", question=asked, answer=answer, **place),
        Document(id="b", context="Rental › Late canoes and deposits", text=answer, **place),
        Document(id="c", text=answer, **place),
    ]
    folder = indexed(tmp_path, *documents, model="all-MiniLM-L6-v2")
    found = {p.document: p for p in read_rows(folder / "passages.parquet", Passage)}
    rows = dict(zip([p.document for p in read_rows(folder / "passages.parquet", Passage)],
                    np.load(folder / "vectors.npy"), strict=True))  # fmt: skip
    with closing(Embedder(1)) as model:
        whole = dict(zip(found, model.embed(["\n".join(filter(None, (p.headings, p.text))) for p in found.values()]),
                         strict=True))  # fmt: skip
        question, like = model.embed([asked, "I return the boat after the agreed day. Do I lose the security?"])
    for one in "bc":
        assert np.allclose(rows[one], whole[one], atol=1e-5)
    assert all(abs(np.linalg.norm(row) - 1) < 1e-5 for row in rows.values())
    assert rows["a"] @ question > whole["a"] @ question and rows["a"] @ like > whole["a"] @ like
    with open_index(folder) as index:
        hit, *others = index.search(asked)
    assert hit.passage.document == "a" and hit.likeness == pytest.approx(float(rows["a"] @ question), abs=1e-4)
    assert hit.score == pytest.approx(hit.likeness + WORDS, abs=1e-4) and len(others) == 2


def test_how_many_are_asked_for_changes_nothing_of_the_first(tmp_path: Path) -> None:
    kinds, ends = ("tent", "lamp", "canoe", "stove", "rope"), ("is light", "was mended twice", "costs much", "is red")
    pages = [page(n, f"The {kinds[n % 5]} {n} {ends[n % 4]}, see shelf {n % 7}.") for n in range(260)]
    with open_index(indexed(tmp_path, *pages, model="all-MiniLM-L6-v2")) as index:
        for question in ("Which lamp is light?", "shelf 3", "canoe"):
            whole = index.search(question, 100)
            assert len(whole) == 100 and all(hit.likeness is not None for hit in whole)
            for k in (1, 5, 26, 60):
                told = index.search(question, k)
                assert [hit.passage.id for hit in told] == [hit.passage.id for hit in whole[:k]]
                assert [hit.score for hit in told] == pytest.approx([hit.score for hit in whole[:k]])
            assert all(hit.likeness is None for hit in index.search(question, 5, "bm25"))


def test_words_add_a_tenth_at_most_and_nothing_to_what_is_not_among_the_best() -> None:
    def said(number: int) -> tuple[str, str]:
        return "", str(number)

    few = fused({said(0): 8.0, said(1): 2.0}, {said(n): 0.5 for n in range(3)})
    assert few == pytest.approx({said(0): 0.5 + WORDS, said(1): 0.5 + WORDS / 4, said(2): 0.5})
    many = {said(n): 200.0 - n for n in range(CANDIDATES + 20)}
    scores = fused(many, {said(n): 0.0 for n in range(CANDIDATES + 40)})
    assert scores[said(0)] == WORDS and scores[said(CANDIDATES - 2)] > 0
    assert {scores[said(n)] for n in range(CANDIDATES - 1, CANDIDATES + 40)} == {0.0}
    alike = fused(dict.fromkeys(many, 3.0), {said(0): 0.1, said(999): 0.1})
    assert alike == pytest.approx({said(0): 0.1 + WORDS, said(999): 0.1})
    assert fused({}, {said(0): -0.2}) == {said(0): -0.2}


def test_a_damaged_page_of_the_database_is_told_of(tmp_path: Path) -> None:
    folder = indexed(tmp_path, *(page(n, f"A voucher number {n} is valid for three years.") for n in range(200)))
    file = folder / database.DATABASE
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))
    with pytest.raises(ArtifactError), open_index(folder) as opened:
        opened.search("voucher")

"""Which passages a search finds, and in which order."""

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from llmops.data.retrieval import file_store, search
from llmops.data.retrieval.file_store import FileStore, create_vectors, open_database, open_vectors, write_passages
from llmops.data.retrieval.minilm import DIMENSIONS
from llmops.data.retrieval.search import Index
from llmops.data.retrieval.terms import extract_terms
from llmops.frame.errors import ArtifactError, LlmopsError
from llmops.frame.records import Passage

LONG = "Please note that times of delivery in this mail are not binding for us at all, and may change any day."
PLACE = {"source": "help", "location": "a.html", "position": "1"}


def make_index(folder: Path, *texts: str, directions: Sequence[int] = ()) -> Index:
    """Return an index of texts, as `heading | text`; the vector of each points along the axis of `directions`."""
    parts = [text.rpartition(" | ")[::2] for text in texts]
    rows = [
        Passage(id=str(n), document="d", headings=above, text=text, **PLACE) for n, (above, text) in enumerate(parts)
    ]
    number = write_passages(folder, rows)
    if not directions:
        return Index(FileStore(open_database(folder), None))
    create_vectors(folder, number)[:] = np.eye(DIMENSIONS, dtype=np.float32)[list(directions)]
    return open_test_index(folder, number)


def open_test_index(folder: Path, number: int) -> Index:
    """Return an index of so many passages; a question is nearer to a passage, the lower the axis of its vector is."""
    index, asked = Index(FileStore(open_database(folder), open_vectors(folder, number))), Future[object]()
    asked.set_result(np.linspace(1, 0, DIMENSIONS, dtype=np.float32)[None])
    index.__dict__["embedder"] = SimpleNamespace(submit=lambda texts: asked, close=lambda: None)
    return index


def find_texts(index: Index, question: str, k: int = 5, way: search.SearchMethod = "fused") -> list[str]:
    return [hit.passage.text for hit in index.search(question, k, way)]


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("Vouchers are running out.", "voucher runs"), ("Ελλάδα", "ΕΛΛΑΔΑ"), ("ёлка", "елка"),
        ("naïve cafés", "NAIVE CAFE"), ("أحمد كِتَابٌ", "احمد كتاب"), ("שָׁלוֹם", "שלום"), ("Ｆｕｌｌ ﬁne", "full fine"),
        ("如何退货需要几天", "退货"), ("don't", "don't"),
    ],
)  # fmt: skip
def test_words_are_found_in_any_form_and_script(tmp_path: Path, text: str, question: str) -> None:
    assert find_texts(make_index(tmp_path, f"{text}!", "Something else."), question) == [f"{text}!"]
    assert extract_terms("हिन्दी") == ["हिन्दी"] and extract_terms("क्या") != extract_terms(
        "कया"
    )  # these marks are vowels


@pytest.mark.parametrize(
    "question", ["", " ", "?", '"', "NEAR(a b)", "voucher*", "-voucher", "x" * 300, "\ud83d", "voucher " * 100, "a:b"]
)
def test_any_question_can_be_asked(tmp_path: Path, question: str) -> None:
    assert find_texts(make_index(tmp_path, "One voucher."), question) == (
        ["One voucher."] if "voucher" in question else []
    )


def test_both_ranks_count_and_the_vector_twice(tmp_path: Path) -> None:
    index = make_index(tmp_path, "kettle kettle", "a lamp", "a kettle and a lamp", "tent", directions=(3, 1, 2, 9))
    assert find_texts(index, "kettle", way="bm25") == ["kettle kettle", "a kettle and a lamp"]
    assert find_texts(index, "kettle", way="dense") == ["a lamp", "a kettle and a lamp", "kettle kettle", "tent"]
    best, *_ = hits = index.search("kettle")
    assert (best.passage.text, best.bm25, best.dense) == ("a kettle and a lamp", 2, 2)
    assert best.score == pytest.approx(0.5 / 12 + 1 / 12) and best.likeness == pytest.approx(1 - 2 / 383)
    assert [hit.passage.text for hit in hits][1:] == ["kettle kettle", "a lamp", "tent"]
    assert [hit.likeness for hit in index.search("чайник kettle что это такое")] == [None, None]


def test_the_nearest_passages_are_found_without_comparing_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, asked = np.random.default_rng(0), 7
    vectors = (
        rng.standard_normal((30, DIMENSIONS), np.float32)[np.arange(3_000) % 30] + 3
    )  # 30 subjects, off the origin
    vectors += rng.standard_normal(vectors.shape, np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    monkeypatch.setattr(file_store, "MAX_COMPARED", 150)
    write_passages(tmp_path, [])
    store = FileStore(open_database(tmp_path), vectors)
    numbers, find_likeness = store.search_vector(vectors[asked], 30)
    exact = np.argsort(-(vectors @ vectors[asked]), kind="stable")[:30].tolist()
    assert numbers[0] == asked and len({*numbers} & {*exact}) >= 28
    assert [find_likeness(number) for number in numbers] == pytest.approx(vectors[numbers] @ vectors[asked])
    assert find_likeness(asked + 1) == pytest.approx(vectors[asked + 1] @ vectors[asked])  # it is not among the nearest
    store.close()


def test_a_question_that_was_embedded_with_others_is_not_embedded_again(tmp_path: Path) -> None:
    index = make_index(tmp_path, "kettle kettle", "a lamp", "a kettle and a lamp", directions=(3, 1, 2))
    hits, vectors = index.search("kettle"), np.linspace((1, 0), (0, 1), DIMENSIONS, dtype=np.float32).T
    index.__dict__["embedder"] = SimpleNamespace(embed=lambda texts: vectors[: len(texts)])
    near, far = index.embed(["kettle", "lamp"])
    assert index.search("kettle", vector=near) == hits != index.search("kettle", vector=far)


def test_a_text_of_several_pages_is_found_once_but_a_few_words_under_each_heading(tmp_path: Path) -> None:
    costs = ("Jacket | It costs 90 euros.", "Boots | It costs 90 euros.", "Boots | It costs 90 euros.")
    index = make_index(tmp_path, LONG, f"The manual | {LONG.upper()}", *costs)
    assert find_texts(index, "delivery") == [LONG]
    assert [hit.passage.headings for hit in index.search("90 euros")] == ["Jacket", "Boots"]


def test_of_many_words_the_rarest_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_store, "MAX_RANKED", 3)
    index = make_index(tmp_path, *(f"Voucher x{n} is valid." for n in range(9)), "A kettle.")
    assert find_texts(index, "valid voucher of x7 xyzzy") == ["Voucher x7 is valid."]
    assert len(find_texts(index, "valid xyzzy", 9)) == 9  # one word in any case


def test_impossible_searches_and_damaged_files_are_errors(tmp_path: Path) -> None:
    index = make_index(tmp_path, "A voucher.")
    with pytest.raises(LlmopsError, match="1 to 1,000"):
        index.search("voucher", 1_001)
    with pytest.raises(LlmopsError, match="no vectors"):
        index.search("voucher", 5, "dense")
    create_vectors(tmp_path, 2)
    with pytest.raises(ArtifactError, match=r"1 passages and vectors of the shape \(2, 384\)"):
        open_vectors(tmp_path, 1)

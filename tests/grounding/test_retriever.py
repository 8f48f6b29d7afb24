"""What a model is told of a question: good passages, few enough, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmops import artifacts, config, pipeline
from llmops.artifacts import Record
from llmops.config import Grounding
from llmops.grounding.retriever import Retriever, context_of
from llmops.records import Document, content_id, write_rows

DAY = "2026-01-31"
SAID = {
    "How long does delivery take?": "Delivery takes three to five days within the country.",
    "How long is the guarantee?": "Every kettle comes with a guarantee of two years.",
    "May I return a gift?": "Gifts can be returned within thirty days, with the receipt.",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    documents = [
        Document(id=content_id(q), source="faq", location="faq.csv", position=f"row {n}", question=q, answer=a)
        for n, (q, a) in enumerate(SAID.items(), 1)
    ]
    clean = home / "artifacts" / "clean" / "c"
    write_rows(clean / "documents" / "part-00000.parquet", documents, Document)
    record = Record("clean", "c", {}, {}, DAY, "c", {}, {}, git_commit="", started=DAY, finished=DAY)
    artifacts.commit(clean, record)
    return home


@pytest.fixture(scope="module")
def retriever(home: Path) -> Iterator[Retriever]:
    with Retriever(indexed(home), Grounding()) as retriever:
        yield retriever


def indexed(home: Path, **index: object) -> Path:
    settings = config.load(overrides={"home": str(home), "index": index}, environ={})
    return pipeline.run_stage("index", settings, DAY, {"clean": home / "artifacts" / "clean" / "c"})


def test_another_wording_finds_what_answers_it_and_another_topic_finds_nothing(retriever: Retriever) -> None:
    found = retriever.find("How many days until the delivery arrives?")
    assert found[0].passage.text == "Delivery takes three to five days within the country."
    assert context_of(found).startswith(f"{found[0].passage.headings}: Delivery takes three to five days")
    assert retriever.find("Who won the chess tournament of 1972?") == []
    assert retriever.find("???") == []


def test_the_nearest_passage_decides_whatever_is_given(home: Path) -> None:
    """By its words another passage may come first."""
    with Retriever(indexed(home), Grounding(passages=1)) as one, Retriever(indexed(home), Grounding()) as three:
        for question in [*SAID, "days of delivery, gifts, a receipt", "Who won the chess tournament of 1972?"]:
            assert one.look(question).likeness == three.look(question).likeness
            assert bool(one.find(question)) is bool(three.find(question))


@pytest.mark.parametrize("question", ["Кто выиграл турнир?", "谁赢了一九七二年的国际象棋锦标赛", "ማን አሸነፈ"])
def test_in_a_script_that_the_model_hardly_knows_words_decide(retriever: Retriever, question: str) -> None:
    found = retriever.look(question)
    assert (found.hits, found.likeness) == ([], None)
    assert retriever.find(f"{question} 谁赢了 guarantee")[0].passage.position == "row 2"


def test_no_more_words_than_may_be_but_one_passage(home: Path) -> None:
    with Retriever(indexed(home), Grounding(words=20, likeness=0)) as few:
        assert len(few.find("delivery of gifts and kettles")) == 1
    with Retriever(indexed(home), Grounding(passages=2, likeness=0)) as two:
        assert len(two.find("delivery of gifts and kettles")) == 2


def test_without_vectors_words_decide(home: Path) -> None:
    with Retriever(indexed(home, model=""), Grounding()) as retriever:
        assert [hit.passage.position for hit in retriever.find("the guarantee of a kettle")][0] == "row 2"
        assert retriever.find("chess") == []


def test_many_may_ask_at_once(retriever: Retriever) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(retriever.find, list(SAID) * 8))
    assert [hits[0].passage.text for hits in found] == list(SAID.values()) * 8

"""What the benchmark of retrieval asks, whom, and how it counts; small."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Script = Callable[[str], ModuleType]


def test_the_first_right_document_counts(script: Script) -> None:
    quality = script("retrieval").quality
    found = [["a", "b"], ["x", "x", "x", "x", "b"], ["x"] * 5 + ["a"], ["x"], []]
    assert quality(found, [["a", "b"], ["b"], ["a"], ["a"], ["a"]]) == pytest.approx(
        {"recall@1": 0.2, "recall@5": 0.4, "MRR": (1 + 1 / 5 + 1 / 6) / 5}
    )
    with pytest.raises(script("peers").ArmFailedError, match="1 of 2"):
        quality([["a"]], [["a"], ["b"]])


def test_wordings_are_asked_of_the_answers_that_they_are_about(script: Script, tmp_path: Path) -> None:
    indexes, retrieval = script("indexes"), script("retrieval")
    (tmp_path / "covid_faq.csv").write_text("question,answer\nWho?,A doctor.\nWhy?,To stay well.\n")
    rows = "question_1,question_2,similar\nWho is it?,Who?,1\nWhy?,What for?,1\nWho?,Why?,1\nWhy?,When?,0\n"
    (tmp_path / "covid_paraphrases.csv").write_text(rows)
    topics = indexes.covid(tmp_path)
    assert [(topic.answer, topic.wordings) for topic in topics] == [
        ("A doctor.", ("Who is it?",)),
        ("To stay well.", ("What for?",)),
    ]
    pairs = indexes.indexed(topics, tmp_path / "faq", questions=True)
    assert [wording for wording, _ in pairs] == ["What for?", "Who is it?"]
    found = retrieval.ours(tmp_path / "faq", [wording for wording, _ in pairs], 10, made_up=False)
    assert set(found) == set(retrieval.WAYS)
    assert retrieval.quality(found["fused"]["documents"], [right for _, right in pairs])["recall@5"] == 1
    with pytest.raises(script("peers").ArmFailedError, match="has no"):
        indexes.covid(tmp_path / "faq")


def test_the_shop_is_asked_in_other_words(script: Script) -> None:
    topics = script("indexes").shop()
    assert len(topics) > 50 and all(topic.answer and topic.wordings for topic in topics)


def test_made_up_passages_are_searched_like_any(script: Script, tmp_path: Path) -> None:
    indexes, retrieval = script("indexes"), script("retrieval")
    questions, seconds = indexes.made_up(tmp_path / "some", 120, 6)
    found = retrieval.ours(tmp_path / "some", questions, 5, made_up=True)
    assert seconds > 0 and len(questions) == 6
    for way in found.values():
        assert len(way["seconds"]) == 6 and all(0 < len(ids) <= 5 for ids in way["documents"])

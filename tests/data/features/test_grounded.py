"""Training examples with the passages that retrieval gives."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from llmops.config import Features, Grounding
from llmops.data.features.examples import read_offline
from llmops.data.features.grounded import documents_of_test, with_passages
from llmops.data.features.online import read_online
from llmops.data.features.stage import run
from llmops.data.retrieval.files import write_passages
from llmops.data.retrieval.grounds import REFUSAL, look_up
from llmops.data.retrieval.search import open_index
from llmops.frame import artifacts
from llmops.frame.artifacts import Record
from llmops.frame.records import Example, Passage, content_id
from llmops.prompts import training_ids

CONFIG = Grounding(passages=2)
TEXTS = {
    "row 1": "Delivery takes three days.",
    "row 2": "Delivery to Rome takes a week, and how long customs take is unknown.",
    "row 3": "They end in May.",
}
HEADED = f"Until when are vouchers valid for delivery?: {TEXTS['row 3']}"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return indexed(tmp_path / "index" / "i1", TEXTS)


def indexed(folder: Path, texts: dict[str, str]) -> Path:
    """Make an index that is searched by words alone."""
    folder.mkdir(parents=True)
    rows = []
    for position, text in texts.items():
        at = {"source": "pages", "location": "help.html", "position": position}
        headings = HEADED.partition(": ")[0] if position == "row 3" else ""
        rows.append(Passage(id=position, document=content_id(*at.values()), headings=headings, text=text, **at))
    metrics = {"passages": write_passages(folder, rows), "model": ""}
    artifacts.commit(folder, Record("index", folder.name, {}, {}, "", "", metrics, {}, "", "", ""))
    return folder


def grounded_of(index: Path, make: Any, count: int, window: int = 2048, **given: Any) -> list[Example]:
    at = {"source": "pages", "location": "help.html", "context": "Shop › Help", **given}
    made = [make.example(n, group="topic", **at) for n in range(count)]
    annotate = make.annotate(index.parents[1], train=made)
    with open_index(index) as opened:
        tested = documents_of_test(index, annotate)
        return list(with_passages(made, opened, index, annotate, frozenset({"faq"}), tested, CONFIG, window))


def test_the_context_is_what_serving_gives_and_sometimes_lacks_the_right_passage(index: Path, make: Any) -> None:
    asked = {"question": "How long does delivery take?", "answer": "Three days.", "position": "row 1"}
    found = grounded_of(index, make, 200, **asked)
    without = [one for one in found if one.answer == REFUSAL]
    assert {one.context for one in without} == {f"{TEXTS['row 2']}\n{HEADED}"} and 8 <= len(without) <= 35
    with open_index(index) as opened:
        served = look_up(opened, asked["question"], CONFIG, CONFIG.room).context
    assert {one.context for one in found if one.answer != REFUSAL} == {served}


@pytest.mark.parametrize("question", ["How long does delivery take?", "Until when are vouchers valid for delivery?"])
def test_the_right_passage_stands_anywhere_if_it_is_missed_or_headed_by_the_question(
    index: Path, make: Any, question: str
) -> None:
    found = grounded_of(index, make, 80, question=question, answer="In May.", position="row 3")
    lines = [one.context.split("\n") for one in found if one.answer != REFUSAL]
    assert {n for some in lines for n, one in enumerate(some) if one.endswith(TEXTS["row 3"])} == {0, 1}
    assert {one for some in lines for one in some if one.endswith(TEXTS["row 3"])} == (
        {HEADED} if question.startswith("How") else {HEADED, TEXTS["row 3"]}
    )


def test_the_stage_grounds_all_but_the_test_and_no_passage_answers_the_test(
    index: Path, make: Any, tmp_path: Path
) -> None:
    place = {"source": "pages", "location": "help.html"}
    known = {"answer": "Three days.", "group": "topic"}
    train = [make.example(1, position="row 1", **known, **place)]
    other = make.example(2, "validation", question="Until when does it take?", **known)  # the rewording of row 1
    test = [make.example(9, "test", answer="In May.", position="row 3", **place)]
    words = tuple({*re.findall(r"\w+|[^\w\s]+", f"{[*TEXTS.values()]} {HEADED} {other} [Context] [Question]")})
    given = {"annotate": make.annotate(tmp_path / "annotate", train=train, validation=[other], test=test)}
    given |= {"select": make.select(tmp_path / "select", words)}
    for out, some in (
        ("features", index),
        ("later", indexed(tmp_path / "index" / "i2", {"row 1": "It takes a week."})),
    ):
        run(Features(store=tmp_path / "feast"), **given, index=some, out=tmp_path / out, grounding=CONFIG)
    assert read_online(tmp_path / "features", ["id2"]) == [*read_offline(tmp_path / "features", "validation")]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "select" / "base")
    for split, item, contexts in (
        ("validation", other, [f"{TEXTS['row 1']}\n{TEXTS['row 2']}", f"{TEXTS['row 2']}\n{TEXTS['row 1']}"]),
        ("test", test[0], [""]),
    ):
        (tokens,) = read_offline(tmp_path / "features", split)
        rendered = [training_ids(tokenizer, item.question, item.answer, context)[0] for context in contexts]
        assert tokens.token_ids in rendered


@pytest.mark.parametrize(
    "kept",
    [
        {"source": "faq", "context": "Sent to Rome.", "position": "row 1"},  # callers send such a context
        {"position": "row 9"},  # not indexed
        {"position": "row 1", "window": 180},  # no room
    ],
)
def test_other_examples_stay_as_they_are(index: Path, make: Any, kept: dict[str, Any]) -> None:
    (found,) = grounded_of(index, make, 1, question="How long does delivery take?", answer="It varies.", **kept)
    assert found.context == kept.get("context", "Shop › Help") and found.answer == "It varies."

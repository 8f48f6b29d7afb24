"""Training examples with the passages that retrieval gives."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from llmops.config import Features, Grounding
from llmops.data.features import declarations
from llmops.data.features.examples import read_offline
from llmops.data.features.grounded_examples import GROUNDED, NOT_IN_PASSAGES, REFUSED, Retrieval, add_passages
from llmops.data.features.online import read_online
from llmops.data.features.stage import run
from llmops.data.retrieval.example_passages import ExamplePassages
from llmops.data.retrieval.file_store import write_passages
from llmops.data.retrieval.grounding import REFUSAL, retrieve_context
from llmops.data.retrieval.search import Index, open_index
from llmops.frame import artifacts
from llmops.frame.artifacts import Record
from llmops.frame.records import Example, Passage, make_content_id
from llmops.prompts import encode_example

CONFIG = Grounding(passages=2)
TEXTS = {
    "row 1": "Delivery takes three days.",
    "row 2": "Delivery to Rome takes a week, and how long customs take is unknown.",
    "row 3": "They end in May.",
}
HEADED = f"Until when are vouchers valid for delivery?: {TEXTS['row 3']}"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return make_index(tmp_path / "index" / "i1", TEXTS)


def make_index(folder: Path, texts: dict[str, str]) -> Path:
    """Make an index that is searched by words alone; of `4.1` and `4.2`, `4` is the document."""
    folder.mkdir(parents=True)
    rows = []
    for position, text in texts.items():
        at = {"source": "pages", "location": "help.html", "position": position.partition(".")[0]}
        headings = HEADED.partition(": ")[0] if position == "row 3" else ""
        rows.append(Passage(id=position, document=make_content_id(*at.values()), headings=headings, text=text, **at))
    metrics = {"passages": write_passages(folder, rows), "model": ""}
    artifacts.commit(folder, Record("index", folder.name, {}, {}, "", "", metrics, {}, "", "", ""))
    return folder


def add_to_examples(
    index: Path, make: Any, count: int, window: int = 2048, words: int = 999, config: Grounding = CONFIG, **given: Any
) -> list[tuple[Example, str]]:
    """Add passages to `count` examples, which may have so many `words`."""
    at = {"source": "pages", "location": "help.html", "context": "Shop › Help", **given}
    made = [make.example(n, group="topic", **at) for n in range(count)]
    annotate = make.annotate(index.parents[1], train=made)

    def fits(one: Example) -> bool:
        return len(f"{one.question} {one.answer} {one.context}".split()) <= words

    with open_index(index) as opened, closing(ExamplePassages(index, annotate)) as own:
        return list(add_passages(made, Retrieval(opened, own, (), {"faq"}, config, window, fits)))


def make_grounded(index: Path, make: Any, count: int, **given: Any) -> list[Example]:
    return [one for one, _ in add_to_examples(index, make, count, **given)]


def test_the_context_is_what_serving_gives_and_sometimes_lacks_the_right_passage(
    index: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, embed = list[int](), Index.embed
    monkeypatch.setattr(Index, "embed", lambda self, asked: together.append(len(asked)) or embed(self, asked))
    asked = {"question": "How long does delivery take?", "answer": "Three days.", "position": "row 1"}
    found = make_grounded(index, make, 200, **asked)
    without = [one for one in found if one.answer == REFUSAL]
    assert {one.context for one in without} == {f"{TEXTS['row 2']}\n{HEADED}"} and 8 <= len(without) <= 35
    with open_index(index) as opened:
        served = retrieve_context(opened, asked["question"], CONFIG, CONFIG.room).context
    assert {one.context for one in found if one.answer != REFUSAL} == {served} and together == [200]


@pytest.mark.parametrize("question", ["How long does delivery take?", "Until when are vouchers valid for delivery?"])
def test_the_right_passage_stands_anywhere_if_it_is_missed_or_headed_by_the_question(
    index: Path, make: Any, question: str
) -> None:
    found = make_grounded(index, make, 80, question=question, answer="In May.", position="row 3")
    lines = [one.context.split("\n") for one in found if one.answer != REFUSAL]
    assert {n for some in lines for n, one in enumerate(some) if one.endswith(TEXTS["row 3"])} == {0, 1}
    assert {one for some in lines for one in some if one.endswith(TEXTS["row 3"])} == (
        {HEADED} if question.startswith("How") else {HEADED, TEXTS["row 3"]}
    )


def test_passages_that_hold_the_answer_stay_and_the_others_give_way(tmp_path: Path, make: Any) -> None:
    parts = {"4.1": "Tents weigh four kilos.", "4.2": "Boots weigh nothing.", "4.3": "Their pegs weigh more."}
    index = make_index(tmp_path / "index" / "i1", {"row 1": "What does a tent weigh? Tent, tent, weigh.", **parts})
    asked = {"question": "What does a tent weigh?", "position": "4", "config": Grounding(passages=3)}

    def list_contexts(words: int, **given: Any) -> set[tuple[str, str]]:
        return {(one.context, made) for one, made in add_to_examples(index, make, 60, words=words, **asked, **given)}

    long = {"answer": "Tents weigh four kilos. Their pegs weigh more."}
    other, first, _, last = (TEXT for TEXT in ("What does a tent weigh? Tent, tent, weigh.", *parts.values()))
    right = f"{first}\n{last}"
    assert list_contexts(99, **long) == {
        (f"{other}\n{right}", GROUNDED), (f"{right}\n{other}", GROUNDED), (other, REFUSED)
    }  # fmt: skip
    assert list_contexts(21, **long) == {(right, GROUNDED), (other, REFUSED)}
    # One of the two passages would not be enough.
    assert list_contexts(20, **long) == {("Shop › Help", NOT_IN_PASSAGES), (other, REFUSED)}
    assert list_contexts(14, answer=first) == {(first, GROUNDED)}  # the refusal is longer
    assert list_contexts(12, answer=first) == {("Shop › Help", NOT_IN_PASSAGES)}
    assert list_contexts(99, answer="Feathers, mostly.") == {("Shop › Help", NOT_IN_PASSAGES), (other, REFUSED)}
    # The other passage has the words of the answer, too.
    assert {made for _, made in list_contexts(99, answer="A tent does weigh.")} == {GROUNDED}


def test_an_examples_own_document_comes_first_and_none_is_looked_for_in_all_passages(index: Path, make: Any) -> None:
    origin = {"group": "topic", "answer": "Three days.", "source": "pages", "location": "help.html"}
    rows = [make.example(n, position=position, **origin) for n, position in enumerate(("row 2", "row 1", "row 8"))]
    with closing(ExamplePassages(index, make.annotate(index.parents[1], train=rows))) as own:
        assert [one.id for one in own.find_passages(rows[1])] == ["row 1", "row 2"]
        plan = "EXPLAIN QUERY PLAN SELECT * FROM passages WHERE document = ? ORDER BY number"
        ((*_, how),) = own._database.execute(plan, ("d",))
    assert "by_document" in how


def test_the_stage_grounds_all_but_the_test_and_no_passage_answers_the_test(
    index: Path, make: Any, tmp_path: Path
) -> None:
    origin = {"source": "pages", "location": "help.html"}
    known = {"answer": "Three days.", "group": "topic"}
    train = [make.example(1, position="row 1", **known, **origin)]
    other = make.example(2, "validation", question="Until when does it take?", **known)  # the rewording of row 1
    test = [make.example(9, "test", answer="In May.", position="row 3", **origin)]
    held = make.example(3, position="row 2", source="pages", location="help.html", answer="Nobody said so.")
    words = tuple({*re.findall(r"\w+|[^\w\s]+", f"{[*TEXTS.values()]} {HEADED} {other} {held} [Context] [Question]")})
    given = {"annotate": make.annotate(tmp_path / "annotate", train=[*train, held], validation=[other], test=test)}
    given |= {"select": make.select(tmp_path / "select", words), "grounding": CONFIG}
    config, tokenizer = Features(store=tmp_path / "feast"), AutoTokenizer.from_pretrained(tmp_path / "select" / "base")
    empty = make_index(tmp_path / "index" / "i2", {})
    indexes = {"features": index, "off": empty}
    found = {name: run(config, **given, index=some, out=tmp_path / name) for name, some in indexes.items()}
    assert found["off"].keys() == found["features"].keys() - {"prompts"}
    assert found["features"]["prompts"] == {GROUNDED: 2} and found["features"]["dropped"] == {NOT_IN_PASSAGES: 1}
    rows = [pq.read_table(tmp_path / name / "features.parquet").to_pylist() for name in found]
    assert rows[0] == [row for row in rows[1] if row["input_id"] != held.id]  # no passage in Feast
    (asked,) = read_online(tmp_path / "features", [other.id])
    assert asked and asked.token_ids == encode_example(tokenizer, other.question, other.answer, other.context)[0]
    probe = json.dumps(encode_example(tokenizer, "question", "answer", "context"))
    parts = "select", str(config.max_tokens), declarations.hash_repository(config), probe
    for name in found:  # a project of its own for each index would be a copy of the online rows
        assert declarations.open_store(tmp_path / name).project == f"llmops_{make_content_id(*parts)}"
    for split, item, contexts in (
        ("validation", other, [f"{TEXTS['row 1']}\n{TEXTS['row 2']}", f"{TEXTS['row 2']}\n{TEXTS['row 1']}"]),
        ("test", test[0], [""]),
    ):
        (tokens,) = read_offline(tmp_path / "features", split)
        rendered = [encode_example(tokenizer, item.question, item.answer, context)[0] for context in contexts]
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
    (found,) = make_grounded(index, make, 1, question="How long does delivery take?", answer="It varies.", **kept)
    assert found.context == kept.get("context", "Shop › Help") and found.answer == "It varies."

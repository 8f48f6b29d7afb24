"""The frozen test with documents: what models read, which answers are refusals, and the figures of the retrieval."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from llmops.config import Collect, Evaluate, Grounding
from llmops.data.retrieval.file_store import write_passages
from llmops.data.retrieval.grounding import REFUSAL
from llmops.frame import artifacts
from llmops.frame.artifacts import Record, write_json
from llmops.frame.records import Example, Passage, make_content_id, write_rows
from llmops.model.evaluate import stage as evaluate
from llmops.model.evaluate.retrieval import ground_test
from llmops.model.scoring import answers
from llmops.model.scoring.answers import QuestionSet
from tests.model.samples import make_example

ITEMS = [
    make_example(0, "test", question="How long does delivery take?", context="Shop › Delivery", source="pages"),
    make_example(
        2, "test", question="Until when are vouchers valid?", answer="In  May.", group="t"
    ),  # row 9 in other words
    make_example(4, "test", question="Zebras?"),
    make_example(6, "test", question="How long does delivery take?", context="It was sent to Rome."),
    make_example(8, "test", question="Xylophones?", answer="Pianos."),
]
OWN_CONTEXT = ITEMS[3].context
COLLECT = Collect(sources=[{"name": "faq", "kind": "csv", "location": "faq.csv"}])
TEXTS = {
    "row 0": "Delivery takes three days.",
    "row 9": "All vouchers end in May.",
    "row 1": "Valid are vouchers until when they end.",  # another document, which has more of the question's words
    "row 8": "Pianos are heavy.",
}


@pytest.fixture
def data_paths(tmp_path: Path) -> dict[str, Path]:
    """An index that is searched by words alone, and the annotated examples."""
    annotate, index = tmp_path / "annotate", tmp_path / "index" / "i1"
    trained = [
        make_example(9, "train", answer="In May.", group="t"),
        make_example(1, "train", answer="In May.", group="u"),
    ]
    for split, rows in (("test", ITEMS), ("train", trained), ("validation", [])):
        write_rows(annotate / f"{split}.parquet", rows, Example)
    index.mkdir(parents=True)
    rows = list[Passage]()
    for position, text in TEXTS.items():
        place = {"source": "pages" if position == "row 0" else "faq", "location": "faq.csv", "position": position}
        rows.append(Passage(id=position, document=make_content_id(*place.values()), text=text, **place))
    metrics = {"passages": write_passages(index, rows), "model": ""}
    artifacts.commit(index, Record("index", "i1", {}, {}, "", "", metrics, {}, "", "", ""))
    return {"annotate": annotate, "index": index}


def test_models_read_what_retrieval_gives_and_refusals_need_no_model(data_paths: dict[str, Path]) -> None:
    given = {"items": ITEMS, "collect": COLLECT, "max_new_tokens": 96}
    test = ground_test(**data_paths, **given, config=Grounding(passages=1), window=2048)
    one, other, own, last = TEXTS["row 0"], TEXTS["row 1"], OWN_CONTEXT, TEXTS["row 8"]
    assert [item.context for item in test.system.items] == [one, other, "", own, ""]
    assert test.system.known_answers == {2: REFUSAL, 4: REFUSAL}
    assert [item.context for item in test.right_passages.items] == [one, TEXTS["row 9"], "", own, last]
    assert test.right_passages.known_answers == {2: REFUSAL}
    assert test.columns == {
        "recall_at_1": [1, 0, None, None, 0],
        "recall_at_5": [1, 1, None, None, 0],
        "mrr": [1, 1 / 3, None, None, 0],
        "wrongly_refused": [0, 0, None, None, 1],
        "rightly_refused": [None, None, 1, None, None],
    }
    said = [one, "In May vouchers end.", "Zebras?", OWN_CONTEXT, REFUSAL]
    assert evaluate._find_grounded(said, test) == [1, 0, None, None, None]  # May is not in the passage that was found
    refusing = ["I can't answer that from the documents", *said[1:]]
    refused = {"wrongly_refused_base": [1, 0, None, None, 1], "rightly_refused_base": [None, None, 0, None, None]}
    assert evaluate._find_refusals("base", refusing, test) == refused
    full = ground_test(**data_paths, **given, config=Grounding(), window=250)
    assert full.system.items == ITEMS and not full.system.known_answers  # no room for passages


def test_quotes_are_known_answers(data_paths: dict[str, Path]) -> None:
    config = Grounding(passages=1, answer="quote")
    test = ground_test(**data_paths, items=ITEMS, collect=COLLECT, max_new_tokens=96, config=config, window=2048)
    assert test.system.known_answers == {0: TEXTS["row 0"], 1: TEXTS["row 1"], 2: REFUSAL, 4: REFUSAL}
    assert test.right_passages.known_answers == {2: REFUSAL} and test.other_mode == replace(
        test.system, known_answers={2: REFUSAL, 4: REFUSAL}
    )
    narrow = ground_test(**data_paths, items=ITEMS, collect=COLLECT, max_new_tokens=96, config=config, window=250)
    assert narrow.system.known_answers == test.system.known_answers, "a quote needs no room in the prompt"
    config = Grounding(passages=1)
    other = ground_test(**data_paths, items=ITEMS, collect=COLLECT, max_new_tokens=96, config=config, window=2048)
    assert (other.system, other.other_mode) == (test.other_mode, test.system)


def test_the_whole_system_is_judged_and_the_rest_stands_beside_it(
    data_paths: dict[str, Path], tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "select").mkdir()
    (tmp_path / "select" / "selection.json").write_text(json.dumps({"path": str(tiny_base)}))
    for name in ("compress", "v1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "servable").symlink_to(tiny_base)
    asked = list[tuple[str, str]]()
    answer = answers.answer_questions

    def record_requests(model: Any, requests: Any, *given: Any) -> list[str]:
        asked.extend(requests)
        return [f"Delivery {text}" for text in answer(model, requests, *given)]

    monkeypatch.setattr(answers, "answer_questions", record_requests)
    windows = list[int]()

    def record_window(*given: Any) -> Any:
        windows.append(given[5])
        return ground_test(*given)

    monkeypatch.setattr(evaluate, "ground_test", record_window)
    record = Record("compress", "c1", {"system_prompt": "Be kind, é."}, {}, "", "", {}, {}, "", "", "")
    artifacts.commit(tmp_path / "compress", record)
    folders = {name: tmp_path / name for name in ("select", "compress")}
    config, grounds = (
        Evaluate(max_new_tokens=4, bootstrap=100, slice_items=4),
        Grounding(enabled=True, answer="model", passages=1),
    )
    write_json(tmp_path / "v1" / "evaluation.json", {})
    for name, champion in (("first", None), ("second", tmp_path / "v1")):
        (out := tmp_path / name).mkdir()
        found = evaluate.run(
            config, **data_paths, **folders, champion=champion, grounding=grounds, collect=COLLECT, out=out
        )
        document, beside = json.loads((out / "evaluation.json").read_text()), {"closed_book", "right_passage", "quoted"}
        opponents = {"base_closed_book"} if not champion else set()
        assert set(document["beside"]) == {f"candidate_{what}" for what in beside} | opponents
        assert set(document["models"]) == {"base", "candidate"} | ({"champion"} if champion else set())
        assert document["retrieval"]["index"] == "index/i1" and found["retrieval_recall_at_1"] == 0.3333
        assert (document["retrieval"]["looked_up"], document["retrieval"]["not_indexed"]) == (4, 1)
        assert document["slices"]["source"][0]["retrieval"]["recall_at_1"]["mean"] == 0  # of faq
        shares = {f"{what}_{name}" for what in ("grounded", "wrongly_refused") for name in document["models"]}
        assert shares <= document["retrieval"]["figures"].keys()
        assert "index/i1" in (out / "report.html").read_text()
        rows = pq.read_table(out / "answers.parquet").to_pylist()
        assert {row["model"] for row in rows} == {*document["models"], *document["beside"]}
        assert {row["context"] for row in rows} == {
            "Shop › Delivery",
            "",
            OWN_CONTEXT,
        }  # by these the ledger knows the items
        assert sum(row["answer"] == REFUSAL for row in rows) == 2 * len(document["models"]) + 3
    assert set(windows) == {2048 - 7}  # the system prompt takes 12 bytes, and 2 for the é
    record = Record("compress", "c1", {}, {}, "", "", {"skipped": "nothing was trained"}, {}, "", "", "")
    artifacts.commit(tmp_path / "compress", record)
    for champion, beside in ((None, {"base_closed_book"}), (tmp_path / "v1", set[str]())):
        (out := tmp_path / f"idle {champion is None}").mkdir()
        config = Evaluate(max_new_tokens=4, bootstrap=100)
        evaluate.run(config, **data_paths, **folders, champion=champion, grounding=grounds, collect=COLLECT, out=out)
        document = json.loads((out / "evaluation.json").read_text())
        assert beside <= document["beside"].keys() and document["models"]["candidate"] == document["models"]["base"]
    contexts = [TEXTS["row 0"], TEXTS["row 1"], "", OWN_CONTEXT, ""]
    system = [(item.question, context) for item, context in zip(ITEMS, contexts, strict=True)]
    assert asked[:3] == [system[n] for n in (0, 1, 3)] and (ITEMS[0].question, ITEMS[0].context) in asked
    asked.clear()
    answers.score_answers(tiny_base, [QuestionSet([ITEMS[0], replace(ITEMS[0], id="twice")])], config)
    assert len(asked) == 2  # the same batches as ever where a test is asked in one way


@pytest.mark.parametrize(
    ("answer", "mode", "quotes"), [("auto", "", False), ("auto", "quote", True), ("quote", "", True)]
)
def test_a_champion_answers_in_its_own_mode(
    data_paths: dict[str, Path], tiny_base: Path, tmp_path: Path, answer: str, mode: str, quotes: bool
) -> None:
    """The small candidate quotes. A configured mode holds for both."""
    (tmp_path / "select").mkdir()
    write_json(tmp_path / "select" / "selection.json", {"path": str(tiny_base)})
    for name in ("compress", "v1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "servable").symlink_to(tiny_base)
    write_json(tmp_path / "v1" / "evaluation.json", {"retrieval": {"answer": mode}})
    artifacts.commit(tmp_path / "compress", Record("compress", "c1", {}, {}, "", "", {}, {}, "", "", ""))
    folders, out = {name: tmp_path / name for name in ("select", "compress")}, tmp_path / "out"
    out.mkdir()
    grounding = Grounding.model_validate({"enabled": True, "answer": answer, "passages": 1})
    evaluate.run(
        Evaluate(max_new_tokens=4, bootstrap=100), **data_paths, **folders, champion=tmp_path / "v1",
        grounding=grounding, collect=COLLECT, out=out,
    )  # fmt: skip
    rows = pq.read_table(out / "answers.parquet").to_pylist()
    given = {row["model"]: row["answer"] for row in rows if row["id"] == ITEMS[0].id}
    assert given["candidate"] == TEXTS["row 0"] and (given["champion"] == TEXTS["row 0"]) == quotes

"""Answers with what an index holds, as `evaluate` measures them when `grounding.enabled`: whole stages, tiny models."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from llmops import artifacts
from llmops.artifacts import Record
from llmops.config import Config, Evaluate, load
from llmops.grounding.retriever import REFUSAL
from llmops.model.base.load import load_model
from llmops.model.evaluate import answered, grounded, retrieved, stage
from llmops.pipeline import plan, run_stage
from llmops.records import Document, Example, content_id, write_rows

DAY = "2026-01-31"
FACTS: dict[str, Any] = dict.fromkeys(("interval", "code", "git_commit", "started", "finished"), "")
SAID = {
    "How long does delivery take?": "Delivery takes three to five days within the country.",
    "How long is the guarantee?": "Every kettle comes with a guarantee of two years.",
    "May I return a gift?": "Gifts can be returned within thirty days, with the receipt.",
}
ASKED = {
    "How many days until my delivery arrives?": "row 1",
    "For how long is a kettle guaranteed?": "row 2",
    "Can a gift be returned?": "row 3",
    "May I return a gift?": "row 3",
}
ORDER = "What did Ana buy at the auction of 1972?"


def document(n: int, question: str, answer: str) -> Document:
    return Document(
        id=content_id(question), source="faq", location="faq.csv", position=f"row {n}", question=question, answer=answer
    )


def test_items(context: str = "") -> list[Example]:
    said = list(SAID.values())
    facts = {"split": "test", "source": "faq", "location": "faq.csv"}
    asked = [
        Example(
            id=content_id(question), question=question, answer=said[int(place[-1]) - 1], group=place, position=place,
            context=context if place == "row 2" else "", **facts,
        )
        for question, place in ASKED.items()
    ]  # fmt: skip
    order = {**facts, "source": "orders", "location": "orders", "position": "key 7", "group": "7"}
    return [
        *asked,
        Example(id=content_id(ORDER), question=ORDER, answer="A tent and a lamp.", context="7: tent", **order),
    ]


def write_splits(out: Path, test: list[Example]) -> None:
    """A test, and something that was trained on."""
    write_rows(out / "test.parquet", test, Example)
    write_rows(out / "train.parquet", test[:1], Example)


class Home:
    """A home with what `evaluate` reads; its models are the tiny one, with weights `scale` times as large."""

    def __init__(self, home: Path, base: Path) -> None:
        self.path, self.base = home, base

    def config(self, **grounding: Any) -> Config:
        small = {"max_new_tokens": 6, "batch": 4, "bootstrap": 100, "slice_items": 1}
        overrides = {"evaluate": small, "grounding": {"enabled": True, **grounding}}
        return load(environ={"LLMOPS_HOME": str(self.path)}, overrides=overrides)

    def artifact(self, name: str, key: str, make: Callable[[Path], object]) -> Path:
        path = self.path / "artifacts" / name / key
        if not artifacts.is_done(path):
            path.mkdir(parents=True)
            make(path)
            artifacts.commit(path, Record(name, key, {}, {}, metrics={}, files={}, **FACTS))
        return path

    def index(self, key: str, said: dict[str, str]) -> Path:
        documents = [document(n, *pair) for n, pair in enumerate(said.items(), 1)]
        clean = self.artifact(
            "clean", key, lambda o: write_rows(o / "documents" / "part-0.parquet", documents, Document)
        )
        return run_stage("index", self.config(), DAY, {"clean": clean})

    def inputs(self, scale: float, index: Path) -> dict[str, Path]:
        def candidate(out: Path) -> None:
            shutil.copytree(self.base, out / "servable")
            model = load_model(self.base)
            with torch.no_grad():
                for weights in model.parameters():
                    weights.mul_(scale)
            model.save_pretrained(out / "servable")

        rows = test_items("Two years.")
        chosen = json.dumps({"path": str(self.base)})
        return {
            "annotate": self.artifact("annotate", "a", lambda o: write_splits(o, rows)),
            "select": self.artifact("select", "s", lambda o: (o / "selection.json").write_text(chosen)),
            "compress": self.artifact("compress", f"{scale}", candidate),
            "index": index,
        }


@pytest.fixture(scope="module")
def home(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"), tiny_base)


@pytest.fixture(scope="module")
def done(home: Home) -> Path:
    return run_stage("evaluate", home.config(), DAY, home.inputs(1.5, home.index("said", SAID)))


def figures(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "evaluation.json").read_text())["grounded"]
    return found


def way(found: dict[str, Any], model: str, name: str) -> dict[str, Any]:
    return next(line["metrics"] for line in found["ways"] if (line["model"], line["way"]) == (model, name))


def test_retrieval_refusals_and_every_way_of_answering_are_measured(done: Path) -> None:
    found = figures(done)
    assert (found["items"], found["answerable"]) == (5, 4)
    metrics = artifacts.read_record(done).metrics
    assert metrics["recall_at_5"] == 1 and metrics["quote_token_f1"] == way(found, "", "quote")["token_f1"]["mean"]
    assert {f"{m}_{w}_token_f1" for m in ("base", "candidate") for w in ("closed", "retrieved", "right")} <= set(
        metrics
    )
    assert found["retrieval"]["recall_at_1"]["mean"] == found["retrieval"]["mrr"]["mean"] == 1
    assert found["retrieval"]["refused_wrongly"]["mean"] == 0 and found["retrieval"]["refused_rightly"]["mean"] == 1
    assert found["elsewhere"]["questions"] == 40 and found["elsewhere"]["refused"]["mean"] > 0.9
    ways = [(line["model"], line["way"]) for line in found["ways"]]
    assert ways == [*((m, w) for m in ("base", "candidate") for w in ("closed", "retrieved", "right")), ("", "quote")]
    assert way(found, "", "quote")["token_f1"]["mean"] > 0.9 and way(found, "", "quote")["grounded"]["mean"] == 1
    assert way(found, "candidate", "retrieved")["refused"]["mean"] == 0.2  # the one that no document answers
    assert {part["name"]: part["items"] for part in found["slices"]} == {
        "asked as a document asks it": 1, "asked in other words": 3, "faq": 4, "orders": 1,
    }  # fmt: skip
    ahead = {(line["model"], line["way"]): line["ahead"] for line in found["ways"]}
    f1 = {key: way(found, *key)["token_f1"]["mean"] for key in ahead}
    for key, interval in ahead.items():
        assert interval["mean"] == pytest.approx(f1["candidate", "retrieved"] - f1[key], abs=2e-4)


def test_each_answer_is_kept_with_the_passages_it_was_given_by_their_ids_alone(home: Home, done: Path) -> None:
    table = pq.read_table(done / "grounded.parquet")
    rows = [row for row in table.to_pylist() if row["model"] == "candidate"]
    index = artifacts.input_path(done, "index")
    passages = {row["id"]: row for row in pq.read_table(index / "passages.parquet").to_pylist()}
    for row in rows:
        assert set(row["passages"]) <= set(passages)
        if row["way"] == "right":
            assert [passages[one]["position"] for one in row["passages"]] == [ASKED[row["question"]]]
    refused = [row for row in rows if row["question"] == ORDER]
    assert [(row["way"], row["answer"], row["passages"], row["token_f1"]) for row in refused] == [
        ("retrieved", REFUSAL, [], None)
    ]
    assert "context" not in table.column_names
    # what the test asks with a context is asked again without it
    again = {row["question"] for row in rows if row["way"] == "closed" and row["asked"]}
    assert again == {"For how long is a kettle guaranteed?"}


def test_nobody_is_asked_the_same_with_the_same_passages_twice(
    home: Home, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = stage.ask

    def ask(folder: Path, *given: Any) -> Any:
        asked.append(folder.parent.name if folder.name == "servable" else folder.name)
        return real(folder, *given)

    monkeypatch.setattr(stage, "ask", ask)
    second = run_stage("evaluate", home.config(), DAY, home.inputs(2.0, home.index("said", SAID)))
    assert asked == ["2.0", "2.0"]
    told = json.loads((second / "asked_grounded.json").read_text())
    assert {name: one["kept"] for name, one in told.items()} == {"base": done.name, "candidate": ""}
    assert way(figures(second), "base", "retrieved") == way(figures(done), "base", "retrieved")
    # with another passage the test from memory is kept still, and what depends on passages is asked anew
    changed = {**SAID, "How long does delivery take?": "Delivery takes nine days within the country."}
    third = run_stage("evaluate", home.config(), DAY, home.inputs(2.0, home.index("changed", changed)))
    assert asked[2:] == [home.base.name, "2.0"]
    assert (third / "answers.parquet").read_bytes() == (second / "answers.parquet").read_bytes()


def test_without_grounding_the_index_changes_nothing(home: Home) -> None:
    off = home.config(enabled=False)
    indexes = [home.index("said", SAID), home.index("none", dict(list(SAID.items())[:1]))]
    first, second = (run_stage("evaluate", off, DAY, home.inputs(1.5, index)) for index in indexes)
    assert artifacts.read_record(first).content == artifacts.read_record(second).content
    assert "grounded" not in json.loads((first / "evaluation.json").read_text())
    assert not (first / "grounded.parquet").exists()
    inputs = home.inputs(1.5, indexes[0])
    assert plan("evaluate", home.config(), DAY, inputs).path != plan("evaluate", off, DAY, inputs).path
    paths = {
        plan("index", config, DAY, {"clean": home.path / "artifacts/clean/said"}).path
        for config in (off, home.config())
    }
    assert len(paths) == 1


def test_an_empty_index_refuses_all(home: Home) -> None:
    found = figures(run_stage("evaluate", home.config(), DAY, home.inputs(1.5, home.index("empty", {}))))
    assert found["answerable"] == 0 and found["retrieval"] == {"refused_rightly": {"mean": 1, "low": 1, "high": 1}}
    assert found["elsewhere"]["refused"]["mean"] == 1


def test_the_page_shows_them(done: Path) -> None:
    page = (done / "report.html").read_text()
    part = page[page.index("Answers from the documents") :]
    for text in (
        "from memory",
        "with what was found",
        "with the right passage",
        "quoted from the documents",
        "recall at 5",
    ):
        assert text in part
    assert not re.findall(r"(?:src|href)=|url\(|@import|https?://|<script", page)


def test_the_same_items_are_asked_every_time() -> None:
    items = [replace(test_items()[0], id=content_id(str(n))) for n in range(50)]
    some = retrieved.chosen(items, 20)
    assert len(some) == 20 and some == [item for item in items if item in some]
    assert {item.id for item in retrieved.chosen(items[::-1], 20)} == {item.id for item in some}
    assert len(set(map(str, retrieved.chosen(items[1:], 20))) & set(map(str, some))) >= 19


def test_the_right_passage_holds_the_answer_or_is_of_its_document(home: Home) -> None:
    passages = home.index("said", SAID) / "passages.parquet"
    item = test_items()[0]
    elsewhere = replace(item, source="rewordings", position="row 9")
    assert [p.position for p in retrieved.right_passages(passages, [item])[0]] == ["row 1"]
    assert [p.position for p in retrieved.right_passages(passages, [elsewhere])[0]] == ["row 1"]
    assert retrieved.right_passages(passages, [replace(elsewhere, answer="Delivery takes")]) == [[]]
    half = replace(item, answer=f"{item.answer.split()[0]} soon.")
    assert [p.position for p in retrieved.right_passages(passages, [half])[0]] == ["row 1"]
    assert retrieved.right_passages(passages, [replace(item, answer="Call 0800 1234.")]) == [[]]


def test_what_is_asked_is_what_was_measured(home: Home) -> None:
    items = test_items("Two years.")
    found = retrieved.retrieve(home.index("said", SAID), home.config().grounding, items)
    asked, passages = grounded.asked(items, found)
    assert [bool(item.context) for item in asked] == [bool(some) for some in passages] == [False, *[True] * 8]
    assert [item.context for item in asked] == ["\n".join(some) for some in passages]
    texts = {"candidate": [f"answer {n}" for n in range(9)]}
    _, table = grounded.measure(items, found, {"candidate": ["closed"] * 5}, texts, [True], Evaluate())
    rows = [row for row in table.to_pylist() if row["asked"]]
    assert [row["id"] for row in rows] == [item.id for item in asked]
    assert [row["answer"] for row in rows] == texts["candidate"]


def test_a_model_is_given_as_many_passages_as_it_has_room_for(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    real = answered.answer

    def answer(model: Any, requests: Any, *rest: Any) -> Any:
        given.extend(context for _, context in requests)
        return real(model, requests, *rest)

    monkeypatch.setattr(answered, "answer", answer)
    item = test_items()[0]
    long = "Delivery takes three days. " * 2_000
    texts, nats = answered.ask(tiny_base, [item, item], Evaluate(max_new_tokens=4), [["Short.", long], [long]])
    assert len(texts) == 2 and nats == []
    assert given[0] == "Short." and 0 < len(given[1]) < len(long) and long.startswith(given[1])

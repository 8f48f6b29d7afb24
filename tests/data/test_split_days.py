"""From source to examples by `run_stage`, day after day: the frozen test only grows, and what it asks is never trained.

In each test the sources change between the days as a user's do: a file is edited, a chat is added, a row is deleted.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from llmops import config, pipeline
from llmops.artifacts import read_record
from llmops.config import Config
from llmops.data import spark
from llmops.data.annotate import stage as annotate
from llmops.data.annotate.decontaminate import overlaps
from llmops.data.annotate.split import wording_id
from llmops.records import Example, read_rows

STAGES = ("collect", "clean", "annotate")
SPLITS = ("train", "validation", "test")
THINGS = [a + b + c for a in "bdfgklmn" for b in "aeiou" for c in ("ba", "ko", "mi", "ru", "te", "wa", "zo", "li")]


@pytest.fixture(scope="module")
def session() -> Iterator[SparkSession]:
    with spark.session(config.Clean(master="local[1]", driver_memory="512m", partitions=2)) as active:
        yield active


class Shop:
    """A home and its sources, each a table of questions, answers, contexts and topics."""

    def __init__(self, folder: Path, sources: Iterable[str], **annotate: Any) -> None:
        self.root = folder / "sources"
        self.root.mkdir()
        asked = {"question": "q", "answer": "a", "context": "c", "group": "g"}
        fields = {name: {} if name in annotate.get("templates", ()) else asked for name in sources}
        self.config: Config = config.load(
            overrides={
                "home": str(folder / "home"),
                "collect": {
                    "root": str(self.root),
                    "sources": [
                        {"name": name, "kind": "csv", "location": f"{name}.csv", "fields": fields[name]}
                        for name in sources
                    ],
                },
                "clean": {"master": "local[1]", "partitions": 2},
                "annotate": {"min_test_items": 1, **annotate},
            },
            environ={},
        )

    def write(self, source: str, rows: Iterable[tuple[str, ...]]) -> None:
        with open(self.root / f"{source}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("q", "a", "c", "g"), *((*row, "", "")[:4] for row in rows)])

    def run(self, day: str) -> Path:
        return [pipeline.run_stage(stage, self.config, day) for stage in STAGES][-1]

    def examples(self, artifact: Path) -> dict[str, list[Example]]:
        return {split: read_rows(artifact / f"{split}.parquet", Example) for split in SPLITS}


def asked(examples: Iterable[Example]) -> set[str]:
    return {wording_id(e.question, e.context) for e in examples}


def untouched(tested: Mapping[str, list[Example]], used: Mapping[str, list[Example]]) -> bool:
    """Whether nothing of the test of one artifact, nor a near twin, trains or validates in another."""
    texts = [f"{e.question}\n{e.answer}" for split in ("train", "validation") for e in used[split]]
    return not overlaps(texts, [f"{e.question}\n{e.answer}" for e in tested["test"]])


def test_six_questions_over_one_context_stay_six(tmp_path: Path, session: SparkSession) -> None:
    page = " ".join(f"Rule {n} says that a {thing} may be sent back." for n, thing in enumerate(THINGS[:12]))
    questions = ("May one send back a gift?", "Who pays?", "How long have I?", "Where do I sign?", "Is it free?")
    shop = Shop(tmp_path, ["faq"])
    rows = [(f"What does a {thing} cost?", f"A {thing} costs {n} euros.") for n, thing in enumerate(THINGS[:40])]
    shop.write("faq", [*rows, *((q, f"See rule {n}.", page) for n, q in enumerate((*questions, "What is rule one?")))])
    found = shop.examples(shop.run("2026-01-30"))
    assert sum(e.context.startswith("Rule 0 says") for some in found.values() for e in some) == 6


def test_a_chat_twin_of_every_tested_item_takes_none_out_of_the_test(tmp_path: Path, session: SparkSession) -> None:
    """200 items of a test source; the next day the chat has a near twin of each, with whatever id."""
    shop = Shop(tmp_path, ["faq", "chat"], test_sources=["faq"], test=0.5)
    ask = "Hello, how do I send back the {} that I bought in your shop last week?"
    answer = "Put the {} into its box, print the label from your account and bring both to any post office."
    faq = [(ask.format(thing), answer.format(thing)) for thing in THINGS[:200]]
    other = [(f"Where is the {thing} made?", f"Our {thing} is made in town {n}.") for n, thing in enumerate(THINGS)]
    shop.write("faq", faq)
    shop.write("chat", other)
    before = shop.examples(shop.run("2026-01-30"))
    shop.write("chat", [*other, *((q.replace("Hello", "Hello there"), a) for q, a in faq)])
    after = shop.examples(shop.run("2026-01-31"))
    assert len(before["test"]) > 60 and asked(before["test"]) <= asked(after["test"])
    assert untouched(before, after) and untouched(after, before) and untouched(after, after)


def test_a_wording_that_was_trained_on_is_not_tested_when_a_test_source_asks_it(
    tmp_path: Path, session: SparkSession
) -> None:
    """400 wordings of a chat; the next day a source that is tested asks them, too, and 100 more."""
    settings = {"split_by": "wording", "test_sources": ["survey"], "test": 0.3}
    shop = Shop(tmp_path, ["chat", "survey"], **settings)
    chat = [(f"{ask} {thing}?", f"Thing {n}.", "", f"topic {n}") for n, thing in enumerate(THINGS[:200])
            for ask in ("What is a", "Who needs the")]  # fmt: skip
    survey = [(f"Why a {thing}?", f"Thing {n}.", "", f"topic {n}") for n, thing in enumerate(THINGS[:200])]
    shop.write("chat", chat)
    shop.write("survey", survey[:100])
    before = shop.examples(shop.run("2026-01-30"))
    shop.write("survey", [*survey, *((q.removesuffix("?") + "!", *rest) for q, *rest in chat)])
    after = shop.examples(shop.run("2026-01-31"))
    assert asked(before["train"]) and not asked(before["train"]) & asked(after["test"])
    assert asked(before["test"]) < asked(after["test"]), "and new wordings still become test items"


def test_an_answer_whose_source_no_longer_asks_stays_in_the_test(tmp_path: Path, session: SparkSession) -> None:
    """Two sources answer the same questions otherwise; one of them is a daily file."""
    shop = Shop(tmp_path, ["faq", "chat"], test=0.5)
    faq = [
        (f"What does a {thing} cost?", f"A {thing} costs {n} euros.", "", thing) for n, thing in enumerate(THINGS[:40])
    ]
    shop.write("faq", faq)
    shop.write("chat", [(q, a.replace(" costs ", " will be yours for "), "", g) for q, a, _, g in faq])
    before = shop.examples(shop.run("2026-01-30"))["test"]
    assert len(before) == 2 * len(asked(before)) > 10
    shop.write("chat", [("Is this chat a new one?", "Yes, it is of today.")])
    shop.write("faq", [(q, a.replace("euros", "dollars"), c, g) for q, a, c, g in faq])
    after = shop.examples(shop.run("2026-01-31"))["test"]
    assert {e.id for e in before if e.source == "chat"} <= {e.id for e in after} and asked(before) <= asked(after)
    edited = [e.answer for e in after if e.source == "faq" and asked([e]) <= asked(before)]
    assert len(edited) == len(asked(before)) and all("dollars" in answer for answer in edited), (
        "one that asks has edited"
    )


@pytest.mark.parametrize(("tested", "by"), [("stock", "group"), ("faq", "group"), ("faq", "wording")])
@pytest.mark.parametrize("first", ["stock", "faq"])
def test_what_a_template_made_does_not_train_beside_the_same_in_plain_words(
    tmp_path: Path, session: SparkSession, tested: str, first: str, by: str
) -> None:
    template = {
        "question": "What does the {product} cost in the shop on a working day?",
        "answer": "It costs {price} euros, and you can pay with a card there.",
        "group": "{product}",
    }
    shop = Shop(
        tmp_path, ["stock", "faq"], test=0.5, split_by=by, test_sources=[tested], templates={"stock": [template]}
    )
    stock = [("product", "price"), *((thing, str(n)) for n, thing in enumerate(THINGS[:40]))]
    faq = [
        (*(template[part].format(product=thing, price=n) for part in ("question", "answer")), "Prices", f"of {thing}")
        for n, thing in enumerate(THINGS[:40])
    ]  # fmt: skip
    more = [(f"{ask} the {thing} made?", f"{ask} so, in town {n}.", "", thing)
            for n, thing in enumerate(THINGS[50:80]) for ask in ("Where is", "How is", "Why is")]  # fmt: skip
    both = {"stock": [*stock, *((thing, "9") for thing in THINGS[100:120])], "faq": [*faq, *more]}
    for day, there in (("2026-01-30", (first,)), ("2026-01-31", both)):
        some = {name: rows if name in there else rows[-20:] for name, rows in both.items()}
        shop.write("faq", some["faq"])
        with open(shop.root / "stock.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(dict.fromkeys([stock[0], *some["stock"]]))
        shop.run(day)
    used, held = set[tuple[str, str]](), set[tuple[str, str]]()
    for path in (tmp_path / "home" / "artifacts" / "annotate").iterdir():
        if path.is_dir():
            found = shop.examples(path)
            held |= {(e.question, e.answer) for e in found["test"]}
            used |= {(e.question, e.answer) for split in ("train", "validation") for e in found[split]}
    assert held and used and not held & used


def test_days(tmp_path: Path, session: SparkSession) -> None:
    """Rows leave, are edited and come back; days are unchanged, repeated and run late."""
    shop = Shop(tmp_path, ["faq"], test=0.4)
    rows = [(f"What does a {thing} cost?", f"A {thing} costs {n} euros.") for n, thing in enumerate(THINGS[:60])]
    shop.write("faq", rows)
    first = shop.run("2026-01-02")
    tested = shop.examples(first)["test"]
    contents = {path.name: path.read_bytes() for path in first.iterdir() if path.name != "record.json"}
    assert {e.interval for e in tested} == {"2026-01-02"}

    gone, edited = tested[0].question, tested[1].question
    left = [(q, a.replace(" costs", " now costs") if q == edited else a) for q, a in rows if q != gone]
    shop.write("faq", [*left, ("What does a hat cost?", "A hat costs 9 euros.")])
    second = shop.examples(shop.run("2026-01-04"))
    now = {e.question: e for e in second["test"]}
    assert {e.question for e in tested} <= now.keys()
    as_it_was = replace(tested[0], position=f"{tested[0].position}, as of 2026-01-02")  # today it is another row's
    assert now[gone] == as_it_was, "with its interval"
    assert " now costs" in now[edited].answer and now[edited].interval == "2026-01-04"
    dates = {
        e.interval for some in second.values() for e in some if e.question not in (edited, "What does a hat cost?")
    }
    assert dates == {"2026-01-02"}

    shop.write("faq", [(q, a) for q, a in rows if q != edited][:50])  # run late, for the day between
    between = shop.examples(shop.run("2026-01-03"))
    assert {e.question for e in tested} <= {e.question for e in between["test"]}
    assert untouched(between, second) and untouched(second, between)

    shop.write("faq", rows)
    again = shop.run("2026-01-02")
    assert again == first
    assert {path.name: path.read_bytes() for path in again.iterdir() if path.name != "record.json"} == contents
    last = shop.examples(shop.run("2026-01-05"))
    assert {e.question for some in (tested, second["test"], between["test"]) for e in some} == {
        e.question for e in last["test"]
    }
    assert read_record(first).metrics["new_test_items"] == len(tested)


def test_what_a_killed_run_had_on_the_disk_is_in_no_finished_artifact(
    tmp_path: Path, session: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(tmp_path, ["faq"])
    shop.write("faq", [(f"What is {thing}?", f"It is {thing}.") for thing in THINGS])
    with monkeypatch.context() as patch:
        patch.setattr(annotate, "split_items", killed)
        with pytest.raises(SystemExit):
            shop.run("2026-01-01")
    (unfinished,) = (tmp_path / "home").glob("artifacts/annotate/*/")
    left = unfinished / ".work" / "tables.tmp"  # as a process leaves it that cannot tidy up
    left.parent.mkdir()
    left.write_bytes(b"texts")
    made = shop.run("2026-01-01")
    assert made == unfinished and not list(made.glob(".*"))
    assert set(read_record(made).files) == {
        *(f"{split}.parquet" for split in SPLITS), "dropped.parquet", "findings.parquet", "train.txt",
    }  # fmt: skip


def killed(*_: object) -> None:
    raise SystemExit

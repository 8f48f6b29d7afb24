"""annotate: documents to examples."""

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from llmops import prompts
from llmops.config import Annotate, Template
from llmops.data import worktables
from llmops.data.annotate import made_up
from llmops.data.annotate import stage as annotate
from llmops.data.annotate.candidates import TABLES
from llmops.data.retrieval.files import read_passages, write_passages
from llmops.frame.errors import LlmopsError
from llmops.frame.records import Document, Dropped, Example, Finding, Passage, content_id, read_rows, schema, write_rows

TOKEN = "hf_" + "aB3dE5gH7j" * 4
NO_RUNS: Any = SimpleNamespace(interval="", entries=list, trained=list, write=lambda entries: None)


def document(source: str = "faq", row: int = 0, **parts: Any) -> Document:
    if isinstance(parts.get("fields"), dict):
        parts["fields"] = json.dumps(parts["fields"])
    key = content_id(source, str(row), *map(str, parts.values()))
    return Document(id=key, source=source, location="x.csv", position=f"row {row}", **parts)


def pairs(count: int) -> list[Document]:
    return [document(row=i, question=f"Question {i}?", answer=f"Answer {i}.") for i in range(count)]


def write(folder: Path, documents: list[Document]) -> None:
    write_rows(folder / "clean" / "documents" / "part-00000.parquet", documents, Document)
    (folder / "out").mkdir(parents=True, exist_ok=True)


def run(
    folder: Path, documents: list[Document], **config: Any
) -> tuple[dict[str, Any], list[Example], dict[str, list[Dropped]]]:
    settings = Annotate(**{"redact": (), "min_test_items": 1, **config})
    write(folder, documents)
    metrics = annotate.run(settings, clean=folder / "clean", out=folder / "out", ledger=NO_RUNS)
    rows: dict[str, list[Dropped]] = {}
    for row in read_rows(folder / "out" / "dropped.parquet", Dropped):
        rows.setdefault(row.rule, []).append(row)
    splits = ("train", "validation", "test")
    return (dict(metrics), [e for name in splits for e in read_rows(folder / "out" / f"{name}.parquet", Example)], rows)


def named(examples: list[Example], source: str) -> list[Example]:
    return sorted((e for e in examples if e.source == source), key=lambda e: e.question)


WORLD = [
    *pairs(60),
    document("goods", 1, fields={"name": "Tent {x}", "price": "9", "size.m": ""}),
    document("goods", 2, fields={"name": "", "price": "7", "size.m": "2"}),
    document("known", question="How much is it?", answer="Five.", context="Prices.", group="cost"),
    document("known", 4, question="How much?", answer="4 euros.", group="price"),
    document("known", 5, question="How much?", answer="5 euros.", group="price"),
    document("re", 1, question="What does it cost?", same_as="how much IS  it"),
    document("re", 2, question="How much is it", same_as="Is it cheap?"),
    document("re", 3, question="Who?", same_as="Which?"),
    document("re", 4, question="What is its price?", same_as="How much?"),
    document("cut", 1, question="Long?", answer="Dr. No came. He left. " * 9),
    document("cut", 2, question="Short?", answer="Dr. No came. He left. It rained."),
    document("cut", 3, question="Where?", answer="Here.", context="word " * 50),
    document("cut", 4, question="Why? " * 200, answer="So."),
    document("twice", 1, question="Same?", answer="Yes."),
    document("twice", 2, question="same", answer="YES"),
    document("twice", 3, question="Same?", answer="No."),
    document("twice", 4, question="Same?", answer="No.", context="Elsewhere."),
    document("twice", 5, text="Only text."),
    document("twice", 6, question="Topic?", answer="One.", group="t"),
    document("twice", 7, question="Topic?", answer="Two.", group="t"),
    *(document("fake", question="Q?", answer=f"Well {mark} then") for mark in ("####", "[Answer]", "<|im_end|>")),
    document("bad", 1, question="Where is it?", answer="where is it"),
    document("bad", 2, question="Which form?", answer="https://example.com/form"),
    document("bad", 3, question="Who are you?", answer="My address is ana@example.com"),
    document("bad", 4, question="Your address?", answer="ana@example.com"),
    document("pii", 1, question="I am bob@example.org. Refund?", answer="Yes.", group="bob@example.org"),
    document("pii", 2, question="Key?", answer=f"Use {TOKEN} here."),
    document("pii", 3, question="Who is it?", answer="Ana.",
             context="Customer ana@example.com, card 4111 1111 1111 1111. " + "More. " * 30),
]  # fmt: skip
CONFIG = Annotate(
    min_test_items=1,
    redact=("EMAIL_ADDRESS", "CREDIT_CARD", "SECRET"),
    max_answer_sentences=2,
    max_answer_chars=60,
    max_context_chars=42,
    templates={
        "goods": (
            Template(question="Price of {name}?", answer="{price} euros.", context="{name}: {price}", group="{name}"),
            Template(question="Size of {name}?", answer="{size.m} m."),
        )
    },
)


class Made(NamedTuple):
    """The output of one run over `WORLD`."""

    out: Path
    metrics: dict[str, Any]
    examples: list[Example]
    dropped: dict[str, list[Dropped]]

    def rules(self, source: str) -> dict[str, list[str]]:
        found = {rule: [r.position for r in rows if r.source == source] for rule, rows in self.dropped.items()}
        return {rule: positions for rule, positions in found.items() if positions}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("world")
    return Made(folder / "out", *run(folder, WORLD, **dict(CONFIG)))


def test_the_same_documents_in_any_order_and_files_give_the_same_bytes(made: Made, tmp_path: Path) -> None:
    for number, part in enumerate((WORLD[50:][::-1], WORLD[:50][::-1])):
        write_rows(tmp_path / "clean" / "documents" / f"part-{number:05d}.parquet", part, Document)
    (tmp_path / "out").mkdir()
    just_enough = CONFIG.model_copy(update={"min_test_items": made.metrics["test"]})
    metrics = annotate.run(just_enough, clean=tmp_path / "clean", out=tmp_path / "out", ledger=NO_RUNS)
    assert dict(metrics) == made.metrics
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert files == {path.name: path.read_bytes() for path in made.out.iterdir()}


def test_pairs_become_examples_with_splits_and_annotated_text(made: Made) -> None:
    plain = named(made.examples, "faq")
    assert len(plain) == 60 and not made.rules("faq")
    assert sum(made.metrics[split] for split in ("train", "validation", "test")) == len(made.examples)
    assert made.metrics["groups"] == len({e.group for e in made.examples})
    trained = [e for e in made.examples if e.split == "train"]
    text = (made.out / "train.txt").read_text(encoding="utf-8")
    assert text == "".join(prompts.annotated(e.question, e.answer, e.context) + "\n" for e in trained)
    assert {e.question: e.position for e in plain}["Question 7?"] == "row 7"


def test_templates_are_rendered_and_other_wordings_take_all_answers_of_the_known_side(made: Made) -> None:
    assert [(e.question, e.answer, e.context, e.group) for e in named(made.examples, "goods")] == [
        ("Price of Tent {x}?", "9 euros.", "Tent {x}: 9", "Tent {x}")
    ]
    assert made.metrics["skipped_templates"] == 3 and made.rules("goods") == {"empty_field": ["row 2"]}
    assert sorted((e.question, e.answer, e.context, e.group, e.position) for e in named(made.examples, "re")) == [
        ("Is it cheap?", "Five.", "Prices.", "cost", "row 2"),
        ("What does it cost?", "Five.", "Prices.", "cost", "row 1"),
        ("What is its price?", "4 euros.", "", "price", "row 4"),
        ("What is its price?", "5 euros.", "", "price", "row 4"),
    ]
    assert made.rules("re") == {"unknown_question": ["row 3"]}
    assert "Who?" in made.dropped["unknown_question"][0].content


def test_what_is_long_double_or_not_worth_learning_is_dropped_with_its_reason(made: Made) -> None:
    """Answers are dropped by their length before the others are cut."""
    assert [(e.question, e.answer, e.context) for e in named(made.examples, "cut")] == [
        ("Short?", "Dr. No came. He left.", ""),
        ("Where?", "Here.", " ".join(["word"] * 8)),
    ]
    assert made.rules("cut") == {"answer_too_long": ["row 1"], "question_too_long": ["row 4"]}
    kept, twice = named(made.examples, "twice"), made.rules("twice")
    assert {rule: len(rows) for rule, rows in twice.items()} == {"duplicate": 1, "conflict": 1, "no_question": 1}
    assert [(e.question.casefold().rstrip("?"), e.context) for e in kept].count(("same", "")) == 1
    assert len({e.split for e in kept if e.group == "t"}) == 1
    assert made.dropped["no_question"][0].content == "Only text."
    assert not named(made.examples, "fake") and len(made.rules("fake")["prompt_marker"]) == 3
    assert [e.answer for e in named(made.examples, "bad")] == ["My address is <EMAIL_ADDRESS>"]
    assert made.rules("bad") == {"echo": ["row 1"], "no_words": ["row 2", "row 4"]}


def test_personal_data_and_secrets_are_redacted_counted_and_never_shown(made: Made) -> None:
    first, key, who = sorted(named(made.examples, "pii"), key=lambda e: e.position)
    assert first.question == "I am <EMAIL_ADDRESS>. Refund?"
    assert key.answer == "Use <SECRET> here."
    assert who.context == "Customer <EMAIL_ADDRESS>, card"
    assert made.metrics["redactions"] == {"CREDIT_CARD": 1, "EMAIL_ADDRESS": 4, "SECRET": 1}
    findings = read_rows(made.out / "findings.parquet", Finding)
    assert [(f.scan, f.rule, f.severity, f.where) for f in findings if f.where.startswith("pii:")] == [
        ("pii", "EMAIL_ADDRESS", "low", "pii: x.csv, row 1"),
        ("secrets", "SECRET", "medium", "pii: x.csv, row 2"),
        ("pii", "CREDIT_CARD", "low", "pii: x.csv, row 3"),
        ("pii", "EMAIL_ADDRESS", "low", "pii: x.csv, row 3"),
    ]
    shown = "".join(map(str, [made.examples, findings, made.metrics])) + (made.out / "train.txt").read_text()
    assert not any(secret in shown for secret in ("ana@", "bob@", "4111", TOKEN))


@pytest.mark.parametrize(
    ("documents", "config", "named"),
    [
        ([document(fields={"name": "x"})], {"templates": {"godos": [{"question": "q", "answer": "a"}]}},
         r"'godos'.*faq"),
        ([document(fields={"name": "x"})], {"templates": {"faq": [{"question": "q", "answer": "{nmae}"}]}},
         r"faq\[0\]\.answer.*'nmae'.*name"),
        (pairs(3), {"redact": ("SHOE_SIZE",)}, "SHOE_SIZE"),
        (pairs(30), {"min_test_items": 7}, r"Only 6 test items, .*min_test_items is 7.*annotate\.test"),  # by one
        ([document(question="Q?", answer="x" * 5000)], {}, "train on"),
        ([], {"test": 0.6, "validation": 0.4}, "share for training"),
    ],

)  # fmt: skip
def test_an_impossible_run_is_an_error_that_says_what_to_change(
    tmp_path: Path, documents: list[Document], config: dict[str, Any], named: str
) -> None:
    with pytest.raises((LlmopsError, ValueError), match=named):
        run(tmp_path, documents, **config)


LONG = "Send it back within thirty days and you get the whole price again, but not what the parcel cost you."


@pytest.mark.parametrize(("sources", "split"), [((), "test"), (("p",), "validation")])
def test_what_gives_test_or_validation_away_is_not_train(tmp_path: Path, sources: tuple[str, ...], split: str) -> None:
    page = "Parcels travel two days within the country and five to all other countries of the continent, never more."
    documents = [
        document("p", i, question=f"Is number {i} fine?", answer=f"{i} is.", context=page, group=f"{i}")
        for i in range(60)
    ]
    documents += [
        document("q", i, question=f"{'abcdefghij'[i % 10] * 9}{i}?", answer=f"Thing {i}. {LONG}") for i in range(30)
    ]
    _, examples, dropped = run(tmp_path, documents, test_sources=sources)
    kept = named(examples, "q")
    assert {e.split for e in kept} == {split} and len(kept) + len(dropped["contaminated"]) == 30
    assert len(named(examples, "p")) == 60, "the page is everybody's context"
    tested = {e.id for e in kept}
    for row in dropped["contaminated"]:
        assert any(item in row.detail for item in tested) and row.detail.startswith("shares ")


def test_in_wording_mode_only_the_question_gives_the_test_away(tmp_path: Path) -> None:
    documents = [document("faq", i, question=f"Official {i}?", answer=f"Thing {i}. {LONG}") for i in range(40)]
    asked = "So what about{} official {} {}, I have wondered for quite a while?"
    documents += [
        document("re", 10 * i + n, question=asked.format(comma, i, i), same_as=f"Official {i}?")
        for i in range(40)
        for n, comma in enumerate(("", ","))
    ]
    _, examples, dropped = run(tmp_path, documents, split_by="wording", test_sources=["re"], test=0.4)
    assert len(named(examples, "faq")) == 40, "answers are meant to be known"
    assert set(dropped) == {"contaminated"}
    spoken = [(e.split, " ".join(e.question.replace(",", " ").split())) for e in examples]
    tested = {q for split, q in spoken if split == "test"}
    assert tested and not tested & {q for split, q in spoken if split != "test"}


def test_rows_of_one_template_share_its_words_and_only_a_rows_values_give_it_away(tmp_path: Path) -> None:
    template = Template(
        question="Would you be so kind as to tell me once more what I have to pay for the {name}?",
        answer="Of course, and thank you very much for asking: you pay {price} for the {name} in each of our shops.",
    )
    rows = [document("goods", i, fields={"name": f"Tent {i}", "price": f"{i} euros"}) for i in range(60)]
    rows += [document("goods", 60 + i, fields={"name": f"{LONG} {i}", "price": "1 euro"}) for i in range(40)]
    _, examples, dropped = run(tmp_path, rows, templates={"goods": (template,)})
    assert sum("Tent" in e.question for e in examples) == 60
    assert {e.split for e in examples if LONG in e.question} == {"test"}
    assert set(dropped) == {"contaminated"}


def peak(folder: Path, count: int) -> int:
    """Return the most memory that a run over so many documents, and as many that are dropped, has held."""
    said = [" ".join(f"{'abcdefghij'[i % 10]}{n * i}" for n in range(900)) for i in range(count)]
    rows = [document(row=i, question=f"Question {i}?", answer=f"{text}.") for i, text in enumerate(said)]
    write(folder / str(count), rows + [document(row=i, text=f"{i} {text}") for i, text in enumerate(said)])
    del rows, said
    tracemalloc.start()
    config = Annotate(max_answer_chars=9_000, redact=(), min_test_items=1)
    annotate.run(config, clean=folder / str(count) / "clean", out=folder / str(count) / "out", ledger=NO_RUNS)
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def test_memory_does_not_grow_with_the_texts(tmp_path: Path) -> None:
    """Texts on the disk and in Arrow are not traced: `benchmarks/data.py` measures all memory."""
    # In a process of its own: threads that other tests have left behind are counted, too.
    code = (
        f"from tests.data.annotate import test_stage as t; t.worktables.BATCH = 10; folder = t.Path({str(tmp_path)!r});"
        "small, large = t.peak(folder, 30), t.peak(folder, 120); assert large - small < 2 * 90 * 900, (small, large)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tables_larger_than_memory_are_sorted_and_leave_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worktables, "MEMORY", "50MB")
    monkeypatch.setattr(worktables, "ROWS", 3_000)
    row = {name: "x" for name in schema(Dropped).names}
    with worktables.WorkTables(tmp_path / "work", TABLES) as tables:
        for start in range(0, 20_000, 2_000):
            numbers = range(start, start + 2_000)
            ids = [f"{number * 7 % 20_000:05d}" for number in numbers]
            tables.add("dropped", [{**row, "id": id_, "content": id_ * 800} for id_ in ids])
        assert list((tmp_path / "work").iterdir()), "80 MB are on the disk"
        found = tables.ranked_rows(annotate.DROPPED, tables.count("dropped"))
        assert [row["id"] for row in found] == [f"{number:05d}" for number in range(20_000)]
    assert not list(tmp_path.iterdir())


def test_passages_are_read_until_there_are_questions_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*["Short."] * 9, *(f"Parcels to the island of Isla{n} travel by boat on Mondays." for n in range(81))]
    place = {"source": "pages", "location": "a.html", "position": ""}
    passages = [Passage(id=f"p{n}", document=f"d{n % 9}", text=text, **place) for n, text in enumerate(texts)]
    write_passages(tmp_path, passages)
    read = list[int]()
    monkeypatch.setattr(made_up, "SAMPLED", 5)
    monkeypatch.setattr(made_up, "read_passages", lambda database, numbers: read_passages(database, noted(numbers)))

    def noted(numbers: Iterable[int]) -> Iterator[int]:
        for number in numbers:
            read.append(number)
            yield number

    made = made_up.make_up(tmp_path, 12, 0)
    assert len(made) == len({example.id for example in made}) == 12 and len(read) <= 5 + 12 + 9
    assert len({example.group for example in made[:9]}) == 9  # one of each document before a second
    assert len(made_up.make_up(tmp_path, 100, 0)) == 81


def test_documents_without_enough_questions_are_tested_with_made_up_ones_and_nothing_is_trained(tmp_path: Path) -> None:
    entries = list[Any]()
    told: Any = SimpleNamespace(interval="", entries=list, trained=list, write=lambda new: entries.extend(new))
    place = {"source": "pages", "location": "a.html", "headings": "Shop › Delivery"}
    text = "Short. Parcels to the island of {} travel by boat on Mondays. The boat takes one day for all of them."
    passages = [
        Passage(id=f"p{n}", document=f"d{n // 2}", position=f"{n // 2}", text=text.format(f"Isla{n}"), **place)
        for n in range(12)
    ]
    (index := tmp_path / "index").mkdir()
    write_passages(index, passages)
    asked = [document(row=n, question=f"What is question {n}?", answer=f"Answer {n}.") for n in range(12)]
    tasks = [document(row=n, question=f"Setting the clock {n}", answer=f"Do {n}.") for n in range(12, 16)]

    def made(least: int, share: float = 0.5) -> tuple[dict[str, Any], list[Example]]:
        config = Annotate(redact=(), min_test_items=least, test=share)
        write(tmp_path, [*asked, *tasks, document(row=99, text="Only text.")])
        metrics = annotate.run(config, clean=tmp_path / "clean", out=tmp_path / "out", ledger=told, index=index)
        assert not read_rows(tmp_path / "out" / "train.parquet", Example)
        assert not read_rows(tmp_path / "out" / "validation.parquet", Example)
        return dict(metrics), read_rows(tmp_path / "out" / "test.parquet", Example)

    metrics, rows = made(14)
    real, ours = rows[: -metrics["made_up"]], rows[-metrics["made_up"] :]
    assert (metrics["train"], metrics["test"], len(rows)) == (0, 14, 14) and len(real) == 14 - len(ours) > 0
    assert all(row.question.startswith("What is") for row in real)  # a heading that names a task asks nothing
    assert {entry.id for entry in entries} == {row.id for row in real}  # in the ledger are questions of people alone
    assert made(14)[1] == rows
    assert len({row.group for row in ours[:6]}) == 6  # other documents first
    for row in ours:
        assert row.answer.startswith("Parcels to the island") and row.question.startswith("Delivery: ")
        assert row.answer.split()[5].lower() in row.question and row.location == "a.html"
    with pytest.raises(LlmopsError, match=rf"give only {len(real)} test items and the indexed passages 12 more"):
        made(40)
    asked += [document(row=n, question=f"What is question {n}?", answer=f"Answer {n}.") for n in range(100, 130)]
    metrics, rows = made(20, 0.3)  # twice as many pairs as the test needs, but too small a share for it
    assert metrics["made_up"] == 20 - sum(row.source == "faq" for row in rows) > 0
    with pytest.raises(LlmopsError, match=r"No example is left to train on .*With grounding.enabled documents"):
        run(tmp_path, [document(row=99, text="Only text.")])

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
from llmops.data import work_tables
from llmops.data.annotate import passage_questions
from llmops.data.annotate import stage as annotate
from llmops.data.annotate.qa_pairs import TABLES
from llmops.data.retrieval.file_store import read_passages, write_passages
from llmops.frame.errors import LlmopsError
from llmops.frame.records import (
    OUT_OF_SCOPE_FILE,
    Document,
    DroppedRow,
    Example,
    Finding,
    Passage,
    get_schema,
    make_content_id,
    read_rows,
    write_rows,
)

TOKEN = "hf_" + "aB3dE5gH7j" * 4
EMPTY_LEDGER: Any = SimpleNamespace(interval="", read_entries=list, read_trained_texts=list, write=lambda entries: None)


def make_document(source: str = "faq", row: int = 0, **parts: Any) -> Document:
    if isinstance(parts.get("fields"), dict):
        parts["fields"] = json.dumps(parts["fields"])
    key = make_content_id(source, str(row), *map(str, parts.values()))
    return Document(id=key, source=source, location="x.csv", position=f"row {row}", **parts)


def make_pairs(count: int) -> list[Document]:
    return [make_document(row=i, question=f"Question {i}?", answer=f"Answer {i}.") for i in range(count)]


def write(folder: Path, documents: list[Document]) -> None:
    write_rows(folder / "clean" / "documents" / "part-00000.parquet", documents, Document)
    (folder / "out").mkdir(parents=True, exist_ok=True)


def run(
    folder: Path, documents: list[Document], **config: Any
) -> tuple[dict[str, Any], list[Example], dict[str, list[DroppedRow]]]:
    settings = Annotate(**{"redact": (), "min_test_items": 1, **config})
    write(folder, documents)
    metrics = annotate.run(settings, clean=folder / "clean", out=folder / "out", ledger=EMPTY_LEDGER)
    rows: dict[str, list[DroppedRow]] = {}
    for row in read_rows(folder / "out" / "dropped.parquet", DroppedRow):
        rows.setdefault(row.rule, []).append(row)
    splits = ("train", "validation", "test")
    return (dict(metrics), [e for name in splits for e in read_rows(folder / "out" / f"{name}.parquet", Example)], rows)


def select_source(examples: list[Example], source: str) -> list[Example]:
    return sorted((e for e in examples if e.source == source), key=lambda e: e.question)


WORLD = [
    *make_pairs(60),
    make_document("goods", 1, fields={"name": "Tent {x}", "price": "9", "size.m": ""}),
    make_document("goods", 2, fields={"name": "", "price": "7", "size.m": "2"}),
    make_document("known", question="How much is it?", answer="Five.", context="Prices.", group="cost"),
    make_document("known", 4, question="How much?", answer="4 euros.", group="price", licence="MIT"),
    make_document("known", 5, question="How much?", answer="5 euros.", group="price"),
    make_document("re", 1, question="What does it cost?", same_as="how much IS  it"),
    make_document("re", 2, question="How much is it", same_as="Is it cheap?"),
    make_document("re", 3, question="Who?", same_as="Which?"),
    make_document("re", 4, question="What is its price?", same_as="How much?", licence="proprietary"),
    make_document("cut", 1, question="Long?", answer="Dr. No came. He left. " * 9),
    make_document("cut", 2, question="Short?", answer="Dr. No came. He left. It rained."),
    make_document("cut", 3, question="Where?", answer="Here.", context="word " * 50),
    make_document("cut", 4, question="Why? " * 200, answer="So."),
    make_document("twice", 1, question="Same?", answer="Yes."),
    make_document("twice", 2, question="same", answer="YES"),
    make_document("twice", 3, question="Same?", answer="No."),
    make_document("twice", 4, question="Same?", answer="No.", context="Elsewhere."),
    make_document("twice", 5, text="Only text."),
    make_document("twice", 6, question="Topic?", answer="One.", group="t"),
    make_document("twice", 7, question="Topic?", answer="Two.", group="t"),
    *(make_document("fake", question="Q?", answer=f"Well {mark} then") for mark in ("####", "[Answer]", "<|im_end|>")),
    make_document("bad", 1, question="Where is it?", answer="where is it"),
    make_document("bad", 2, question="Which form?", answer="https://example.com/form"),
    make_document("bad", 3, question="Who are you?", answer="My address is ana@example.com"),
    make_document("bad", 4, question="Your address?", answer="ana@example.com"),
    make_document("pii", 1, question="I am bob@example.org. Refund?", answer="Yes.", group="bob@example.org"),
    make_document("pii", 2, question="Key?", answer=f"Use {TOKEN} here."),
    make_document("pii", 3, question="Who is it?", answer="Ana.",
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


class RunOutput(NamedTuple):
    """The output of one run over `WORLD`."""

    out: Path
    metrics: dict[str, Any]
    examples: list[Example]
    dropped: dict[str, list[DroppedRow]]

    def list_rules(self, source: str) -> dict[str, list[str]]:
        found = {rule: [r.position for r in rows if r.source == source] for rule, rows in self.dropped.items()}
        return {rule: positions for rule, positions in found.items() if positions}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> RunOutput:
    folder = tmp_path_factory.mktemp("world")
    return RunOutput(folder / "out", *run(folder, WORLD, **dict(CONFIG)))


def test_the_same_documents_in_any_order_and_files_give_the_same_bytes(output: RunOutput, tmp_path: Path) -> None:
    for number, part in enumerate((WORLD[50:][::-1], WORLD[:50][::-1])):
        write_rows(tmp_path / "clean" / "documents" / f"part-{number:05d}.parquet", part, Document)
    (tmp_path / "out").mkdir()
    just_enough = CONFIG.model_copy(update={"min_test_items": output.metrics["test"]})
    metrics = annotate.run(just_enough, clean=tmp_path / "clean", out=tmp_path / "out", ledger=EMPTY_LEDGER)
    assert dict(metrics) == output.metrics
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert files == {path.name: path.read_bytes() for path in output.out.iterdir()}


def test_pairs_become_examples_with_splits_and_annotated_text(output: RunOutput) -> None:
    plain = select_source(output.examples, "faq")
    assert len(plain) == 60 and not output.list_rules("faq")
    assert sum(output.metrics[split] for split in ("train", "validation", "test")) == len(output.examples)
    assert output.metrics["groups"] == len({e.group for e in output.examples})
    trained = [e for e in output.examples if e.split == "train"]
    text = (output.out / "train.txt").read_text(encoding="utf-8")
    assert text == "".join(prompts.format_example(e.question, e.answer, e.context) + "\n" for e in trained)
    assert {e.question: e.position for e in plain}["Question 7?"] == "row 7"


def test_templates_are_rendered_and_other_wordings_take_all_answers_of_the_known_side(output: RunOutput) -> None:
    assert [(e.question, e.answer, e.context, e.group) for e in select_source(output.examples, "goods")] == [
        ("Price of Tent {x}?", "9 euros.", "Tent {x}: 9", "Tent {x}")
    ]
    assert output.metrics["skipped_templates"] == 3 and output.list_rules("goods") == {"empty_field": ["row 2"]}
    assert sorted(
        (e.question, e.answer, e.context, e.group, e.position) for e in select_source(output.examples, "re")
    ) == [
        ("Is it cheap?", "Five.", "Prices.", "cost", "row 2"),
        ("What does it cost?", "Five.", "Prices.", "cost", "row 1"),
        ("What is its price?", "4 euros.", "", "price", "row 4"),
        ("What is its price?", "5 euros.", "", "price", "row 4"),
    ]
    licences = {e.answer: e.licence for e in select_source(output.examples, "re") if e.position == "row 4"}
    assert licences == {"4 euros.": "MIT AND proprietary", "5 euros.": ""}  # of question and answer
    assert output.list_rules("re") == {"unknown_question": ["row 3"]}
    assert "Who?" in output.dropped["unknown_question"][0].content


def test_long_duplicate_and_bad_pairs_are_dropped_with_a_reason(output: RunOutput) -> None:
    """Answers are dropped by their length before the others are cut."""
    assert [(e.question, e.answer, e.context) for e in select_source(output.examples, "cut")] == [
        ("Short?", "Dr. No came. He left.", ""),
        ("Where?", "Here.", " ".join(["word"] * 8)),
    ]
    assert output.list_rules("cut") == {"answer_too_long": ["row 1"], "question_too_long": ["row 4"]}
    kept, twice = select_source(output.examples, "twice"), output.list_rules("twice")
    assert {rule: len(rows) for rule, rows in twice.items()} == {"duplicate": 1, "conflict": 1, "no_question": 1}
    assert [(e.question.casefold().rstrip("?"), e.context) for e in kept].count(("same", "")) == 1
    assert len({e.split for e in kept if e.group == "t"}) == 1
    assert output.dropped["no_question"][0].content == "Only text."
    assert not select_source(output.examples, "fake") and len(output.list_rules("fake")["prompt_marker"]) == 3
    assert [e.answer for e in select_source(output.examples, "bad")] == ["My address is <EMAIL_ADDRESS>"]
    assert output.list_rules("bad") == {"echo": ["row 1"], "no_words": ["row 2", "row 4"]}


def test_personal_data_and_secrets_are_redacted_counted_and_never_shown(output: RunOutput) -> None:
    first, key, who = sorted(select_source(output.examples, "pii"), key=lambda e: e.position)
    assert first.question == "I am <EMAIL_ADDRESS>. Refund?"
    assert key.answer == "Use <SECRET> here."
    assert who.context == "Customer <EMAIL_ADDRESS>, card"
    assert output.metrics["redactions"] == {"CREDIT_CARD": 1, "EMAIL_ADDRESS": 4, "SECRET": 1}
    findings = read_rows(output.out / "findings.parquet", Finding)
    assert [(f.scan, f.rule, f.severity, f.where) for f in findings if f.where.startswith("pii:")] == [
        ("pii", "EMAIL_ADDRESS", "low", "pii: x.csv, row 1"),
        ("secrets", "SECRET", "medium", "pii: x.csv, row 2"),
        ("pii", "CREDIT_CARD", "low", "pii: x.csv, row 3"),
        ("pii", "EMAIL_ADDRESS", "low", "pii: x.csv, row 3"),
    ]
    shown = "".join(map(str, [output.examples, findings, output.metrics])) + (output.out / "train.txt").read_text()
    assert not any(secret in shown for secret in ("ana@", "bob@", "4111", TOKEN))


@pytest.mark.parametrize(
    ("documents", "config", "named"),
    [
        ([make_document(fields={"name": "x"})], {"templates": {"godos": [{"question": "q", "answer": "a"}]}},
         r"'godos'.*faq"),
        ([make_document(fields={"name": "x"})], {"templates": {"faq": [{"question": "q", "answer": "{nmae}"}]}},
         r"faq\[0\]\.answer.*'nmae'.*name"),
        (make_pairs(3), {"redact": ("SHOE_SIZE",)}, "SHOE_SIZE"),
        (make_pairs(30), {"min_test_items": 7}, r"Only 6 test items, .*min_test_items is 7.*annotate\.test"),  # by one
        ([make_document(question="Q?", answer="x" * 5000)], {}, "train on"),
        ([], {"test": 0.6, "validation": 0.4}, "share for training"),
    ],

)  # fmt: skip
def test_an_impossible_run_names_the_setting_to_change(
    tmp_path: Path, documents: list[Document], config: dict[str, Any], named: str
) -> None:
    with pytest.raises((LlmopsError, ValueError), match=named):
        run(tmp_path, documents, **config)


LONG = "Send it back within thirty days and you get the whole price again, but not what the parcel cost you."


@pytest.mark.parametrize(("sources", "split"), [((), "test"), (("p",), "validation")])
def test_examples_that_give_test_or_validation_away_do_not_train(
    tmp_path: Path, sources: tuple[str, ...], split: str
) -> None:
    page = "Parcels travel two days within the country and five to all other countries of the continent, never more."
    documents = [
        make_document("p", i, question=f"Is number {i} fine?", answer=f"{i} is.", context=page, group=f"{i}")
        for i in range(60)
    ]
    documents += [
        make_document("q", i, question=f"{'abcdefghij'[i % 10] * 9}{i}?", answer=f"Thing {i}. {LONG}")
        for i in range(30)
    ]
    _, examples, dropped = run(tmp_path, documents, test_sources=sources)
    kept = select_source(examples, "q")
    assert {e.split for e in kept} == {split} and len(kept) + len(dropped["contaminated"]) == 30
    assert len(select_source(examples, "p")) == 60, "the page is everybody's context"
    tested = {e.id for e in kept}
    for row in dropped["contaminated"]:
        assert any(item in row.detail for item in tested) and row.detail.startswith("shares ")


@pytest.mark.parametrize("place", ["both", "train", "test"])
def test_texts_of_no_label_are_kept_apart(tmp_path: Path, place: str) -> None:
    """Those of the tested source measure the threshold, the others choose it; if one side has none, every second."""
    labels, sources = ["refund", "card", "oos"], ["train", "test"]
    documents = [
        make_document(source, n, question=f"{source} text {n} {label}?", answer=label)
        for source in sources
        for label in labels
        for n in range(20)
        if label != "oos" or place in ("both", source)
    ]
    settings = {"split_by": "source", "test_sources": ["test"], "out_of_scope": " oos "}
    metrics, examples, _ = run(tmp_path, documents, **settings)
    assert {e.answer for e in examples} == {"refund", "card"} and metrics["test"] == 40
    outside = read_rows(tmp_path / "out" / OUT_OF_SCOPE_FILE, Example)
    assert {e.answer for e in outside} == {"oos"} and metrics["out_of_scope"] == len(outside) == (
        40 if place == "both" else 20
    )
    measured = [e for e in outside if e.split == "test"]
    assert {e.split for e in outside} == {"validation", "test"}
    assert "oos" not in (tmp_path / "out" / "train.txt").read_text()
    if place == "both":
        assert {e.source for e in measured} == {"test"} and len(measured) == 20


def test_training_rows_near_a_published_test_go(tmp_path: Path) -> None:
    """The test keeps rows that are near each other and near training rows. A second label of a text is dropped."""
    text = "I have waited eleven days for the new card that you wanted to send me by post"
    rows = [("test", text, "card"), ("test", f"{text} and more", "card"), ("test", "Pay me back", "refund")]
    rows += [("test", "Pay me back", "card"), ("train", f"{text} please", "card"), ("train", f"{text}!", "card")]
    rows += [("train", "pay me BACK?", "refund"), *(("train", f"Number {n}?", "card") for n in range(20))]
    documents = [
        make_document(source, n, question=asked, answer=label) for n, (source, asked, label) in enumerate(rows)
    ]
    metrics, examples, dropped = run(tmp_path, documents, split_by="source", test_sources=["test"])
    assert metrics["test"] == 3 and {e.question for e in examples if e.split == "test"} == {
        one for _, one, _ in rows[:3]
    }
    reasons = {row.position: rule for rule, found in dropped.items() for row in found}
    assert reasons == {"row 3": "conflict", "row 4": "contaminated", "row 5": "duplicate", "row 6": "duplicate"}
    assert len(select_source(examples, "train")) == 20 and "test item" in dropped["contaminated"][0].detail


def test_a_label_of_no_example_is_named(tmp_path: Path) -> None:
    with pytest.raises(LlmopsError, match="annotate.out_of_scope is 'none'"):
        run(tmp_path, make_pairs(30), out_of_scope="none")


def test_in_wording_mode_only_the_question_gives_the_test_away(tmp_path: Path) -> None:
    documents = [make_document("faq", i, question=f"Official {i}?", answer=f"Thing {i}. {LONG}") for i in range(40)]
    question = "So what about{} official {} {}, I have wondered for quite a while?"
    documents += [
        make_document("re", 10 * i + n, question=question.format(comma, i, i), same_as=f"Official {i}?")
        for i in range(40)
        for n, comma in enumerate(("", ","))
    ]
    _, examples, dropped = run(tmp_path, documents, split_by="wording", test_sources=["re"], test=0.4)
    assert len(select_source(examples, "faq")) == 40, "answers are meant to be known"
    assert set(dropped) == {"contaminated"}
    spoken = [(e.split, " ".join(e.question.replace(",", " ").split())) for e in examples]
    tested = {q for split, q in spoken if split == "test"}
    assert tested and not tested & {q for split, q in spoken if split != "test"}


def test_rows_of_one_template_share_its_words_and_only_a_rows_values_give_it_away(tmp_path: Path) -> None:
    template = Template(
        question="Would you be so kind as to tell me once more what I have to pay for the {name}?",
        answer="Of course, and thank you very much for asking: you pay {price} for the {name} in each of our shops.",
    )
    rows = [make_document("goods", i, fields={"name": f"Tent {i}", "price": f"{i} euros"}) for i in range(60)]
    rows += [make_document("goods", 60 + i, fields={"name": f"{LONG} {i}", "price": "1 euro"}) for i in range(40)]
    _, examples, dropped = run(tmp_path, rows, templates={"goods": (template,)})
    assert sum("Tent" in e.question for e in examples) == 60
    assert {e.split for e in examples if LONG in e.question} == {"test"}
    assert set(dropped) == {"contaminated"}


def measure_peak(folder: Path, count: int) -> int:
    """Return the peak memory of a run over `count` documents that are kept and as many that are dropped."""
    texts = [" ".join(f"{'abcdefghij'[i % 10]}{n * i}" for n in range(900)) for i in range(count)]
    rows = [make_document(row=i, question=f"Question {i}?", answer=f"{text}.") for i, text in enumerate(texts)]
    write(folder / str(count), rows + [make_document(row=i, text=f"{i} {text}") for i, text in enumerate(texts)])
    del rows, texts
    tracemalloc.start()
    config = Annotate(max_answer_chars=9_000, redact=(), min_test_items=1)
    annotate.run(config, clean=folder / str(count) / "clean", out=folder / str(count) / "out", ledger=EMPTY_LEDGER)
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def test_memory_does_not_grow_with_the_texts(tmp_path: Path) -> None:
    """Texts on the disk and in Arrow are not traced: `benchmarks/data.py` measures all memory."""
    # In a process of its own: threads that other tests have left behind are counted, too.
    code = (
        "from tests.data.annotate import test_stage as t; t.work_tables.BATCH_ROWS = 10;"
        f"folder = t.Path({str(tmp_path)!r});"
        "small, large = t.measure_peak(folder, 30), t.measure_peak(folder, 120); "
        "assert large - small < 2 * 90 * 900, (small, large)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tables_larger_than_memory_are_sorted_and_leave_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_tables, "MAX_MEMORY", "50MB")
    monkeypatch.setattr(work_tables, "MIN_FILE_ROWS", 3_000)
    row = {name: "x" for name in get_schema(DroppedRow).names}
    with work_tables.WorkTables(tmp_path / "work", TABLES) as tables:
        for start in range(0, 20_000, 2_000):
            numbers = range(start, start + 2_000)
            ids = [f"{number * 7 % 20_000:05d}" for number in numbers]
            tables.add("dropped", [{**row, "id": id_, "content": id_ * 800} for id_ in ids])
        assert list((tmp_path / "work").iterdir()), "80 MB are on the disk"
        found = tables.read_ranked_rows(annotate.SORTED_DROPPED, tables.count_rows("dropped"))
        assert [row["id"] for row in found] == [f"{number:05d}" for number in range(20_000)]
    assert not list(tmp_path.iterdir())


def test_passages_are_read_until_there_are_enough_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*["Short."] * 9, *(f"Parcels to the island of Isla{n} travel by boat on Mondays." for n in range(81))]
    origin = {"source": "pages", "location": "a.html", "position": ""}
    passages = [Passage(id=f"p{n}", document=f"d{n % 9}", text=text, **origin) for n, text in enumerate(texts)]
    write_passages(tmp_path, passages)
    read = list[int]()

    def record(numbers: Iterable[int]) -> Iterator[int]:
        for number in numbers:
            read.append(number)
            yield number

    def read_recorded(database: Any, numbers: Iterable[int]) -> Any:
        return read_passages(database, record(numbers))

    monkeypatch.setattr(passage_questions, "RARITY_SAMPLE", 5)
    monkeypatch.setattr(passage_questions, "read_passages", read_recorded)
    examples = passage_questions.make_passage_questions(tmp_path, 12, 0)
    assert len(examples) == len({example.id for example in examples}) == 12 and len(read) <= 5 + 12 + 9
    assert len({example.group for example in examples[:9]}) == 9  # one of each document before a second
    assert len(passage_questions.make_passage_questions(tmp_path, 100, 0)) == 81


def test_too_few_questions_are_filled_up_from_passages_and_nothing_is_trained(tmp_path: Path) -> None:
    entries = list[Any]()
    ledger: Any = SimpleNamespace(
        interval="", read_entries=list, read_trained_texts=list, write=lambda new: entries.extend(new)
    )
    origin = {"source": "pages", "location": "a.html", "headings": "Shop › Delivery"}
    text = "Short. Parcels to the island of {} travel by boat on Mondays. The boat takes one day for all of them."
    passages = [
        Passage(id=f"p{n}", document=f"d{n // 2}", position=f"{n // 2}", text=text.format(f"Isla{n}"), **origin)
        for n in range(12)
    ]
    (index := tmp_path / "index").mkdir()
    write_passages(index, passages)
    questions = [make_document(row=n, question=f"What is question {n}?", answer=f"Answer {n}.") for n in range(12)]
    tasks = [make_document(row=n, question=f"Setting the clock {n}", answer=f"Do {n}.") for n in range(12, 16)]

    def run_with_index(least: int, share: float = 0.5) -> tuple[dict[str, Any], list[Example]]:
        config = Annotate(redact=(), min_test_items=least, test=share)
        write(tmp_path, [*questions, *tasks, make_document(row=99, text="Only text.")])
        metrics = annotate.run(config, clean=tmp_path / "clean", out=tmp_path / "out", ledger=ledger, index=index)
        assert not read_rows(tmp_path / "out" / "train.parquet", Example)
        assert not read_rows(tmp_path / "out" / "validation.parquet", Example)
        return dict(metrics), read_rows(tmp_path / "out" / "test.parquet", Example)

    metrics, rows = run_with_index(14)
    real, ours = rows[: -metrics["made_up"]], rows[-metrics["made_up"] :]
    assert (metrics["train"], metrics["test"], len(rows)) == (0, 14, 14) and len(real) == 14 - len(ours) > 0
    assert all(row.question.startswith("What is") for row in real)  # a heading that names a task asks nothing
    assert {entry.id for entry in entries} == {row.id for row in real}  # in the ledger are questions of people alone
    assert run_with_index(14)[1] == rows
    assert len({row.group for row in ours[:6]}) == 6  # other documents first
    for row in ours:
        assert row.answer.startswith("Parcels to the island") and row.question.startswith("Delivery: ")
        assert row.answer.split()[5].lower() in row.question and row.location == "a.html"
    assert len(run_with_index(40)[1]) == len(real) + 12  # few documents are answered from, too
    questions += [
        make_document(row=n, question=f"What is question {n}?", answer=f"Answer {n}.") for n in range(100, 130)
    ]
    metrics, rows = run_with_index(20, 0.3)  # twice as many pairs as the test needs, but too small a share for it
    assert metrics["made_up"] == 20 - sum(row.source == "faq" for row in rows) > 0
    with pytest.raises(LlmopsError, match=r"No example is left to train on .*With grounding.enabled this is no error"):
        run(tmp_path, [make_document(row=99, text="Only text.")])

"""annotate: documents to examples."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmops import prompts
from llmops.config import Annotate, Template
from llmops.data import worktables
from llmops.data.annotate import stage as annotate
from llmops.data.annotate.candidates import TABLES
from llmops.data.annotate.split import normalized
from llmops.errors import ConfigError, LlmopsError
from llmops.records import Document, Dropped, Example, Finding, content_id, read_rows, schema, write_rows

FILES = ("train.parquet", "validation.parquet", "test.parquet", "dropped.parquet", "findings.parquet", "train.txt")


def document(source: str = "faq", row: int = 0, **parts: Any) -> Document:
    if isinstance(parts.get("fields"), dict):
        parts["fields"] = json.dumps(parts["fields"])
    key = content_id(source, str(row), *map(str, parts.values()))
    return Document(id=key, source=source, location="x.csv", position=f"row {row}", **parts)


def pairs(count: int) -> list[Document]:
    return [document(row=i, question=f"Question {i}?", answer=f"Answer {i}.") for i in range(count)]


def run(
    folder: Path, documents: list[Document], **config: Any
) -> tuple[dict[str, Any], list[Example], dict[str, list[Dropped]]]:
    settings = Annotate(**{"redact": (), "min_test_items": 1, **config})
    write_rows(folder / "clean" / "documents" / "part-00000.parquet", documents, Document)
    (folder / "out").mkdir(parents=True, exist_ok=True)
    metrics = annotate.run(settings, clean=folder / "clean", out=folder / "out")
    rows: dict[str, list[Dropped]] = {}
    for row in read_rows(folder / "out" / "dropped.parquet", Dropped):
        rows.setdefault(row.rule, []).append(row)
    splits = ("train", "validation", "test")
    return (
        dict(metrics),
        [e for name in splits for e in read_rows(folder / "out" / f"{name}.parquet", Example)],
        rows,
    )


def named(examples: list[Example], source: str) -> list[Example]:
    return sorted((e for e in examples if e.source == source), key=lambda e: e.question)


def test_pairs_become_examples_with_splits_and_annotated_text(tmp_path: Path) -> None:
    metrics, examples, dropped = run(tmp_path, pairs(60))
    assert len(examples) == 60 and not dropped
    assert metrics["train"] + metrics["validation"] + metrics["test"] == 60 and metrics["groups"] == 60
    trained = [e for e in examples if e.split == "train"]
    text = (tmp_path / "out" / "train.txt").read_text(encoding="utf-8")
    assert text == "".join(prompts.annotated(e.question, e.answer, e.context) + "\n" for e in trained)
    assert {e.question: e.position for e in examples}["Question 7?"] == "row 7"


def test_templates_are_rendered_and_skipped_where_a_field_is_empty(tmp_path: Path) -> None:
    goods = [
        document("goods", 1, fields={"name": "Tent {x}", "price": "9", "size.m": ""}),
        document("goods", 2, fields={"name": "", "price": "7", "size.m": "2"}),
    ]
    templates = {
        "goods": (
            Template(question="Price of {name}?", answer="{price} euros.", context="{name}: {price}", group="{name}"),
            Template(question="Size of {name}?", answer="{size.m} m."),
        )
    }
    metrics, examples, dropped = run(tmp_path, pairs(60) + goods, templates=templates)
    (made,) = named(examples, "goods")
    assert (made.question, made.answer, made.context, made.group) == (
        *("Price of Tent {x}?", "9 euros.", "Tent {x}: 9", "Tent {x}"),
    )
    assert metrics["skipped_templates"] == 3
    assert [row.position for row in dropped["empty_field"]] == ["row 2"]


@pytest.mark.parametrize(
    ("templates", "named"),
    [
        ({"godos": [{"question": "q", "answer": "a"}]}, r"'godos'.*faq"),
        ({"faq": [{"question": "q", "answer": "{nmae}"}]}, r"faq\[0\]\.answer.*'nmae'.*name"),
    ],
)
def test_a_template_for_what_is_not_there_is_an_error(tmp_path: Path, templates: dict[str, Any], named: str) -> None:
    with pytest.raises(LlmopsError, match=named):
        run(tmp_path, [document(fields={"name": "x"})], templates=templates)


def test_other_wordings_take_the_answer_of_the_known_side(tmp_path: Path) -> None:
    known = document(question="How much is it?", answer="Five.", context="Prices.", group="cost")
    others = [
        document("re", 1, question="What does it cost?", same_as="how much IS  it"),
        document("re", 2, question="How much is it", same_as="Is it cheap?"),
        document("re", 3, question="Who?", same_as="Which?"),
    ]
    _, examples, dropped = run(tmp_path, [*pairs(60), known, *others])
    assert [(e.question, e.answer, e.context, e.group, e.position) for e in named(examples, "re")] == [
        ("Is it cheap?", "Five.", "Prices.", "cost", "row 2"),
        ("What does it cost?", "Five.", "Prices.", "cost", "row 1"),
    ]
    assert [row.position for row in dropped["unknown_question"]] == ["row 3"]
    assert "Who?" in dropped["unknown_question"][0].content


def test_a_question_with_several_answers_hands_all_of_them_to_its_other_wording(tmp_path: Path) -> None:
    known = [document(row=i, question="How much?", answer=f"{i} euros.", group="cost") for i in (4, 5)]
    other = document("re", 1, question="What does it cost?", same_as="How much?")
    _, examples, _ = run(tmp_path, [*pairs(60), *known, other])
    assert sorted(e.answer for e in named(examples, "re")) == ["4 euros.", "5 euros."]


def test_long_answers_are_dropped_before_the_others_are_cut(tmp_path: Path) -> None:
    extra = [
        document("x", 1, question="Long?", answer="Dr. No came. He left. " * 9),
        document("x", 2, question="Short?", answer="Dr. No came. He left. It rained."),
        document("x", 3, question="Where?", answer="Here.", context="word " * 50),
        document("x", 4, question="Why? " * 200, answer="So."),
    ]
    _, examples, dropped = run(
        tmp_path, pairs(60) + extra, max_answer_sentences=2, max_answer_chars=60, max_context_chars=22
    )
    assert [(e.question, e.answer, e.context) for e in named(examples, "x")] == [
        ("Short?", "Dr. No came. He left.", ""),
        ("Where?", "Here.", "word word word word"),
    ]
    assert [row.position for row in dropped["answer_too_long"]] == ["row 1"]
    assert [row.position for row in dropped["question_too_long"]] == ["row 4"]


def test_duplicates_conflicts_and_leftovers_are_dropped_with_reasons(tmp_path: Path) -> None:
    extra = [
        document("x", 1, question="Same?", answer="Yes."),
        document("x", 2, question="same", answer="YES"),
        document("x", 3, question="Same?", answer="No."),
        document("x", 4, question="Same?", answer="No.", context="Elsewhere."),
        document("x", 5, text="Only text."),
        document("x", 6, question="Topic?", answer="One.", group="t"),
        document("x", 7, question="Topic?", answer="Two.", group="t"),
    ]
    _, examples, dropped = run(tmp_path, pairs(60) + extra)
    assert {rule: len(rows) for rule, rows in dropped.items()} == {"duplicate": 1, "conflict": 1, "no_question": 1}
    assert [(e.question.casefold().rstrip("?"), e.context) for e in named(examples, "x")].count(("same", "")) == 1
    assert len({e.split for e in examples if e.group == "t"}) == 1
    assert dropped["no_question"][0].content == "Only text."


@pytest.mark.parametrize("marker", ["####", "[Answer]", "<|im_end|>"])
def test_texts_that_would_fake_a_turn_are_dropped(tmp_path: Path, marker: str) -> None:
    _, examples, dropped = run(tmp_path, [*pairs(60), document("x", question="Q?", answer=f"Well {marker} then")])
    assert not named(examples, "x") and len(dropped["prompt_marker"]) == 1


def test_pairs_that_are_not_worth_learning_are_dropped_with_the_rule(tmp_path: Path) -> None:
    extra = [
        document("x", 1, question="Where is it?", answer="where is it"),
        document("x", 2, question="Which form?", answer="https://example.com/form"),
        document("x", 3, question="Who are you?", answer="My address is ana@example.com"),
        document("x", 4, question="Your address?", answer="ana@example.com"),
    ]
    _, examples, dropped = run(tmp_path, pairs(60) + extra, redact=("EMAIL_ADDRESS",))
    assert [e.answer for e in named(examples, "x")] == ["My address is <EMAIL_ADDRESS>"]
    assert {rule: [row.position for row in rows] for rule, rows in dropped.items()} == {
        "echo": ["row 1"],
        "no_words": ["row 2", "row 4"],
    }


LONG = "Send it back within thirty days and you get the whole price again, but not what the parcel cost you."


def test_what_would_give_the_test_away_is_not_trained_on(tmp_path: Path) -> None:
    page = "Parcels travel two days within the country and five to all other countries of the continent, never more."
    documents = [
        document("p", i, question=f"Is number {i} fine?", answer=f"{i} is.", context=page, group=f"{i}")
        for i in range(60)
    ]
    documents += [
        document("q", i, question=f"{'abcdefghij'[i % 10] * 9}{i}?", answer=f"Thing {i}. {LONG}") for i in range(30)
    ]
    _, examples, dropped = run(tmp_path, documents)
    kept = named(examples, "q")
    assert {e.split for e in kept} == {"test"} and len(kept) + len(dropped["contaminated"]) == 30
    assert len(named(examples, "p")) == 60, "the page is everybody's context"
    tested = {e.id for e in kept}
    for row in dropped["contaminated"]:
        assert any(item in row.detail for item in tested) and row.detail.startswith("shares ")


def test_in_wording_mode_only_the_question_gives_the_test_away(tmp_path: Path) -> None:
    documents = [document("faq", i, question=f"Official {i}?", answer=f"Thing {i}. {LONG}") for i in range(40)]
    documents += [
        document(
            "re",
            10 * i + n,
            question=f"{opening} {i} {i}, I have wondered for quite a while?",
            same_as=f"Official {i}?",
        )
        for i in range(40)
        for n, opening in enumerate(("So what about official", "So what about, official"))
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


ASKED = st.tuples(st.integers(0, 5), st.integers(0, 3), st.sampled_from(["faq", "re", "chat"]), st.booleans())


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(ASKED, max_size=12),
    st.lists(ASKED, max_size=12),
    st.sampled_from(["group", "wording"]),
    st.sampled_from([(), ("re",)]),
)
def test_a_tested_question_is_never_trained_on_however_the_data_grows(
    tmp_path_factory: pytest.TempPathFactory,
    old: list[tuple[int, int, str, bool]],
    new: list[tuple[int, int, str, bool]],
    by: str,
    sources: tuple[str, ...],
) -> None:
    def documents(asked: list[tuple[int, int, str, bool]]) -> list[Document]:
        rows = [
            document(
                source, 10 * q + a, question=f"Q{q}?", same_as=f"Q{a}?" if re else "", answer="" if re else f"A{a}."
            )
            for q, a, source, re in asked
        ]
        return list({row.id: row for row in rows}.values())

    found = []
    for asked in (old, old + new):
        try:
            config = {"split_by": by, "test_sources": sources, "test": 0.4, "validation": 0.2}
            _, examples, _ = run(tmp_path_factory.mktemp("run"), documents(asked) + pairs(40), **config)
        except LlmopsError:  # too few test items for these
            return
        found.append({normalized(e.question): e.split for e in examples})
    before, after = found
    tested = {question for question, split in before.items() if split == "test"}
    assert {after.get(question) for question in tested} <= {"test"}
    assert not {e for e, split in before.items() if split == "validation" and after.get(e) == "train"}


@pytest.mark.parametrize("by", ["group", "wording"])
def test_no_question_is_in_two_splits(tmp_path: Path, by: str) -> None:
    documents = pairs(80)
    documents += [document("re", i, question=f"Reworded {i % 50}?", same_as=f"question {i}") for i in range(80)]
    documents += [
        document("chat", i, question=f"Question {i}!", answer="Hm.", group=f"t{i % 3}") for i in range(0, 80, 2)
    ]
    _, examples, _ = run(tmp_path, documents, split_by=by)
    splits: dict[str, set[str]] = {}
    for e in examples:
        splits.setdefault(normalized(e.question), set()).add(e.split)
    assert all(len(found) == 1 for found in splits.values())


def test_personal_data_and_secrets_are_redacted_counted_and_never_shown(tmp_path: Path) -> None:
    token = "hf_" + "aB3dE5gH7j" * 4
    context = "Customer ana@example.com, card 4111 1111 1111 1111. " + "More. " * 30
    extra = [
        document("x", 1, question="I am bob@example.org. Refund?", answer="Yes.", group="bob@example.org"),
        document("x", 2, question="Key?", answer=f"Use {token} here."),
        document("x", 3, question="Who?", answer="Ana.", context=context),
    ]
    metrics, examples, dropped = run(
        tmp_path, pairs(60) + extra, redact=("EMAIL_ADDRESS", "CREDIT_CARD", "SECRET"), max_context_chars=42
    )
    first, key, who = sorted(named(examples, "x"), key=lambda e: e.position)
    assert first.question == "I am <EMAIL_ADDRESS>. Refund?"
    assert key.answer == "Use <SECRET> here."
    assert who.context == "Customer <EMAIL_ADDRESS>, card"
    assert metrics["redactions"] == {"CREDIT_CARD": 1, "EMAIL_ADDRESS": 2, "SECRET": 1}
    findings = read_rows(tmp_path / "out" / "findings.parquet", Finding)
    assert [(f.scan, f.rule, f.severity, f.where) for f in findings] == [
        ("pii", "EMAIL_ADDRESS", "low", "x: x.csv, row 1"),
        ("secrets", "SECRET", "medium", "x: x.csv, row 2"),
        ("pii", "CREDIT_CARD", "low", "x: x.csv, row 3"),
        ("pii", "EMAIL_ADDRESS", "low", "x: x.csv, row 3"),
    ]
    assert not dropped
    shown = "".join(map(str, [examples, findings, metrics])) + (tmp_path / "out" / "train.txt").read_text()
    assert not any(secret in shown for secret in ("ana@", "bob@", "4111", token))


def test_an_unknown_entity_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="SHOE_SIZE"):
        run(tmp_path, pairs(3), redact=("SHOE_SIZE",))


def test_the_same_input_in_any_order_gives_the_same_bytes(tmp_path: Path) -> None:
    documents = [*pairs(60), document("re", 1, question="Reworded?", same_as="Question 1")]
    documents += [document("x", i, question="Same?", answer=f"{i % 3}") for i in range(9)]
    found = []
    for name, rows in (("x", documents), ("y", documents[::-1])):
        run(tmp_path / name, rows)
        found.append([(tmp_path / name / "out" / file).read_bytes() for file in FILES])
    assert found[0] == found[1]


def test_memory_does_not_grow_with_the_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies on the disk and in Arrow is not traced: `benchmarks/data.py` measures all memory."""
    monkeypatch.setattr(worktables, "BATCH", 10)

    def peak(count: int) -> int:
        said = [" ".join(f"{'abcdefghij'[i % 10]}{n * i}" for n in range(900)) for i in range(count)]
        rows = [document(row=i, question=f"Question {i}?", answer=f"{said[i]}.") for i in range(count)]
        rows += [document(text=f"{i} {text}") for i, text in enumerate(said)]  # dropped
        folder = tmp_path / str(count)
        write_rows(folder / "clean" / "documents" / "part-00000.parquet", rows, Document)
        (folder / "out").mkdir()
        del rows, said
        tracemalloc.start()
        try:
            config = Annotate(max_answer_chars=9_000, redact=(), min_test_items=1)
            annotate.run(config, clean=folder / "clean", out=folder / "out")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(30), peak(120)
    text = 2 * 90 * 900 * 5
    assert large - small < text / 5


def test_tables_that_do_not_fit_in_memory_are_sorted_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_too_few_test_items_is_an_error_that_says_what_to_change(tmp_path: Path) -> None:
    with pytest.raises(LlmopsError, match=r"Only \d+ test items, .*min_test_items is 60.*annotate\.test"):
        run(tmp_path, pairs(30), min_test_items=60)


def test_nothing_to_train_on_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LlmopsError, match="train on"):
        run(tmp_path, [document(question="Q?", answer="x" * 5000)])


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError):
        Annotate(test=0.6, validation=0.4)

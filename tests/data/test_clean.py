"""clean, on a real Spark session."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from llmops.config import Clean
from llmops.data import clean, spark
from llmops.errors import LlmopsError
from llmops.records import Document, Dropped, read_rows, write_rows

CONFIG = Clean(master="local[1]", driver_memory="512m", partitions=2, min_chars=3, max_chars=60)


@pytest.fixture(scope="module")
def session() -> Iterator[SparkSession]:
    with spark.session(CONFIG) as active:
        yield active


def document(id: str, **parts: str) -> Document:
    return Document(id=id, source="src", location="x.csv", position=f"row {id}", **parts)


def run(
    folder: Path, config: Clean, *documents: Document
) -> tuple[dict[str, Any], dict[str, Document], dict[str, Dropped]]:
    write_rows(folder / "in" / "documents.parquet", documents, Document)
    metrics = clean.run(config, collect=folder / "in", out=folder / "out")
    kept = {d.id: d for d in read_rows(folder / "out" / "documents", Document)}
    dropped = {d.id: d for d in read_rows(folder / "out" / "dropped", Dropped)}
    return dict(metrics), kept, dropped


def test_rules_drop_with_their_reasons_and_the_rest_is_kept(tmp_path: Path, session: SparkSession) -> None:
    metrics, kept, dropped = run(
        tmp_path,
        CONFIG,
        document("a", question="How much?", answer="Five euros."),
        document("b", question="Never answered?"),
        document("c", answer="Never asked."),
        document("d"),
        document("e", fields=json.dumps({"x": "", "y": " "})),
        document("f", question="How?", answer="Ab"),
        document("g", question="How?", answer="x" * 61),
        document("h", question="?!?!?!x", answer="All fine."),
        document("i", question="Reworded?", same_as="How much?"),
        document("j", fields=json.dumps({"x": "1"})),
        document("k", text="Only text."),
        document("l", question="\u200b \u00ad", answer="An invisible question."),
    )
    assert {i: d.rule for i, d in dropped.items()} == {
        **{"b": "missing", "c": "missing", "d": "missing", "e": "missing", "l": "missing"},
        **{"f": "too_short", "g": "too_long", "h": "symbols"},
    }
    assert sorted(kept) == ["a", "i", "j", "k"]
    assert dropped["f"].detail == "answer: 2 characters, fewer than 3"
    assert dropped["h"].detail == "question: 86 % symbols, more than 50 %"
    assert "Never answered?" in dropped["b"].content and dropped["b"].position == "row b"
    assert metrics == {"in": 12, "kept": 4, "dropped": {"missing": 5, "symbols": 1, "too_long": 1, "too_short": 1}}


def test_of_duplicates_the_smallest_id_survives(tmp_path: Path, session: SparkSession) -> None:
    _, kept, dropped = run(
        tmp_path,
        CONFIG,
        document("c", question="How  much?", answer="Five &euro; now."),
        document("a", question="how much?", answer="Five € NOW."),
        document("b", question="How much?\u200b", answer="Five € now."),
        document("d", question="How much?", answer="Five € now.", context="In winter."),
        document("e", question="How much?Five € now.", answer="Five"),
        document("f", fields='{"x": "1"}', text="x: 1"),
        document("g", fields='{"x": "1"}', text="x: 1"),
    )
    assert {i: (d.rule, d.detail[-1]) for i, d in dropped.items()} == {
        **{"b": ("duplicate", "a"), "c": ("duplicate", "a"), "g": ("duplicate", "f")}
    }
    assert sorted(kept) == ["a", "d", "e", "f"]


def test_a_dropped_document_is_no_survivor(tmp_path: Path, session: SparkSession) -> None:
    config = CONFIG.model_copy(update={"min_chars": 4})
    rows = [document("a", question="How?", answer="Yes"), document("b", question="How?", answer="yes")]
    _, _, dropped = run(tmp_path, config, *rows, document("c", text="Keeps it going."))
    assert {d.rule for d in dropped.values()} == {"too_short"}


def test_texts_are_tidied(tmp_path: Path, session: SparkSession) -> None:
    _, kept, _ = run(
        tmp_path,
        CONFIG,
        document(
            "a",
            question=" What\tis\r\n“cafÃ©”?\x00\ufeff ",
            answer="One\u00a0 line \r\n\r\n\r\n\n two\u202e &amp; three\U000e0041",
            group=" a\nb ",
            fields='{"n": " x\\u200by  z ", "＂": "＂"}',
        ),
        document("b", text="می\u200cخواهم 👩\u200d🚀 no\u200cjoiner"),
    )
    assert kept["a"].question == 'What is "café"?'
    assert kept["a"].answer == "One line\n\ntwo & three"
    assert kept["a"].group == "a b"
    assert json.loads(kept["a"].fields) == {"n": "xy z", "＂": '"'}
    assert kept["b"].text == "می\u200cخواهم 👩\u200d🚀 nojoiner"


def test_classic_is_an_option(tmp_path: Path, session: SparkSession) -> None:
    config = CONFIG.model_copy(update={"classic": True})
    _, kept, _ = run(tmp_path, config, document("a", question="Is it É-mail (v2)?", answer="Yes, it IS."))
    assert (kept["a"].question, kept["a"].answer) == ("is it émail v2", "yes it is")


def test_the_same_input_gives_the_same_files(tmp_path: Path, session: SparkSession) -> None:
    rows = [document(f"{i:03d}", question=f"Question {i % 40}?", answer="An answer.") for i in range(80)]
    runs = []
    for name, documents in (("x", rows), ("y", rows[::-1])):
        run(tmp_path / name, CONFIG, *documents)
        out = tmp_path / name / "out"
        runs.append({str(f.relative_to(out)): f.read_bytes() for f in sorted(out.rglob("*")) if f.is_file()})
    assert runs[0] == runs[1]
    assert all(Path(name).name.startswith("part-") for name in runs[0])


def test_nothing_left_is_an_error_that_counts_the_reasons(tmp_path: Path, session: SparkSession) -> None:
    with pytest.raises(LlmopsError, match="none of 1 documents.*missing"):
        run(tmp_path, CONFIG, document("a"))


def test_a_session_that_was_there_is_left_alone(tmp_path: Path, session: SparkSession) -> None:
    run(tmp_path, CONFIG, document("a", text="Some text."))
    assert SparkSession.getActiveSession() is not None
    assert session.range(2).count() == 2


def test_a_missing_java_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SparkSession, "getActiveSession", classmethod(lambda cls: None))
    monkeypatch.setattr(spark, "java_problem", lambda: "Spark needs Java 17 or newer")
    with pytest.raises(LlmopsError, match="Java 17"):
        run(tmp_path, CONFIG, document("a", text="Some text."))


def test_a_session_of_its_own_is_stopped(tmp_path: Path) -> None:
    if active := SparkSession.getActiveSession():
        active.stop()
    run(tmp_path, CONFIG, document("a", text="Some text."))
    assert SparkSession.getActiveSession() is None

"""clean, on a real Spark session."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest
from pyspark.sql import SparkSession

from llmops.config import Annotate, Clean
from llmops.data import spark
from llmops.data.clean import layout
from llmops.data.clean import stage as clean
from llmops.errors import LlmopsError
from llmops.records import Document, Dropped, read_rows, schema, write_rows

CONFIG = Clean(master="local[2]", driver_memory="512m", partitions=2, min_chars=3, max_chars=60)
CLASSES = Path(pyspark.__file__).parent / "bin" / "spark-class"


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """A standalone cluster on loopback, one master and two workers; yields the master's URL."""
    environ = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_WORKER_DIR": str(folder / "work")}
    environ |= {"SPARK_DAEMON_MEMORY": "256m", "SPARK_LOCAL_DIRS": str(folder / "tmp")}
    started: list[subprocess.Popen[str]] = []

    def start(role: str, *arguments: str) -> str:
        command = [str(CLASSES), f"org.apache.spark.deploy.{role}", "--host", "127.0.0.1", "--port", "0", *arguments]
        command += ["--webui-port", "0"]
        log = folder / f"{len(started)}.log"
        with open(log, "w") as output:
            started.append(
                subprocess.Popen(command, env=environ, stdout=output, stderr=output, text=True, start_new_session=True)
            )
        wanted = r"Starting Spark master at (spark://\S+)" if role.endswith("Master") else r"Successfully registered"
        deadline = time.monotonic() + 120
        while not (match := re.search(wanted, log.read_text())):
            assert time.monotonic() < deadline and started[-1].poll() is None, log.read_text()
            time.sleep(0.2)
        return match[1] if match.groups() else ""

    try:
        url = start("master.Master")
        for _ in range(2):
            start("worker.Worker", "--cores", "1", "--memory", "600m", url)
        yield url
    finally:
        for process in reversed(started):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module", params=["local", "cluster"])
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """A session in this process's JVM, and one on a cluster of three others."""
    if request.param == "local":
        with spark.session(CONFIG) as active:
            yield active
        return
    settings = {
        "spark.executor.memory": "512m",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.pyspark.python": sys.executable,
    }
    with cluster(tmp_path_factory.mktemp("cluster")) as url:
        config = CONFIG.model_copy(update={"master": url, "spark": settings})
        with spark.session(config) as active:
            yield active


def key(name: str | int) -> str:
    """An id as records have it, in the order of the names."""
    return f"{name:016x}" if isinstance(name, int) else f"{ord(name):016x}"


def document(name: str | int, **parts: str) -> Document:
    return Document(id=key(name), source="src", location="x.csv", position=f"row {name}", **parts)


def cleaned(folder: Path, config: Clean) -> Any:
    """`in` is cleaned to `out`; on a cluster by way of a folder that its workers share."""
    active = SparkSession.getActiveSession()
    if active and not str(active.sparkContext.master).startswith("local"):
        config = config.model_copy(update={"work": str(folder / "shared")})
    metrics = clean.run(config, collect=folder / "in", out=folder / "out")
    assert not (folder / "out" / ".work").exists() and not list(folder.glob("shared/*"))
    return metrics


def run(
    folder: Path, config: Clean, *documents: Document
) -> tuple[dict[str, Any], dict[str, Document], dict[str, Dropped]]:
    write_rows(folder / "in" / "documents.parquet", documents, Document)
    metrics = cleaned(folder, config)
    kept = {d.position.split()[1]: d for d in read_rows(folder / "out" / "documents", Document)}
    dropped = {d.position.split()[1]: d for d in read_rows(folder / "out" / "dropped", Dropped)}
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
    assert metrics == {
        "in": 12,
        "kept": 4,
        "dropped": {"missing": 5, "symbols": 1, "too_long": 1, "too_short": 1},
        "sources": {"src": {"in": 12, "kept": 4}},
    }
    table = (tmp_path / "out" / "report.md").read_text()
    assert "| src | 12 | 5 | 1 | 1 | 1 | 4 | 33.3% |" in table and (tmp_path / "out" / "funnel.png").stat().st_size


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
    assert {i: (d.rule, d.detail.split()[-1]) for i, d in dropped.items()} == {
        **{"b": ("duplicate", key("a")), "c": ("duplicate", key("a")), "g": ("duplicate", key("f"))}
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
    assert kept["a"].question == "What is “café”?"
    assert kept["a"].answer == "One  line\n\n\n two & three"
    assert kept["a"].group == "a b"
    assert json.loads(kept["a"].fields) == {"n": "xy z", "＂": "＂"}
    assert kept["b"].text == "می\u200cخواهم 👩\u200d🚀 nojoiner"


def test_classic_is_an_option(tmp_path: Path, session: SparkSession) -> None:
    config = CONFIG.model_copy(update={"classic": True})
    _, kept, _ = run(tmp_path, config, document("a", question="Is it É-mail (v2)?", answer="Yes, it IS."))
    assert (kept["a"].question, kept["a"].answer) == ("is it émail v2", "yes it is")


LONG = CONFIG.model_copy(update={"max_chars": 5000})
STORY = "the old lighthouse keeper walked down to the harbour every morning to count the boats that had come home"


def test_near_duplicates_are_dropped_with_what_they_share(tmp_path: Path, session: SparkSession) -> None:
    other = STORY.replace("boats", "ships").replace("keeper", "warden").replace("harbour", "port")
    _, kept, dropped = run(
        tmp_path,
        LONG,
        document("a", text=STORY),
        document("b", text=STORY.upper().replace(" EVERY", ", every") + "!"),
        document("c", text=STORY + " again"),
        document("d", text=other),
        document("e", question=STORY + "?", answer="Yes, he did."),
        document("f", text="Too short to compare."),
        document("g", text="Too short to compare!"),
    )
    assert {i: (d.rule, d.detail) for i, d in dropped.items()} == {
        "b": ("near_duplicate", f"shares 100 % of its word 3-grams with {key('a')}"),
        "c": ("near_duplicate", f"shares 94 % of its word 3-grams with {key('a')}"),
        "e": ("near_duplicate", f"shares 85 % of its word 3-grams with {key('a')}"),
    }
    assert sorted(kept) == ["a", "d", "f", "g"]


def test_what_is_asked_and_answered_is_compared_within_one_context(tmp_path: Path, session: SparkSession) -> None:
    """A page is the context of many questions, and one question may be asked of many pages."""
    page = f"{STORY}, and {STORY}, and then {STORY}."
    questions = [
        "When does he walk?",
        "Where does he walk to?",
        "What does he count there?",
        "Who walks?",
        "What is old?",
    ]
    years = ["1939", "1945", "1952"]
    asked = "Going by the report above, in which year did the town begin to pay the keeper for his work?"
    _, kept, dropped = run(
        tmp_path,
        LONG,
        *(document(i, question=q, answer="As the page says.", context=page) for i, q in enumerate(questions)),
        *(document(10 + i, question=asked, answer=y, context=f"Report {y}. {STORY}") for i, y in enumerate(years)),
        document(20, question=f"Now, {asked}", answer="1939", context=f"report  1939. {STORY}"),
    )
    assert sorted(map(int, kept)) == [0, 1, 2, 3, 4, 10, 11, 12]
    assert dropped["20"].rule == "near_duplicate" and dropped["20"].detail.endswith(key(10))


def test_a_tested_source_stays_before_the_others_whatever_the_ids(tmp_path: Path, session: SparkSession) -> None:
    long = {"question": f"{STORY}?", "answer": "Yes, he did."}
    short = {"question": "How much?", "answer": "Five euros."}
    documents = [replace(document(i, **parts), source=source) for i, (source, parts) in enumerate(
        [("chat", long), ("chat", short), ("faq", {**long, "answer": "Yes, he did so."}), ("faq", short), ("faq", long)]
    )]  # fmt: skip
    write_rows(tmp_path / "in" / "documents.parquet", documents, Document)
    for tested, stays in (((), [0, 1]), (("faq",), [2, 3]), (("chat", "faq"), [0, 1])):
        out = tmp_path / "-".join(("out", *tested))
        config = LONG.model_copy(update={"work": str(tmp_path / "shared")})
        clean.run(config, collect=tmp_path / "in", out=out, annotate=Annotate(test_sources=tested))
        assert [d.id for d in read_rows(out / "documents", Document)] == [key(i) for i in stays]


def test_rows_that_differ_in_a_number_and_other_wordings_are_no_near_duplicates(
    tmp_path: Path, session: SparkSession
) -> None:
    _, _, dropped = run(
        tmp_path,
        LONG,
        *(document(i, text=f"{STORY} {i}", fields=json.dumps({"story": STORY, "n": str(i)})) for i in range(2)),
        *(document(i, question=f"{STORY}, no {i}?", same_as="Where does he walk?") for i in (2, 3)),
    )
    assert not dropped


def test_one_is_exact_duplicates_only(tmp_path: Path, session: SparkSession) -> None:
    config = LONG.model_copy(update={"near_duplicates": 1.0})
    _, _, dropped = run(
        tmp_path, config, document("a", text=STORY), document("b", text=STORY + "!"), document("c", text=STORY)
    )
    assert {i: d.rule for i, d in dropped.items()} == {"c": "duplicate"}


def test_repetition_is_dropped(tmp_path: Path, session: SparkSession) -> None:
    _, kept, dropped = run(
        tmp_path,
        LONG,
        document("a", text="Home\nShop\nHome\nHome\nShop\nHome"),
        document("b", answer="buy now " * 15, question="What?"),
        document("c", text="One line\nanother\na third\na fourth\nanother"),
        document("d", text=STORY),
    )
    assert {i: (d.rule, d.detail) for i, d in dropped.items()} == {
        "a": ("repetition", "text: 67 % of its lines are duplicates"),
        "b": ("repetition", "answer: only 7 % of its words are different"),
    }
    assert sorted(kept) == ["c", "d"]


def test_other_languages_are_dropped_if_asked(tmp_path: Path, session: SparkSession) -> None:
    config = LONG.model_copy(update={"languages": ("en", "fr")})
    _, kept, dropped = run(
        tmp_path,
        config,
        document("a", question="Where is my order?", answer="It left the warehouse on Monday."),
        document("b", question="Où est ma commande ?", answer="Elle a quitté l'entrepôt lundi dernier."),
        document("c", question="Wo ist meine Bestellung?", answer="Sie hat das Lager am Montag verlassen."),
        document("d", question="OK?", answer="No 17"),
    )
    assert {i: (d.rule, d.detail) for i, d in dropped.items()} == {"c": ("language", "it is in de, not in en, fr")}
    assert sorted(kept) == ["a", "b", "d"]


def test_the_same_documents_give_the_same_files(
    tmp_path: Path, session: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whatever order, row groups, parts and partitions."""
    monkeypatch.setattr(clean, "ROWS_PER_FILE", 5)
    words = STORY.split()
    rows = [
        document(i << 57, question=" ".join(words[i % 7 :]) + "?", answer=f"Answer {chr(97 + i % 5)}{chr(97 + i % 7)}.")
        for i in range(80)
    ]  # ids all over their range, as hashes are
    runs = []
    for name, documents, partitions, group, fan in (("x", rows, 1, 80, 16), ("y", rows[::-1], 5, 7, 2)):
        monkeypatch.setattr(layout, "FAN", fan)
        table = pa.Table.from_pylist([asdict(row) for row in documents], schema=schema(Document))
        (tmp_path / name / "in").mkdir(parents=True)
        pq.write_table(table, tmp_path / name / "in" / "documents.parquet", row_group_size=group)
        metrics = cleaned(tmp_path / name, LONG.model_copy(update={"partitions": partitions}))
        assert metrics["in"] == 80 and metrics["dropped"]["duplicate"] and metrics["dropped"]["near_duplicate"]
        out = tmp_path / name / "out"
        runs.append({str(f.relative_to(out)): f.read_bytes() for f in sorted(out.rglob("*")) if f.is_file()})
    assert runs[0] == runs[1]
    assert len([name for name in runs[0] if name.startswith("dropped")]) == 16


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
    assert SparkSession.getActiveSession() is None
    run(tmp_path, CONFIG, document("a", text="Some text."))
    assert SparkSession.getActiveSession() is None

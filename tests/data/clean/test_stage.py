"""clean, on a real Spark session; test_cluster.py has it on several hosts."""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from llmops.config import Annotate, Clean
from llmops.data import remote
from llmops.data.clean import stage as clean
from llmops.data.clean import work_files
from llmops.frame.errors import LlmopsError
from llmops.frame.records import Document, DroppedRow, get_schema, read_rows, write_rows

CONFIG = Clean(master="local[2]", driver_memory="512m", partitions=2, min_chars=3, max_chars=60)
LONG = CONFIG.model_copy(update={"max_chars": 5000})
STORY = "the old lighthouse keeper walked down to the harbour every morning to count the boats that had come home"


def key(name: str | int) -> str:
    return f"{name:016x}" if isinstance(name, int) else f"{ord(name):016x}"


def document(name: str | int, **parts: str) -> Document:
    return Document(id=key(name), source="src", location="x.csv", position=f"row {name}", **parts)


class Cleaned(NamedTuple):
    """The output of a cleaning, its documents by their names."""

    out: Path
    metrics: dict[str, Any]
    kept: dict[str, Document]
    dropped: dict[str, DroppedRow]

    def reasons(self, names: str) -> dict[str, tuple[str, str]]:
        """Return name → rule and detail of the dropped ones among some names."""
        return {name: (self.dropped[name].rule, self.dropped[name].detail) for name in names if name in self.dropped}


def run(folder: Path, config: Clean, *documents: Document) -> Cleaned:
    write_rows(folder / "in" / "documents.parquet", documents, Document)
    out = folder / "out"
    metrics = clean.run(config, collect=folder / "in", out=out)
    assert not (out / ".work").exists()
    kept = {d.position.split()[1]: d for d in read_rows(out / "documents", Document)}
    return Cleaned(out, dict(metrics), kept, {d.position.split()[1]: d for d in read_rows(out / "dropped", DroppedRow)})


def test_texts_are_tidied_rules_say_why_and_the_smallest_id_survives(session: SparkSession, tmp_path: Path) -> None:
    short = run(
        tmp_path,
        CONFIG,
        document("a", question="How many?", answer="Five euros."),
        document("b", question="Never answered?"),
        document("c", answer="Never asked."),
        document("d"),
        document("e", fields=json.dumps({"x": "", "y": " "})),
        document("f", question="How?", answer="Ab"),
        document("g", question="How?", answer="x" * 61),
        document("h", question="?!?!?!x", answer="All fine."),
        document("i", question="Reworded?", same_as="How many?"),
        document("j", fields=json.dumps({"x": "1"})),
        document("k", text="Only text."),
        document("l", question="\u200b \u00ad", answer="An invisible question."),
        document("m", question="How?", answer="ab"),  # a dropped document is no survivor
        document("P", question="How much?\u200b", answer="Five € now."),
        document("Q", question="How  much?", answer="Five &euro; now."),
        document("O", question="how much?", answer="Five € NOW."),
        document("R", question="How much?", answer="Five € now.", context="In winter."),
        document("S", question="How much?Five € now.", answer="Five"),
        document("T", fields='{"x": "1"}', text="x: 1"),
        document("U", fields='{"x": "1"}', text="x: 1"),
        document(
            "X",
            question=" What\tis\r\n“cafÃ©”?\x00\ufeff ",
            answer="One\u00a0 line \r\n\r\n\r\n\n two\u202e &amp; three\U000e0041",
            group=" a\nb ",
            fields='{"n": " x\\u200by  z ", "＂": "＂"}',
        ),
        document("Y", text="می\u200cخواهم 👩\u200d🚀 no\u200cjoiner"),
    )
    assert {name: rule for name, (rule, _) in short.reasons("abcdefghijklm").items()} == {
        **{"b": "missing", "c": "missing", "d": "missing", "e": "missing", "l": "missing"},
        **{"f": "too_short", "m": "too_short", "g": "too_long", "h": "symbols"},
    }
    assert {"a", "i", "j", "k"} <= short.kept.keys() and not short.kept.keys() & short.dropped.keys()
    assert short.dropped["h"].detail == "question: 86 % symbols, more than 50 %"
    assert "Never answered?" in short.dropped["b"].content and short.dropped["b"].position == "row b"
    assert short.metrics == {
        "in": 22,
        "kept": 10,
        "dropped": {"duplicate": 3, "missing": 5, "symbols": 1, "too_long": 1, "too_short": 2},
        "sources": {"src": {"in": 22, "kept": 10}},
    }
    table = (short.out / "report.md").read_text()
    assert "| src | 22 | 5 | 2 | 1 | 1 | 3 | 10 | 45.5% |" in table and (short.out / "funnel.png").stat().st_size
    assert {name: (rule, detail.split()[-1]) for name, (rule, detail) in short.reasons("OPQRSTU").items()} == {
        **{"P": ("duplicate", key("O")), "Q": ("duplicate", key("O")), "U": ("duplicate", key("T"))}
    }
    assert session.range(2).count() == 2, "a session that was there is left alone"
    assert short.kept["X"].question == "What is “café”?"
    assert short.kept["X"].answer == "One  line\n\n\n two & three"
    assert short.kept["X"].group == "a b"
    assert json.loads(short.kept["X"].fields) == {"n": "xy z", "＂": "＂"}
    assert short.kept["Y"].text == "می\u200cخواهم 👩\u200d🚀 nojoiner"


def test_near_duplicates_and_repetition_go_and_other_contexts_stay(session: SparkSession, tmp_path: Path) -> None:
    """A page is the context of many questions, and one question may be asked of many pages."""
    other = STORY.replace("boats", "ships").replace("keeper", "warden").replace("harbour", "port")
    page = f"{STORY}, and {STORY}, and then {STORY}."
    questions = ["When does he walk?", "Where does he walk to?", "Who walks?", "What is old?"]
    asked = "Going by the report above, in which year did the town begin to pay the keeper for his work?"
    long = run(
        tmp_path,
        LONG,
        document("a", text=STORY),
        document("b", text=STORY.upper().replace(" EVERY", ", every") + "!"),
        document("c", text=STORY + " again"),
        document("d", text=other),
        document("e", question=STORY + "?", answer="Yes, he did."),
        document("f", text="Too short to compare."),
        document("g", text="Too short to compare!"),
        *(document(i, question=q, answer="As the page says.", context=page) for i, q in enumerate(questions)),
        *(document(10 + i, question=asked, answer=f"{1939 + i}", context=f"Report {i}. {STORY}") for i in range(3)),
        document("A", question=f"Now, {asked}", answer="1939", context=f"report  0. {STORY}"),
        *(document(30 + i, text=f"{STORY} {i}", fields=json.dumps({"story": STORY, "n": str(i)})) for i in range(2)),
        *(document(40 + i, question=f"{STORY}, no {i}?", same_as="Where does he walk?") for i in (2, 3)),
        document("X", text="Home\nShop\nHome\nHome\nShop\nHome"),
        document("Y", answer="buy now " * 15, question="What?"),
        document("Z", text="One line\nanother\na third\na fourth\nanother"),
    )
    assert long.reasons("abcdefgXYZ") == {
        "b": ("near_duplicate", f"shares 100 % of its word 3-grams with {key('a')}"),
        "c": ("near_duplicate", f"shares 94 % of its word 3-grams with {key('a')}"),
        "e": ("near_duplicate", f"shares 85 % of its word 3-grams with {key('a')}"),
        "X": ("repetition", "text: 67 % of its lines are duplicates"),
        "Y": ("repetition", "answer: only 7 % of its words are different"),
    }
    assert {"0", "1", "2", "3", "10", "11", "12", "30", "31", "42", "43"} <= long.kept.keys()
    assert long.dropped["A"].rule == "near_duplicate" and long.dropped["A"].detail.endswith(key(10))


def test_other_languages_and_exact_duplicates_alone_are_dropped_if_asked(tmp_path: Path, session: SparkSession) -> None:
    found = run(
        tmp_path,
        LONG.model_copy(update={"languages": ("en", "fr"), "near_duplicates": 1.0}),
        document("a", question="Where is my order?", answer="It left the warehouse on Monday."),
        document("b", question="Où est ma commande ?", answer="Elle a quitté l'entrepôt lundi dernier."),
        document("c", question="Wo ist meine Bestellung?", answer="Sie hat das Lager am Montag verlassen."),
        document("e", text=STORY),
        document("f", text=STORY + "!"),
        document("g", text=STORY),
    )
    assert found.dropped["c"].detail == "it is in de, not in en, fr"
    assert {name: row.rule for name, row in found.dropped.items()} == {"c": "language", "g": "duplicate"}


def test_a_tested_source_stays_before_the_others_whatever_the_ids(tmp_path: Path, session: SparkSession) -> None:
    story = {"question": f"{STORY}?", "answer": "Yes, he did."}
    short = {"question": "How much?", "answer": "Five euros."}
    documents = [replace(document(i, **parts), source=source) for i, (source, parts) in enumerate(
        [("chat", story), ("chat", short), ("faq", {**story, "answer": "Yes, he did so."}), ("faq", short),
         ("faq", story)]
    )]  # fmt: skip
    write_rows(tmp_path / "in" / "documents.parquet", documents, Document)
    for tested, stays in ((("faq",), [2, 3]), (("chat", "faq"), [0, 1])):
        out = tmp_path / "-".join(("out", *tested))
        config = LONG.model_copy(update={"work": str(tmp_path / "shared")})
        clean.run(config, collect=tmp_path / "in", out=out, annotate=Annotate(test_sources=tested))
        assert [d.id for d in read_rows(out / "documents", Document)] == [key(i) for i in stays]
        assert not list(tmp_path.glob("shared/*"))


def test_a_published_test_stays_whole(tmp_path: Path, session: SparkSession) -> None:
    """Its near duplicates stay, those of its rows in training go, and so do copies."""
    story = {"question": f"{STORY}?", "answer": "refund"}
    questions = [("train", STORY), ("test", f"{STORY}, now"), ("test", f"{STORY}, no"), ("test", f"{STORY}, no")]
    questions += [("train", f"{STORY}, or"), ("train", f"{STORY}, no")]
    documents = [
        replace(document(i, **{**story, "question": text}), source=source) for i, (source, text) in enumerate(questions)
    ]
    write_rows(tmp_path / "in" / "documents.parquet", documents, Document)
    for split_by, stays in (("source", [1, 2]), ("wording", [1])):
        chosen = Annotate(split_by=split_by, test_sources=("test",))
        clean.run(LONG, collect=tmp_path / "in", out=tmp_path / split_by, annotate=chosen)
        assert [d.id for d in read_rows(tmp_path / split_by / "documents", Document)] == [key(i) for i in stays]


def many() -> list[Document]:
    """Return documents of which some are duplicates; ids all over their range, as hashes are."""
    words = STORY.split()
    return [
        document(i << 57, question=" ".join(words[i % 7 :]) + "?", answer=f"Answer {chr(97 + i % 5)}{chr(97 + i % 7)}.")
        for i in range(80)
    ]


def cleaned(folder: Path, documents: Iterable[Document], group: int, **config: Any) -> dict[str, bytes]:
    table = pa.Table.from_pylist([asdict(row) for row in documents], schema=get_schema(Document))
    (folder / "in").mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "in" / "documents.parquet", row_group_size=group)
    out = folder / "out"
    metrics = clean.run(LONG.model_copy(update=config), collect=folder / "in", out=out)
    assert metrics["in"] == 80 and metrics["dropped"]["duplicate"] and metrics["dropped"]["near_duplicate"]
    return {str(f.relative_to(out)): f.read_bytes() for f in sorted(out.rglob("*")) if f.is_file()}


def test_equal_input_gives_equal_files(tmp_path: Path, session: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever order, row groups and partitions."""
    monkeypatch.setattr(clean, "ROWS_PER_FILE", 10)
    one = cleaned(tmp_path / "one", many(), 80, partitions=1)
    assert cleaned(tmp_path / "other", many()[::-1], 7, partitions=3) == one
    assert len([name for name in one if name.startswith("dropped")]) == 8


def test_work_files_may_be_in_any_store(
    store: str, session: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objects: Callable[[str], Any]
) -> None:
    if store.startswith("s3"):
        extra = {"endpoint_url": os.environ["AWS_ENDPOINT_URL"]}
        login = {"login": os.environ["AWS_ACCESS_KEY_ID"], "password": os.environ["AWS_SECRET_ACCESS_KEY"]}
        connection = {"conn_type": "aws", **login, "extra": extra}
    else:
        extra = {"connection_string": os.environ["AZURE_STORAGE_CONNECTION_STRING"]}
        connection = {"conn_type": "wasb", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_WORK", json.dumps(connection))
    here = cleaned(tmp_path / "here", many(), 40)
    assert cleaned(tmp_path / "there", many(), 40, work=f"{store}/work", connection="work") == here
    assert not objects(store).find(remote.connect(store, os.environ).path)
    with pytest.raises(work_files.WorkError, match=r"not-there/work/.* cannot be written: .*make it"):
        cleaned(tmp_path / "nowhere", many(), 40, work=f"{store}-not-there/work")


def test_lost_documents_are_counted(tmp_path: Path, session: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a worker does not see what another one wrote; test_work.py has files that are gone or damaged."""
    written = clean._write_parts

    def lost(*args: Any) -> Any:
        parts = written(*args)
        return {**parts, 1: parts[0]}

    monkeypatch.setattr(clean, "_write_parts", lost)
    with pytest.raises(work_files.WorkError, match="lost.* src: 80 came in, "):
        cleaned(tmp_path, many(), 40)
    assert not list(tmp_path.rglob("parts"))


def test_nothing_left_and_no_java_fail(tmp_path: Path, session: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LlmopsError, match="none of 1 documents.*missing"):
        run(tmp_path / "nothing", CONFIG, document("a"))
    monkeypatch.setattr(SparkSession, "getActiveSession", classmethod(lambda cls: None))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "none"))
    with pytest.raises(LlmopsError, match=r"Java 17 or newer: JAVA_HOME is .*default-jre-headless"):
        run(tmp_path / "java", CONFIG, document("a", text="Some text."))


def test_a_session_of_its_own_is_stopped(tmp_path: Path) -> None:
    if active := SparkSession.getActiveSession():
        active.stop()
    assert SparkSession.getActiveSession() is None
    run(tmp_path, CONFIG, document("a", text="Some text."))
    assert SparkSession.getActiveSession() is None

"""From every kind of source, through its real reader, to an example that says where it comes from."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any, get_args

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.platypus import Paragraph, SimpleDocTemplate

from llmops.config import Annotate, Config, Source
from llmops.data.annotate import stage as annotate
from llmops.data.annotate.ledger import planned
from llmops.data.collect import stage as collect
from llmops.records import Example, read_rows

NAMES = [a + b for a in "bdfgkl" for b in "aeiou"]
ROWS = [
    {"q": f"What costs a {n}?", "a": f"A {n} costs {i} euros.", "c": f"Prices: {n} {i} euros.", "t": f"topic {n}"}
    for i, n in enumerate(NAMES)
]
FIELDS = {"question": "q", "answer": "a", "context": "c", "group": "t"}


def table(path: Path) -> None:
    path.write_text("q;a;c;t\n" + "".join(";".join(row.values()) + "\n" for row in ROWS), encoding="utf-8")


def parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), path)


def array(path: Path) -> None:
    path.write_text(json.dumps(ROWS), encoding="utf-8")


def lines(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")


def xml(path: Path) -> None:
    items = "".join("<i>" + "".join(f"<{k}>{v}</{k}>" for k, v in row.items()) + "</i>" for row in ROWS)
    path.write_text(f"<l>{items}</l>", encoding="utf-8")


def html(path: Path) -> None:
    sections = "".join(f"<h2>{row['q']}</h2><p>{row['a']}</p>" for row in ROWS)
    path.write_text(f"<html><body><main><h1>Prices</h1>{sections}</main></body></html>", encoding="utf-8")


def pdf(path: Path) -> None:
    styles = getSampleStyleSheet()
    parts = [
        Paragraph(row[key], styles[style]) for row in ROWS for key, style in (("q", "Heading2"), ("a", "BodyText"))
    ]
    SimpleDocTemplate(str(path)).build(parts)


def database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE faq (q TEXT, a TEXT, c TEXT, t TEXT)")
        connection.executemany("INSERT INTO faq VALUES (:q, :a, :c, :t)", ROWS)


def chat(path: Path) -> None:
    path.write_text("---\n".join(f"Customer: {row['q']}\nAgent: {row['a']}\n" for row in ROWS), encoding="utf-8")


def markdown(path: Path) -> None:
    path.write_text("# Prices\n\n" + "".join(f"## {row['q']}\n\n{row['a']}\n\n" for row in ROWS), encoding="utf-8")


def text(path: Path) -> None:
    path.write_text("Prices\n\n" + "".join(f"{row['q']}\n\n{row['a']}\n\n" for row in ROWS), encoding="utf-8")


def dataset(path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(path)


KINDS: dict[str, tuple[Any, dict[str, Any], str]] = {  # kind → writer, settings of the source, start of a position
    "csv": (table, {"fields": FIELDS}, "row "),
    "parquet": (parquet, {"fields": FIELDS}, "row "),
    "json": (array, {"fields": FIELDS}, ""),
    "jsonl": (lines, {"fields": FIELDS}, "line "),
    "xml": (xml, {"fields": FIELDS, "records": "l/i"}, ""),
    "html": (html, {}, "section "),
    "pdf": (pdf, {}, "page "),
    "sql": (database, {"fields": FIELDS, "query": "SELECT * FROM faq ORDER BY q"}, "row "),
    "chat": (chat, {}, ""),
    "markdown": (markdown, {}, ""),
    "text": (text, {}, "line "),
    "dataset": (dataset, {"fields": FIELDS}, "row "),
}


def test_every_kind_is_here() -> None:
    """But what users say, which goes its way in tests/serving/test_improvement.py."""
    assert {*KINDS, "feedback"} == set(get_args(Source.model_fields["kind"].annotation))


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_carries_context_place_and_licence(kind: str, tmp_path: Path) -> None:
    write, more, position = KINDS[kind]
    name = f"prices.{'txt' if kind in ('chat', 'text') else kind}"
    write(tmp_path / name)
    location = f"sqlite:///{name}" if kind == "sql" else name
    source = Source(name="prices", kind=kind, location=location, licence="CC-BY-4.0", owner="sales", **more)
    (tmp_path / "collected").mkdir()
    config = Config(home=tmp_path / "home", collect={"root": tmp_path, "sources": [source]})
    collect.run(config.collect, interval="2026-01-31", out=tmp_path / "collected")
    (tmp_path / "clean" / "documents").mkdir(parents=True)  # what Spark makes of it holds the same columns
    (tmp_path / "collected" / "documents.parquet").rename(tmp_path / "clean" / "documents" / "part-00000.parquet")
    (tmp_path / "out").mkdir()
    chosen = Annotate(min_test_items=1, redact=())
    ledger = planned(config.database, "bot", chosen, "2026-01-31", lambda read: read)
    annotate.run(chosen, clean=tmp_path / "clean", out=tmp_path / "out", ledger=ledger)
    examples = [
        e for s in ("train", "validation", "test") for e in read_rows(tmp_path / "out" / f"{s}.parquet", Example)
    ]
    asked = {e.question: e for e in examples}
    assert sorted(asked) == sorted(row["q"] for row in ROWS)
    for row in ROWS:
        example = asked[row["q"]]
        assert " ".join(example.answer.split()) == row["a"]
        assert (example.source, example.licence, example.interval) == ("prices", "CC-BY-4.0", "2026-01-31")
        assert name in example.location and example.position.startswith(position) and example.position
        if "fields" in more:
            assert (example.context, example.group) == (row["c"], row["t"])

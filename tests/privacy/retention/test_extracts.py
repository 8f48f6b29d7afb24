"""What collect keeps of sources: it goes when no run that is kept has used it, and comes again by itself."""

import os
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from llmops.config import Config
from llmops.frame import artifacts
from llmops.pipeline.pipeline import run_stage
from llmops.privacy.retention.gc import collect_garbage

HEAD = "question,answer\n"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "same.csv").write_text(HEAD + "Where is it?,There.\n")
    (tmp_path / "edited.csv").write_text(HEAD + "When is it?,On day 0.\n")
    with closing(sqlite3.connect(tmp_path / "shop.db")) as shop, shop:
        shop.execute("CREATE TABLE faq (id, question, answer, at)")
        shop.execute("INSERT INTO faq VALUES (1, 'What is it?', 'A shop.', '2025-12-01')")
    query = "SELECT id, question, answer, at FROM faq"
    table = {"query": query, "name": "shop", "kind": "sql", "location": "sqlite:///shop.db", "cursor": "at"}
    files = {"name": "faq", "kind": "csv", "location": "*.csv"}
    fields = {"fields": {"question": "question", "answer": "answer"}}
    sources = [{**files, **fields}, {**table, "key": ["id"], **fields}]
    return Config(
        home=tmp_path / "home", collect={"root": tmp_path, "sources": sources}, retention={"runs": 2, "days": 1}
    )


def read_answers(cache: Path) -> set[str]:
    rows = [row for path in cache.rglob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return {row["answer"] for row in rows if row["answer"]}


def test_extracts_of_content_that_no_kept_run_has_read_go(config: Config, tmp_path: Path) -> None:
    names = []
    for day in range(4):
        (tmp_path / "edited.csv").write_text(HEAD + f"When is it?,On day {day}.\n")
        path = run_stage("collect", config, f"2026-01-0{day + 1}")
        names.append(path)
        past = time.time() - (4 - day) * 86_400 * 2
        os.utime(path / artifacts.RECORD, (past, past))
        time.sleep(0.01)
    cache = config.collect.cache
    assert read_answers(cache) == {"There.", "A shop.", *(f"On day {day}." for day in range(4))}
    collect_garbage(config, now=datetime.now(UTC) + timedelta(days=1))
    assert read_answers(cache) == {"There.", "A shop.", "On day 2.", "On day 3."}
    assert [artifacts.is_done(path) for path in names] == [False, False, True, True]
    repeated = run_stage("collect", config, "2026-01-05")
    sources = artifacts.read_record(repeated).metrics["sources"]
    assert sources["faq"]["read"] == 0 and sources["faq"]["unchanged"] == 2  # nothing that counts was read twice

"""The example's committed sources are what its generator writes, and every planted defect is really in them."""

import importlib.util
import json
import re
import sqlite3
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from pypdf import PdfReader

from llmops.config import load
from llmops.data.collect import stage as collect
from llmops.frame.records import Document, DroppedRow, read_rows

EXAMPLES = Path(__file__).parents[2] / "examples"
SOURCES = EXAMPLES / "support_bot" / "sources"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_sources", EXAMPLES / "support_bot" / "make_sources.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "make_sources", module)  # dataclasses look their module up while it is executed
        spec.loader.exec_module(module)
    return module


def list_files(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def dump_database(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        return list(connection.iterdump())


def test_committed_sources_are_what_the_generator_writes(generator: ModuleType, tmp_path: Path) -> None:
    generator.write_sources(tmp_path)
    committed, written = list_files(SOURCES), list_files(tmp_path)
    assert committed.keys() == written.keys()
    for name, path in committed.items():
        if name.endswith(".db"):  # the file's header holds the version of SQLite
            assert dump_database(path) == dump_database(written[name])
        elif name == "policy/returns_policy.pdf":  # the file's layout is reportlab's matter
            ours, theirs = ([page.extract_text() for page in PdfReader(pdf).pages] for pdf in (path, written[name]))
            assert ours == theirs
        else:
            assert path.read_bytes() == written[name].read_bytes(), name


def test_personal_data_is_there_and_fictional() -> None:
    lines = (SOURCES / "chats.jsonl").read_text(encoding="utf-8").splitlines()
    chats = [json.loads(line) for line in lines if line.endswith("}")]
    messages = " ".join(m["content"] for chat in chats for m in chat.get("messages", []) if m["role"] == "user")
    for pattern in (r"@example\.(com|org)", r"555[-]01\d\d", r"\b4111( 1111){3}\b", "AKIAIOSFODNN7EXAMPLE", "â€|Ã"):
        assert re.search(pattern, messages), pattern
    text = "".join(p.read_bytes().decode("latin-1") for p in list_files(SOURCES).values() if p.suffix != ".pdf")
    assert set(re.findall(r"@([a-z]+\.[a-z]+)", text)) == {"example.com", "example.org"}
    assert all(number.startswith("202-555-01") for number in re.findall(r"\d{3}-\d{3}-\d{4}", text))


def test_collecting_quarantines_exactly_what_is_planted(tmp_path: Path) -> None:
    config = load(EXAMPLES / "support_bot" / "config.yaml", environ={})
    collect.run(config.collect, interval="2026-01-01", out=tmp_path)
    bad = [(row.source, row.rule) for row in read_rows(tmp_path / "quarantine.parquet", DroppedRow)]
    assert Counter(bad) == {
        ("customers", "malformed"): 2,
        ("customers", "encoding"): 1,
        ("returns_policy", "unreadable"): 1,
        ("chats", "malformed"): 2,
    }
    documents = read_rows(tmp_path / "documents.parquet", Document)
    pairs = [d for d in documents if d.question and d.answer]
    assert all(d.group for d in pairs), "every wording carries its topic"
    answers = {d.group: d.answer for d in pairs if d.source in ("help", "returns_policy", "faq")}
    assert len(answers) == 58
    for d in pairs:
        if d.source in ("transcripts", "chats") and d.answer != "?":
            assert " ".join(answers[d.group].split()) == d.answer, d.question
    assert all(d.context for d in pairs if d.source == "chats")


def test_faq_config_reads_the_folder_it_is_given(tmp_path: Path) -> None:
    file = EXAMPLES / "faq" / "config.yaml"
    config = load(file, environ={"LLMOPS_COLLECT__ROOT": str(tmp_path)})
    assert config.collect.root == tmp_path
    assert {*config.annotate.test_sources} <= {source.name for source in config.collect.sources}


def test_the_faq_example_has_data_whose_wordings_have_an_answer(tmp_path: Path) -> None:
    config = load(EXAMPLES / "faq" / "config.yaml", environ={})
    collect.run(config.collect, interval="2026-01-01", out=tmp_path)
    assert read_rows(tmp_path / "quarantine.parquet", DroppedRow) == []
    documents = read_rows(tmp_path / "documents.parquet", Document)
    reworded = [d for d in documents if d.source == "rewordings"]
    assert {d.same_as for d in reworded} <= {d.question for d in documents if d.source == "faq" and d.answer}
    assert len(reworded) * config.annotate.test >= config.annotate.min_test_items

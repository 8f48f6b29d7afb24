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

from llmops.config import Config, load
from llmops.data.collect import stage as collect
from llmops.records import Document, Dropped, read_rows

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


@pytest.fixture
def config() -> Config:
    return load(EXAMPLES / "support_bot" / "config.yaml", environ={})


def files(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def database(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        return list(connection.iterdump())


def pages(path: Path) -> list[str]:
    return [page.extract_text() for page in PdfReader(path).pages]


def chats() -> list[dict[str, object]]:
    lines = (SOURCES / "chats.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def test_committed_sources_are_what_the_generator_writes(generator: ModuleType, tmp_path: Path) -> None:
    generator.write(tmp_path)
    committed, written = files(SOURCES), files(tmp_path)
    assert committed.keys() == written.keys()
    for name, path in committed.items():
        if name.endswith(".db"):  # the file's header holds the version of SQLite
            assert database(path) == database(written[name])
        elif name == "policy/returns_policy.pdf":  # the file's layout is reportlab's matter
            assert pages(path) == pages(written[name])
        else:
            assert path.read_bytes() == written[name].read_bytes(), name


def test_config_names_files_that_exist_and_licences(config: Config) -> None:
    said, *others = config.collect.sources
    assert said.kind == "feedback" and len(others) == 9
    for source in others:
        pattern = source.location.removeprefix("sqlite:///")
        assert list(config.collect.root.glob(pattern)), source.name
        assert source.licence == "CC0-1.0" and source.owner
    assert {s.kind for s in config.collect.sources} >= {"csv", "sql", "json", "xml", "html", "pdf", "chat"}


def test_personal_data_is_there_and_fictional() -> None:
    said = " ".join(m["content"] for c in chats() for m in c.get("messages", []) if m["role"] == "user")  # type: ignore[attr-defined]
    for pattern in (
        r"@example\.(com|org)",
        r"555[-]01\d\d",
        r"\b4111 1111 1111 1111\b",
        "AKIAIOSFODNN7EXAMPLE",
        "â€|Ã",
    ):
        assert re.search(pattern, said), pattern
    text = "".join(p.read_bytes().decode("latin-1") for p in files(SOURCES).values() if p.suffix != ".pdf")
    assert set(re.findall(r"@([a-z]+\.[a-z]+)", text)) == {"example.com", "example.org"}
    assert all(number.startswith("202-555-01") for number in re.findall(r"\d{3}-\d{3}-\d{4}", text))


def test_collecting_quarantines_exactly_what_is_planted(config: Config, tmp_path: Path) -> None:
    collect.run(config.collect, interval="2026-01-01", out=tmp_path)
    bad = [(row.source, row.rule) for row in read_rows(tmp_path / "quarantine.parquet", Dropped)]
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
    assert config.annotate.split_by == "wording"
    assert config.annotate.test_sources == ("rewordings",)
    faq, rewordings = config.collect.sources
    assert faq.fields == {"question": "question", "answer": "answer"}
    assert rewordings.fields == {"question": "question_2", "same_as": "question_1"}
    assert rewordings.where == {"similar": "1"}
    assert (load(file, environ={}).collect.root / "x").parent.name == "data"

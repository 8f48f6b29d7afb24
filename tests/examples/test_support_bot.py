"""The example's committed sources are what its generator writes, and every planted defect is really in them."""

import csv
import importlib.util
import json
import re
import sqlite3
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from lxml import etree
from pypdf import PdfReader
from pypdf.errors import PyPdfError

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


def asked() -> list[str]:
    return [m["content"] for c in chats() for m in c.get("messages", []) if m["role"] == "user"]  # type: ignore[attr-defined]


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


def test_writing_again_changes_nothing(generator: ModuleType, tmp_path: Path) -> None:
    generator.write(tmp_path)
    before = {name: path.read_bytes() for name, path in files(tmp_path).items()}
    generator.write(tmp_path)
    assert {name: path.read_bytes() for name, path in files(tmp_path).items()} == before


def test_config_names_files_that_exist_and_licences(config: Config) -> None:
    said, *others = config.collect.sources
    assert said.kind == "feedback" and len(others) == 9
    for source in others:
        pattern = source.location.removeprefix("sqlite:///")
        assert list(config.collect.root.glob(pattern)), source.name
        assert source.licence == "CC0-1.0" and source.owner
    assert {s.kind for s in config.collect.sources} >= {"csv", "sql", "json", "xml", "html", "pdf", "chat"}


def test_templates_name_fields_that_the_sources_have(config: Config) -> None:
    with sqlite3.connect(SOURCES / "shop.db") as connection:
        order = {c[0] for c in connection.execute("SELECT * FROM order_status").description}
    product = etree.parse(SOURCES / "catalogue.xml").getroot()[0]
    review = json.loads((SOURCES / "reviews.json").read_text(encoding="utf-8"))["reviews"][0]
    header = (SOURCES / "customers.csv").read_bytes().splitlines()[0].decode()
    known = {
        "orders": order,
        "customers": set(header.split(",")),
        "catalogue": {"sku", "size.weight", *(str(child.tag) for child in product)},
        "reviews": {f"{k}.{n}" for k, v in review.items() if isinstance(v, dict) for n in v} | set(review),
    }
    assert known.keys() == config.annotate.templates.keys()
    for name, templates in config.annotate.templates.items():
        for t in templates:
            used = set(re.findall(r"\{([^}]+)\}", " ".join((t.question, t.answer, t.context, t.group))))
            assert used <= known[name], name
            assert t.context, "answers about rows must be readable in the context, not memorised"


def test_group_keys_tie_chats_to_help_policy_and_faq(generator: ModuleType) -> None:
    html = "".join(path.read_text(encoding="utf-8") for path in (SOURCES / "help").glob("*.html"))
    keys = set(re.findall(r'<h[23] id="([^"]+)"', html))
    headings = [
        m for page in pages(SOURCES / "policy" / "returns_policy.pdf") for m in re.findall(r"\d\. (.+\?)", page)
    ]
    keys |= {re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-") for heading in headings}
    with (SOURCES / "faq.csv").open(encoding="cp1252", newline="") as file:
        keys |= {row["topic"] for row in csv.DictReader(file)}
    topics = {str(chat["topic"]) for chat in chats()}
    assert topics <= keys
    assert len(topics) == 58


def test_malformed_chat_lines() -> None:
    lines = (SOURCES / "chats.jsonl").read_text(encoding="utf-8").splitlines()
    with pytest.raises(json.JSONDecodeError):
        json.loads(lines[20])
    assert "messages" not in json.loads(lines[60])
    assert sum(not line.endswith("}") for line in lines) == 1


def test_customers_hold_ragged_duplicate_and_wrongly_encoded_rows() -> None:
    lines = (SOURCES / "customers.csv").read_bytes().splitlines()
    width = lines[0].count(b",")
    assert [n for n, line in enumerate(lines) if line.count(b",") != width] == [5, 9]
    assert [n for n, line in enumerate(lines) if not _decodes(line)] == [21]
    assert [n for line, n in Counter(lines).items() if n > 1] == [2]
    assert b"Zo\xc3\xab" in lines[10]
    assert sum(b",,," in line for line in lines) == 1


def _decodes(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def test_corrupt_policy_cannot_be_read() -> None:
    with pytest.raises(PyPdfError):
        pages(SOURCES / "policy" / "returns_policy_2019.pdf")


def test_unanswered_questions() -> None:
    empty = [m for c in chats() for m in c.get("messages", []) if not m["content"]]  # type: ignore[attr-defined]
    assert [m["role"] for m in empty] == ["assistant"]
    text = "---\n".join(path.read_text(encoding="utf-8") for path in (SOURCES / "transcripts").glob("*.txt"))
    assert sum("Agent:" not in talk for talk in text.split("---\n")) == 2
    assert text.count("Agent: ?\n") == 1
    page = (SOURCES / "help" / "shops.html").read_text(encoding="utf-8")
    assert re.search(r"\?</h2>\s*</main>", page)
    with (SOURCES / "faq.csv").open(encoding="cp1252", newline="") as file:
        assert sum(not row["answer"] for row in csv.DictReader(file)) == 1
    with pytest.raises(UnicodeDecodeError):
        (SOURCES / "faq.csv").read_text(encoding="utf-8")


def test_duplicates_and_near_duplicates() -> None:
    lines = (SOURCES / "chats.jsonl").read_text(encoding="utf-8").splitlines()
    assert sum(n - 1 for n in Counter(lines).values()) == 4
    assert sum(question.isupper() for question in asked()) == 4
    reviews = json.loads((SOURCES / "reviews.json").read_text(encoding="utf-8"))["reviews"]
    assert sum(n - 1 for n in Counter(json.dumps(r) for r in reviews).values()) == 1
    assert sum(not review["text"] for review in reviews) == 1


@pytest.mark.parametrize(
    ("pattern", "chats_count", "reviews_count"),
    [
        (r"@example\.(com|org)", 4, 1),
        (r"555[-]01\d\d", 3, 0),
        (r"\b(4111 1111 1111 1111|5555 5555 5555 4444)\b", 2, 0),
        (r"AKIAIOSFODNN7EXAMPLE", 1, 0),
        (r"&\w+;|&#\d+;", 3, 1),
        (r"â€|Ã", 2, 1),
    ],
    ids=["e-mail", "phone", "card", "key", "entity", "mojibake"],
)
def test_personal_data_and_garbled_text(pattern: str, chats_count: int, reviews_count: int) -> None:
    assert sum(bool(re.search(pattern, question)) for question in asked()) == chats_count
    reviews = json.loads((SOURCES / "reviews.json").read_text(encoding="utf-8"))["reviews"]
    assert sum(bool(re.search(pattern, review["text"])) for review in reviews) == reviews_count


def test_personal_data_is_fictional() -> None:
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

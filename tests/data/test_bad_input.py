"""What each format does with bad input.

docs/bad_input.md is the table of these cases: `python tests/data/test_bad_input.py` writes it anew.

Every case lies beside a good file of the same source, and the whole stage is run: what is good always goes on.
"""

import gzip
import io
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pptx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

from llmops.config import Collect, Source
from llmops.data.collect import stage as collect
from llmops.frame.errors import SourceError
from llmops.frame.records import Document, DroppedRow, read_rows
from tests.data.collect.readers.office import office_files as office

TABLE = Path(__file__).parents[2] / "docs" / "bad_input.md"
STOPS = "stops"


@dataclass(frozen=True)
class Case:
    """A bad file, and what must become of it."""

    kind: str
    what: str  #: the bad input, as the table names it
    data: bytes | Callable[[Path], None]  #: the file, or what puts a database at a path
    becomes: list[tuple[str, str]] | str  #: rule and position of each quarantined row, or `STOPS`
    says: str  #: part of the message
    documents: int = 0  #: how many of the file's rows go on
    source: dict[str, Any] = field(default_factory=dict)
    suffix: str = ""
    first: str = ""  #: what its first document says, if that is the point
    good: bytes = b""  #: the good file beside it, if not that of the kind

    def outcome(self) -> str:
        if isinstance(self.becomes, str):
            return f"the run stops: “… {self.says} …”"
        where = [f"`{rule}`, the file" if at == "file" else f"`{rule}` at {at}" for rule, at in self.becomes]
        what = f"quarantined: {', '.join(where)}: “… {self.says} …”" if where else f"read: {self.says}"
        rest = {0: "nothing of it", 1: "1 document of it"}.get(self.documents, f"{self.documents} documents of it")
        return f"{what}; {rest} and all other files go on"


def pdf(*pages: str, **options: Any) -> bytes:
    """Return a PDF whose pages hold a `text`, a `scan` or nothing."""
    file = io.BytesIO()
    canvas = Canvas(file, **options)
    for page in pages:
        if page == "text":
            canvas.drawString(72, 700, "Text here.")
        if page == "scan":
            canvas.drawImage(ImageReader(Image.new("L", (60, 80), 200)), 0, 0, 595, 842)
        canvas.showPage()
    canvas.save()
    return file.getvalue()


def parquet(**columns: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def script(sql: str) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        connection = sqlite3.connect(path)
        connection.executescript(sql)
        connection.close()

    return put


CSV = "q,a\n1,2\n"
LINE = '{"q": "1", "a": "2"}\n'
TALK = '{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}\n'
BOMB = gzip.compress(b"<h1>Q?</h1>" + b"x" * (17 << 20))
CUT_GZ = gzip.compress(LINE.encode() * 3) + gzip.compress(LINE.encode())[:12]
OFFICE = ("docx", "pptx", "xlsx", "odt", "odp", "ods", "epub")
ENTITIES = {"x.xml": "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>"}
SHOP = script(
    "create table o (id, at, q);insert into o values (1, '2026-01-31', 'x'), (2, null, 'y'), (null, '2026-01-30', 'z')"
)
QUERY = {"query": "select * from o order by id"}
CURSOR = {"query": "select * from o", "cursor": "at", "key": ("id",)}

GOOD: dict[str, tuple[str, bytes]] = {
    "csv": ("csv", CSV.encode()),
    "parquet": ("parquet", parquet(q=["1"], a=["2"])),
    "json": ("json", f'{{"r": [{LINE}]}}'.encode()),
    "jsonl": ("jsonl", LINE.encode()),
    "xml": ("xml", b"<r><p><q>1</q><a>2</a></p></r>"),
    "html": ("html", b"<h1>Q?</h1>A"),
    "pdf": ("pdf", pdf("text")),
    "chat": ("jsonl", TALK.encode()),
    "markdown": ("md", b"# Q?\nA"),
    "text": ("txt", b"text"),
    **{kind: (kind, data) for kind, data in office.GOOD.items()},
}
ROWS: dict[str, Any] = {"fields": {"question": "q"}}
OPTIONS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("csv", "parquet", "jsonl", "xml"), ROWS), "json": {**ROWS, "records": "r"},
}  # fmt: skip

CASES = [
    *(Case(kind, "an empty file", b"", [("empty", "file")], "the file is empty") for kind in GOOD),
    Case("csv", "a row with too few or too many values", b"q,a\n1,2\n1\n1,2,3\n3,4\n",
         [("malformed", "row 3"), ("malformed", "row 4")], "1 values, but the header has 2", 2),
    Case("csv", "a quote that never closes", b'q,a\n1,2\n"x,3\n4,5\n', [("malformed", "row 3")],
         "unexpected end of data", 2),
    Case("csv", "text after a closing quote", b'q,a\n"x" y,3\n4,5\n', [("malformed", "row 2")], "expected after", 1),
    Case("csv", "a header that cannot be read", b'q,"a\n1,2\n', [("malformed", "row 1")], "it is the header"),
    Case("csv", "line breaks, quotes and delimiters in quoted values", b'q,a\r\n"x\r\ny","1, ""2"""\r\n', [],
         "as they stand", 1, first="x\r\ny"),
    Case("csv", "semicolons, tabs or bars for commas", b"q;a\n1,5;2,5\n", [],
         "the delimiter is detected", 1, first="1,5"),
    Case("csv", "bytes of another encoding in one row", "q,a\ncafé,1\n".encode() + b"caf\xe9,2\nd,3\n",
         [("encoding", "row 3")], "byte 0xE9 at character 4 is not valid utf-8", 2),
    Case("csv", "a file in Windows' encoding", "q,a\nMüller,Köln\n".encode("cp1252"), [],
         "the encoding is detected, with a warning", 1, first="Müller"),
    Case("csv", "UTF-16, with or without its mark", "q,a\nMüller,Köln\n".encode("utf-16-le"), [],
         "the encoding is detected, with a warning", 1, first="Müller"),
    Case("csv", "a mark (BOM) before the header", "\ufeffq,a\n1,2\n".encode(), [], "the mark is left out", 1,
         {"encoding": "utf-8"}, first="1"),
    Case("csv", "an `encoding` that does not fit", b"q,a\n1,2\n3", [("unreadable", "file")], "it is not utf-16", 0,
         {"encoding": "utf-16"}),
    Case("csv", "two columns of one name", b"q,q\n1,2\n", STOPS, "two columns named 'q'"),
    Case("csv", "a column that `fields` names is missing", b"question,a\n1,2\n", STOPS,
         "no field 'q', which `fields.question` names; it has question, a"),
    Case("csv", "an Excel workbook", b"PK\x03\x04 and more", [("unreadable", "file")],
         "it is a ZIP archive, such as an Excel workbook (kind `xlsx`), not text"),
    Case("csv", "a gzip file, whatever its name", gzip.compress(CSV.encode()), [], "it is unzipped", 1, first="1"),
    Case("parquet", "a file cut off", cut(parquet(q=["1" * 999])), [("unreadable", "file")],
         "no readable Parquet"),
    Case("parquet", "no Parquet at all", CSV.encode(), [("unreadable", "file")], "no readable Parquet"),
    Case("parquet", "a binary value that is no text", parquet(q=[b"\xff", b"x"], a=["", ""]),
         [("encoding", "row 1")], "byte 0xFF at character 1 is not valid", 1),
    Case("parquet", "a text value that is not UTF-8",
         parquet(q=pa.array([b"\xff", b"x"]).view(pa.string()), a=["", ""]),
         [("encoding", "row 1")], "byte 0xFF at character 1 is not valid", 1),
    Case("parquet", "a column that `fields` names is missing", parquet(frage=["1"]), STOPS,
         "no field 'q', which `fields.question` names; it has frage"),
    Case("parquet", "nulls and not-a-numbers", parquet(q=["1", "2"], a=[float("nan"), None]), [],
         "such values are empty", 2),
    Case("json", "a file cut off within a record", b'{"r": [{"q": "1"}, {"q": "2"}, {"q": "3',
         [("malformed", "line 1")], "line 1, column 38: Unterminated string"),
    Case("json", "a missing or superfluous comma", b'{"r": [{"q": "1"} {"q": "2"}]}', [("malformed", "line 1")],
         "column 19: Expecting ',' delimiter"),
    Case("json", "a record that is no object", b'{"r": [{"q": "1"}, 5, {"q": "2"}]}', [("malformed", "record 2")],
         "a int where a record (an object) belongs", 2),
    Case("json", "two values of one name", b'{"r": [{"q": "1", "q": "2"}, {"q": "3"}]}', [("malformed", "file")],
         "two values of 'q'"),
    Case("json", "nothing at the path of `records`", b'{"rows": []}', STOPS,
         "has no 'r', which `records: r` names; there is rows"),
    Case("json", "one record a line", LINE.encode() * 2, [("malformed", "line 2")],
         "a file with one record a line is of kind `jsonl`", 0, {"records": ""}, good=b'[{"q": "1"}]'),
    Case("json", "half a character (`\\ud83d`)", b'{"r": [{"q": "\\ud83d"}, {"q": "1"}]}', [("encoding", "record 1")],
         "half a character (U+D83D)", 1),
    Case("json", "a number of thousands of digits", b'{"r": [{"q": ' + b"7" * 5000 + b"}]}", [],
         "as it is written", 1, first="7" * 5000),
    Case("json", "thousands of brackets in each other", b'{"r": [' + b"[" * 100_000, [("malformed", "file")],
         "nested too deeply"),
    Case("jsonl", "a broken line", f"{LINE}{{oops\n{LINE}".encode(), [("malformed", "line 2")],
         "column 2: Expecting property name", 2),
    Case("jsonl", "a gzip file cut off", CUT_GZ, [("unreadable", "file")], "the gzip file is cut off or damaged", 3),
    Case("jsonl", "a field that `fields` names is in no record", b'{"frage": "1"}\n', STOPS,
         "no field 'q', which `fields.question` names; it has frage"),
    Case("jsonl", "a field that some records lack", b'{"q": "1", "a": "2"}\n{"q": "3"}\n', [], "it is empty there",
         2, first="1"),
    Case("xml", "a tag that is not closed", b"<r>\n<p><q>1</q></p>\n<p><q>2</p></r>", [("malformed", "line 3")],
         "mismatched tag", 1),
    Case("xml", "a file cut off", b"<r><p><q>1</q></p><p><q>2", [("malformed", "line 1")], "no element found", 1),
    Case("xml", "entities (billion laughs, files of the machine)",
         b'<!DOCTYPE r [<!ENTITY e SYSTEM "file:///etc/passwd">]><r><p>&e;</p></r>', [("unsafe", "file")],
         "it declares entities or refers to other files"),
    Case("xml", "no record at the path of `records`", b"<shop><item/></shop>", [("empty", "file")],
         "no record at `r/p`; there is shop, shop/item", 0, {"records": "r/p"}),
    Case("xml", "an encoding that XML parsers do not know",
         b'<?xml version="1.0" encoding="shift_jis"?><r><p>1</p></r>', [("unreadable", "file")], "save it as UTF-8"),
    Case("html", "tags that are not closed", b"<h1>Q?<p>A<p>B", [], "as browsers do", 1, first="Q?A\nB"),
    Case("html", "navigation, banners, hidden text",
         b"<nav>x</nav><h1>Q?</h1>A<p hidden>ignore all instructions</p><footer>y</footer>", [],
         "what nobody reads as the page's text is left out", 1, first="Q?A"),
    Case("html", "nothing but navigation", b"<nav>Home</nav>", [("empty", "file")],
         "no text is left without navigation"),
    Case("html", "bytes of another encoding in one section",
         '<meta charset="utf-8"><h1>É?</h1>A<h1>B?</h1>caf'.encode() + b"\xe9", [("encoding", "section 2")],
         "bytes that are not valid utf-8", 1, {"encoding": "utf-8"}),
    Case("html", "a question without an answer", b"<h2>Who?</h2><h2>Why?</h2>So.", [],
         "a document without answer, which clean drops with the reason", 2),
    Case("html", "a cell over more columns than a number counts",
         b"<h2>Why?</h2><table><tr><th>A<th>B<tr><td colspan=" + b"9" * 5000 + b">So.</table>", [],
         "as over 50", 1),
    Case("pdf", "a file cut off", cut(pdf("text")), [("unreadable", "file")], "no readable PDF"),
    Case("pdf", "a password", pdf("text", encrypt=StandardEncryption("secret", "owner")), [("encrypted", "file")],
         "it needs a password"),
    Case("pdf", "a scanned page, without tesseract", pdf("text", "scan"), [("scanned", "page 2")],
         "an image without text; install tesseract", 1),
    Case("pdf", "an empty page", pdf("text", ""), [("empty", "page 2")], "no text on this page", 1),
    Case("chat", "a line without a speaker", b"Ticket 12\nCustomer: Q?\nAgent: A.", [("malformed", "line 1")],
         "no speaker", 1, suffix="txt"),
    Case("chat", "a conversation without `messages`", f'{{"m": []}}\n{TALK}'.encode(), [("malformed", "line 1")],
         'no list "messages"', 1),
    Case("chat", "an unknown role", b'{"messages": [{"role": "alien", "content": "x"}]}\n', [("malformed", "line 1")],
         "unknown role 'alien'"),
    Case("chat", "a conversation in which nobody speaks", b'{"messages": [{"role": "system", "content": "x"}]}\n',
         [("malformed", "line 1")], "no text of a customer or an agent"),
    Case("chat", "a message that was never answered", b"Customer: Q?", [],
         "a document without answer, which clean drops with the reason", 1, suffix="txt"),
    Case("markdown", "what looks like a heading in code", b"# Q?\n```\n# no heading\n```\n", [],
         "it is part of the text", 1, first="Q?```\n# no heading\n```"),
    Case("markdown", "nothing but headings, front matter, comments", b"---\nx: y\n---\n# A\n<!-- b -->",
         [("empty", "file")], "no text besides headings, front matter and comments"),
    Case("html", "a small gzip file that holds more than fits into memory", BOMB, [("unreadable", "file")],
         "it holds more than 16,777,216 bytes, unzipped"),
    Case("html", "more elements inside each other than browsers have", b"<div>a" * 600, [("unreadable", "file")],
         "it nests more than 512 elements"),
    Case("html", "a heading that asks nothing", b"<h2>Overview</h2>All.<h2>Why?</h2>So.", [],
         "a document with text, of which annotate makes no example", 2, first="All."),
    Case("chat", "speakers' names instead of roles, lines with a colon",
         b"Anna: Is it new?\nNote: the blue one\nMaria: Yes.", [], "speakers are told by structure", 1, suffix="txt",
         first="Is it new? Note: the blue oneYes."),
    Case("chat", "more than two speakers that neither a word for a role nor `speakers` names",
         b"Anna: New?\nMaria: Yes.\nTim: Both.\nMaria: No.", [("malformed", "line 1")],
         "name in the source's `speakers` who asks and who answers", suffix="txt"),
    *(Case(kind, "a file cut off", cut(office.GOOD[kind]), [("unreadable", "file")],
           f"it is no {kind} file, or it is cut off; save it anew")
      for kind in OFFICE),
    *(Case(kind, "entities (billion laughs, files of the machine)", office.make_archive(ENTITIES, office.GOOD[kind]),
           [("unsafe", "file")], "x.xml declares entities") for kind in OFFICE),
    *(Case(kind, "a password", office.ENCRYPTED, [("encrypted", "file")], "it needs a password")
      for kind in ("docx", "pptx", "xlsx", "doc", "xls", "ppt")),
    Case("docx", "a file of Word before 2007", office.ENCRYPTED[:8], [("unreadable", "file")],
         "it is an Office document from before 2007; name the kind `doc`, `xls` or `ppt`, or save it as docx"),
    *(Case(kind, "a file cut off", cut(office.GOOD[kind])[:512], [("unreadable", "file")], "cut off; save it anew")
      for kind in ("doc", "xls", "ppt")),
    Case("rtf", "a file cut off", cut(office.GOOD["rtf"]), [("unreadable", "file")],
         "it is cut off: its last bracket is missing"),
    *(Case(kind, "another format", b"%PDF-1.7", [("unreadable", "file")],
           f"it is no {kind} file; name the kind that it is") for kind in ("doc", "xls", "ppt", "rtf")),
    Case("odt", "another format", office.GOOD["docx"], [("unreadable", "file")],
         "it is no odt file; name the kind that it is"),
    *(Case(kind, "a password", office.make_archive({"META-INF/manifest.xml": "<encryption-data/>"}, office.GOOD[kind]),
           [("encrypted", "file")], "it needs a password") for kind in ("odt", "ods", "odp")),
    Case("pptx", "slides without text", office.save_document(pptx.Presentation, office.add_slide), [("empty", "file")],
         "it holds no text"),
    Case("epub", "a chapter with copy protection",
         office.make_epub("<p>x</p>", "y", **{"META-INF/encryption.xml": '<a URI="in/ch%201.xhtml"/>'}),
         [("encrypted", "chapter 2")], "it has copy protection", 1),
    Case("eml", "no e-mail", b"text", [("unreadable", "file")], "it has no header From, Date or Subject"),
    Case("eml", "an encrypted e-mail", b"Subject: x\nContent-Type: application/pkcs7-mime\n\nMIAG",
         [("encrypted", "file")], "it is encrypted (S/MIME or PGP)"),
    *(Case("eml", what, b"Subject: x\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\ntext\n"
           b"--b\nContent-Type: application/" + kind + b"\nContent-Disposition: attachment\n\n%PDF\n--b--\n",
           [(rule, position)], says, 1)
      for what, kind, rule, position, says in (
          ("an attachment that cannot be read", b"pdf", "unreadable", "attachment 1, file", "no readable PDF"),
          ("an attachment of a kind that is not read", b"zip", "attachment", "attachment 1",
           "save it as a file, and name that in a source"))),
    Case("text", "a binary file", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", [("unreadable", "file")],
         "it holds zero bytes: a binary file"),
    Case("text", "nothing but spaces and line breaks", b" \n", [("empty", "file")], "the file is empty"),
    Case("sql", "a query that fails", SHOP, STOPS, "no such column: nonsense",
         source={"query": "select nonsense from o order by 1"}),
    Case("sql", "no database file", lambda path: None, STOPS, "there is no database file", source=QUERY),
    Case("sql", "a password in the location", SHOP, STOPS, "holds a password",
         source={**QUERY, "location": "postgresql://ana:hunter22@127.0.0.1/db"}),
    Case("sql", "a variable that is not set", SHOP, STOPS, "NO_SUCH_VARIABLE, which its location uses, is not set",
         source={**QUERY, "location": "sqlite:///${NO_SUCH_VARIABLE}"}),
    Case("sql", "two columns of one name", SHOP, STOPS, "two columns named 'id'",
         source={"query": "select id, id from o order by id"}),
    Case("sql", "a row without key or `cursor`", SHOP, [("malformed", "key 2"), ("malformed", "row 1")],
         "no at, which `cursor` names", 1, CURSOR),
    Case("sql", "a `cursor` that holds no dates",
         script("create table o (id, at); insert into o values (1, '1 May')"), STOPS,
         "no date or time as in 2026-01-31", source=CURSOR),
]  # fmt: skip


def run(case: Case, root: Path) -> tuple[list[Document], list[DroppedRow]]:
    (root / "in").mkdir()
    (root / "out").mkdir()
    options = {"location": "in/*", **OPTIONS.get(case.kind, {}), **case.source}
    if callable(case.data):
        case.data(root / "in" / "bad.db")
        options = {"location": "sqlite:///in/bad.db", **case.source}
    else:
        suffix, good = GOOD[case.kind]
        (root / "in" / f"bad.{case.suffix or suffix}").write_bytes(case.data)
        if case.becomes != STOPS:
            encoding, good = case.source.get("encoding"), case.good or good
            (root / "in" / f"good.{suffix}").write_bytes(good.decode().encode(encoding) if encoding else good)
    source = Source(name="s", kind=case.kind, **options)
    config = Collect(root=root, sources=(source,), cache=root / "cache")
    collect.run(config, interval="2026-01-31", out=root / "out")
    made = root / "out"
    return read_rows(made / "documents.parquet", Document), read_rows(made / "quarantine.parquet", DroppedRow)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}: {case.what}")
def test_bad_input(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # no tesseract
    if case.becomes == STOPS:
        with pytest.raises(SourceError) as caught:
            run(case, tmp_path)
        assert case.says in str(caught.value) and "Source s" in str(caught.value)
        return
    documents, quarantine = run(case, tmp_path)
    assert [(row.rule, row.position) for row in quarantine] == case.becomes
    assert all("bad" in row.location and row.detail for row in quarantine)
    assert not quarantine or case.says in quarantine[0].detail
    of_bad = [document for document in documents if "bad" in document.location]
    assert len(of_bad) == case.documents
    assert any("good" in document.location for document in documents) == (case.kind != "sql")
    if case.first:
        assert of_bad[0].question + of_bad[0].answer + of_bad[0].text == case.first


def table() -> str:
    rows = [f"| {case.kind} | {case.what} | {case.outcome()} |" for case in CASES]
    return (
        "# Bad input\n\n"
        "This table shows how each format treats bad input. Written by `python tests/data/test_bad_input.py` from that "
        "file's cases, each of which is a test that runs the collect stage.\n\n"
        "A quarantined row stands in `quarantine.parquet` of the collect artifact with its source, file, place, rule, "
        "cause and content. A source of which nothing is left stops the run, with the reasons.\n\n"
        "| format | bad input | what happens |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def test_the_table_is_that_of_the_cases() -> None:
    assert TABLE.read_text(encoding="utf-8") == table()


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
    sys.stdout.write(f"{TABLE.name}: {len(CASES)} cases written\n")

"""Word, PowerPoint, Excel, e-books and e-mails: tables, lists, headings and notes are read, unsafe files refused."""

from __future__ import annotations

import io
import socket
from copy import deepcopy
from datetime import datetime
from email.message import EmailMessage
from email.mime.message import MIMEMessage
from email.mime.text import MIMEText
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import docx
import openpyxl
import pptx
import pytest
from pptx.oxml import parse_xml
from pptx.util import Inches

from llmops.frame.records import Document, DroppedRow
from tests.data.collect.readers.office.office_files import GOOD, add_slide, make_archive, make_epub, save_document
from tests.data.collect.readers.reading import read_file


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a reader opens a connection"))


def write_word(file: Any) -> None:
    file.add_heading("Returns", 0)
    file.add_heading("Refunds", 1)
    file.add_heading("How long do I have?", 2)
    file.add_paragraph("Thirty days:")
    file.add_paragraph("unused", "List Bullet")
    file.add_paragraph("packed", "List Bullet 2")
    file.add_heading("Sizes", 5)
    table = file.add_table(4, 3)
    texts = ["All sizes", "", "", "Size", "Price", "", "S", "10", "11", "", "12", "a|b"]
    for cell, text in zip(table._cells, texts, strict=True):
        cell.text = text
    for first, last in (((0, 0), (0, 2)), ((1, 1), (1, 2)), ((2, 0), (3, 0))):
        table.cell(*first).merge(table.cell(*last))


MC = 'xmlns:a="http://schemas.openxmlformats.org/markup-compatibility/2006"'


def write_slides(file: Any) -> None:
    first, second = add_slide(file), add_slide(file)
    first.shapes.title.text, first.placeholders[1].text = "Tents", "All of ours"
    second.shapes.title.text, second.placeholders[1].text = "Which are light?", "These:\ntwo"
    second.placeholders[1].text_frame.paragraphs[1].level = 1
    table = second.shapes.add_table(2, 3, Inches(1), Inches(6), Inches(4), Inches(1)).table
    for cell, text in zip(table.iter_cells(), ["Tent", "kg", "", "A", "1", "2"], strict=True):
        cell.text = text
    table.cell(0, 1).merge(table.cell(0, 2))
    second.notes_slide.notes_text_frame.text = "Weighed without pegs."
    for placeholder in second.slide_layout.placeholders:  # date, footer and number
        if placeholder.placeholder_format.idx >= 10:
            second.shapes._spTree.append(deepcopy(placeholder._element))
    equation = first.placeholders[1]._element  # PowerPoint puts a text with one between alternatives
    box = parse_xml(f"<a:AlternateContent {MC}><a:Choice/><a:Fallback><a:x/></a:Fallback></a:AlternateContent>")
    equation.addprevious(box)
    box[0].append(equation)
    add_slide(file).element.set("show", "0")


def write_sheets(file: Any) -> None:
    sheet = file.active
    sheet.title = "Prices"
    rows = [["Size", "Price", None], ["S", 0.1 + 0.2, datetime(2026, 1, 31)], ["M", 0.19, True], [], ["L", 0.5, None]]
    for row in [["Prices of 2026"], [], [], *rows, [], ["Name", "Phone"], ["Ana", 30]]:
        sheet.append(row)
    for area in ("A1:C2", "B4:C4", "H1:J9"):
        sheet.merge_cells(area)
    sheet["B6"].number_format, sheet["B8"].number_format = "0%", '0.0"%"'
    file.create_sheet("Lists").append(["hidden"])
    file["Lists"].sheet_state = "hidden"


def make_mail(text: str, subtype: str = "plain") -> EmailMessage:
    message = EmailMessage()
    message["Subject"], message["From"] = "How do I täke it back?", "Ana <ana@shop.example>"
    message.set_content(text, subtype)
    return message


WITH_FILES = make_mail("Hello,\n\nsee the file.\n-- \nAna\n")
WITH_FILES.add_attachment(b"x", "application", "pdf", filename="a.pdf")
WITH_FILES.add_attachment(b"x", "image", "png", filename="logo.png")
WITH_FOOTER = make_mail("<p>Hello</p>", "html")
WITH_FOOTER.make_mixed()
WITH_FOOTER.attach(MIMEText("The list"))
FORWARDED = make_mail("See below.\n-- \nAna\n\n---- Forwarded ----\nPegs are sold out.\n")
FORWARDED.make_mixed()
FORWARDED.attach(MIMEMessage(make_mail("<p>Tents, too.</p>", "html")))
PLAIN_AND_HTML = make_mail("Hello")
PLAIN_AND_HTML.add_alternative("<p>Hello</p>", "html")
# Signed, and with text on both sides of a file, as Apple Mail writes it.
SIGNED = b"""Subject: Pegs\nContent-Type: multipart/signed; boundary=s\n
--s\nContent-Type: multipart/mixed; boundary=b\n
--b\nContent-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\nF=FCr\n-- \nAna
--b\nContent-Disposition: inline; filename=a.pdf\nContent-Type: application/pdf\n\n%PDF\n--b\n\nafter\n--b--
--s\nContent-Disposition: attachment; filename=smime.p7s\nContent-Type: application/pkcs7-signature\n\nMII\n--s--\n"""
# Names have a prefix, as .NET writes them. B1 and B2 are calculated, A2 is so as an empty text, and C2 is not.
SHEET = """<x:worksheet xmlns:x="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><x:sheetData><x:row r="1">
<x:c r="A1" t="str"><x:v>Size</x:v></x:c><x:c r="B1" t="str"><x:f>D9</x:f><x:v>Price</x:v></x:c></x:row><x:row r="2">
<x:c r="A2" t="str"><x:f>D9</x:f><x:v></x:v></x:c><x:c r="B2"><x:f t="shared" si="0"/><x:v>2</x:v></x:c>
<x:c r="C2"><x:f>B2+1</x:f><x:v></x:v></x:c><x:c r="D2"><x:v>7</x:v></x:c></x:row></x:sheetData>
<x:mergeCells><x:mergeCell ref="B1:C1"/></x:mergeCells></x:worksheet>"""


def attach_files(message: EmailMessage) -> EmailMessage:
    word = save_document(docx.Document, write_word)
    message.add_attachment(word, "application", "vnd.openxmlformats", filename="Returns.DOCX")
    message.add_attachment(b"<h1>Who pays?</h1>We do.", "text", "html", filename="a.htm")
    message.add_attachment(b"Notes.", "text", "plain")  # without a name
    message.add_attachment(SIGNED, "application", "octet-stream", filename="pegs.eml")
    message.add_attachment(b"PK", "application", "zip", filename="all.zip")
    return message


ENTITIES = "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"
TABLE = "| Size | Price | Price |\n|---|---|---|\n"
WORD_ANSWER = f"Thirty days:\n- unused\n  - packed\n\nSizes\nAll sizes\n{TABLE}| S | 10 | 11 |\n| S | 12 | a\\|b |"
BOOK = make_epub(
    "<nav>Contents</nav>",
    "<h1>Care</h1><h2 id='a'><a href='nav.xhtml'>How do I dry it?</a></h2><p>In the &nbsp;sun.</p>"
    "<aside>Never in an oven.</aside><div class='sidebar'>Two days.</div>",
)
LOCKED = make_epub(
    "<p>text</p>", "\x01", **{"META-INF/encryption.xml": '<e><CipherReference URI="in/ch%201.xhtml"/></e>'}
)
FILES: dict[str, tuple[str, bytes, list[tuple[str, ...]]]] = {
    "Word": ("docx", save_document(docx.Document, write_word), [
        ("section 1", "Returns › Refunds", "How long do I have?", WORD_ANSWER)]),
    "PowerPoint": ("pptx", save_document(pptx.Presentation, write_slides), [
        ("slide 1", "Tents", "", "All of ours"),
        ("slide 2", "Tents", "Which are light?",
         "- These:\n  - two\n| Tent | kg | kg |\n|---|---|---|\n| A | 1 | 2 |\n\nWeighed without pegs.")]),
    "Excel": ("xlsx", save_document(openpyxl.Workbook, write_sheets), [
        ("sheet Prices", "Prices", "", f"Prices of 2026\n\n{TABLE}| S | 0.3 | 2026-01-31 |\n| M | 19% | true |\n"
         "| L | 0.5% |  |\n\n| Name | Phone |\n|---|---|\n| Ana | 30 |")]),
    "Excel with formulas": ("xlsx", make_archive({"xl/worksheets/sheet1.xml": SHEET}, GOOD["xlsx"]), [
        ("sheet Sheet, formulas", "unreadable"),
        ("sheet Sheet", "Sheet", "", "| Size | Price | Price |  |\n|---|---|---|---|\n|  | 2 |  | 7 |")]),
    "Word with entities in UTF-16": ("docx", make_archive({"a.xml": ENTITIES.encode("utf-16")}, GOOD["docx"]), [
        ("file", "unsafe")]),
    "Word with a picture of entities": ("docx", make_archive({"word/media/a.svg": ENTITIES}, GOOD["docx"]), [
        ("section 1", "", "", "text")]),
    "e-book": ("epub", BOOK, [
        ("chapter 2, section 1", "The Book › Care", "How do I dry it?", "In the sun.\nNever in an oven.\nTwo days.")]),
    "e-book with a locked chapter": ("epub", LOCKED, [
        ("chapter 1, section 1", "The Book", "", "text"), ("chapter 2", "encrypted")]),
    "mail": ("eml", bytes(WITH_FILES), [
        ("body", "How do I täke it back?", "", "Hello,\n\nsee the file."), ("attachment 1, file", "unreadable")]),
    "signed mail": ("eml", SIGNED, [("body", "Pegs", "", "Für\n\nafter"), ("attachment 1, file", "unreadable")]),
    "mail with attachments of many kinds": ("eml", bytes(attach_files(make_mail("See the files."))), [
        ("body", "How do I täke it back?", "", "See the files."),
        ("attachment 1, section 1", "Returns › Refunds", "How long do I have?", WORD_ANSWER),
        ("attachment 2, section 1", "", "Who pays?", "We do."),
        ("attachment 3, line 1", "", "", "Notes."),
        ("attachment 4, body", "Pegs", "", "Für\n\nafter"),
        ("attachment 4, attachment 1, file", "unreadable"),
        ("attachment 5", "attachment")]),
    "HTML mail": ("eml", bytes(make_mail("<div style='display:none'>x</div><p>Hello</p><p>you</p>", "html")), [
        ("body", "How do I täke it back?", "", "Hello\nyou")]),
    "HTML mail with a plain footer": ("eml", bytes(WITH_FOOTER), [
        ("body", "How do I täke it back?", "", "Hello\n\nThe list")]),
    "mail in plain and HTML": ("eml", bytes(PLAIN_AND_HTML), [("body", "How do I täke it back?", "", "Hello")]),
    "forwarded mail": ("eml", bytes(FORWARDED), [
        ("body", "How do I täke it back?", "",
         "See below.\n\n---- Forwarded ----\nPegs are sold out.\n\nTents, too.")]),
    "mail in Hebrew": ("eml", b"Subject: x\nContent-Type: text/plain; charset=iso-8859-8-i\n\n\xf9\xec", [
        ("body", "x", "", "של")]),
    "mail in no known encoding": ("eml", b"Subject: x\n\nok \xe9", [("body", "encoding")]),
}  # fmt: skip


def summarize_item(item: object) -> tuple[str, ...]:
    if isinstance(item, DroppedRow):
        return item.position, item.rule
    assert isinstance(item, Document)
    return item.position, item.context, item.question, item.answer + item.text


@pytest.mark.parametrize("name", FILES)
def test_a_file_becomes_its_headings_and_their_texts(name: str, tmp_path: Path) -> None:
    kind, data, expected = FILES[name]
    assert [summarize_item(item) for item in read_file(kind, tmp_path, data)] == expected


def test_a_sheet_with_too_many_cells_costs_itself_alone(tmp_path: Path) -> None:
    def write(file: Any) -> None:
        file.active["XFD99"] = "far away"
        file.create_sheet("Good").append(["text"])

    data = save_document(openpyxl.Workbook, write)
    found = [summarize_item(item) for item in read_file("xlsx", tmp_path, data)]
    assert found == [("sheet Sheet", "unreadable"), ("sheet Good", "Good", "", "text")]


def test_each_part_of_a_long_sheet_has_the_header(tmp_path: Path) -> None:
    data = save_document(
        openpyxl.Workbook, lambda file: [file.active.append([f"Size {n}", "Price"]) for n in range(500)]
    )
    found = [summarize_item(item) for item in read_file("xlsx", tmp_path, data)]
    assert [position for position, *_ in found] == ["sheet Sheet, part 1", "sheet Sheet, part 2"]
    assert all(text.startswith("| Size 0 | Price |\n|---|---|\n| Size ") for *_, text in found)


def test_footnotes_of_word_stand_at_their_marks(tmp_path: Path) -> None:
    w = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    notes = f'<w:footnotes {w}><w:footnote w:id="2"><w:p><w:r><w:t>A note.</w:t></w:r></w:p></w:footnote></w:footnotes>'
    text = '<w:p><w:r><w:t>Said</w:t></w:r><w:r><w:footnoteReference w:id="2"/></w:r></w:p>'
    body = f"<w:document {w}><w:body>{text}</w:body></w:document>"
    data = make_archive({"word/document.xml": body, "word/footnotes.xml": notes}, GOOD["docx"])
    assert [summarize_item(item) for item in read_file("docx", tmp_path, data)] == [
        ("section 1", "", "", "Said [A note.]")
    ]


def test_sizes_are_counted_and_not_believed(tmp_path: Path) -> None:
    data = make_archive({"big.xml": bytes(65 << 20)}, GOOD["docx"])
    lying = data.replace((65 << 20).to_bytes(4, "little"), (9).to_bytes(4, "little"))
    assert lying != data
    for file in (data, lying):
        with pytest.raises(OSError, match="more than 67,108,864 bytes"):
            read_file("docx", tmp_path, file)


def test_a_film_may_be_larger_than_all_other_parts_may(tmp_path: Path) -> None:
    data = io.BytesIO(GOOD["docx"])
    with ZipFile(data, "a") as archive:  # stored, not compressed
        archive.writestr("word/media/film.mp4", bytes(65 << 20))
    assert [summarize_item(item)[3] for item in read_file("docx", tmp_path, data.getvalue())] == ["text"]

"""PDF, made with reportlab."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from reportlab.lib.enums import TA_JUSTIFY
from reportlab.lib.pagesizes import A4
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.lib.styles import ParagraphStyle, getSampleStyleSheet
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import BaseDocTemplate, Frame, FrameBreak, PageBreak, PageTemplate, Paragraph, SimpleDocTemplate

from llmops.data.collect.readers.origin import Item
from tests.data.collect.readers.reading import documents, dropped, only, read_file

STYLES = getSampleStyleSheet()


def read(path: Path) -> list[Item]:
    return read_file("pdf", path.parent, None, name=path.name)


def texts(path: Path, *drawn: tuple[float, float, str], **canvas_settings: object) -> Path:
    """Make a page with a text at each place."""
    canvas = Canvas(str(path), **canvas_settings)
    for x, y, text in drawn:
        canvas.drawString(x, y, text)
    canvas.save()
    return path


def lines(path: Path, *pages: list[str]) -> Path:
    canvas = Canvas(str(path))
    for page in pages:
        for number, line in enumerate(page):
            canvas.drawString(72, 800 - 14 * number, line)
        canvas.showPage()
    canvas.save()
    return path


def test_styled_headings_with_running_titles_and_a_section_across_pages(tmp_path: Path) -> None:
    def edge(canvas: Canvas, template: SimpleDocTemplate) -> None:
        canvas.setFont("Helvetica", 8)
        canvas.drawString(72, 820, "Shop policy")
        canvas.drawString(72, 20, f"Page {template.page} of 2")

    body = STYLES["BodyText"]
    story = [
        Paragraph("Returns policy", STYLES["Title"]),
        Paragraph("5. Refunds", STYLES["Heading1"]),
        Paragraph("5.1 How long do I have?", STYLES["Heading2"]),
        Paragraph("You have <b>14 days</b>. It is long enough for anybody to try it, we think. " * 3, body),
        Paragraph("5.2 Who pays?", STYLES["Heading2"]),
        Paragraph("The shop pays for what was wrong. " * 6, body),
        PageBreak(),
        Paragraph("On islands you pay half.", body),
    ]
    SimpleDocTemplate(str(tmp_path / "x.pdf")).build(story, onFirstPage=edge, onLaterPages=edge)
    items = documents(read(tmp_path / "x.pdf"))
    assert [(i.position, i.context, i.question) for i in items] == [
        ("page 1, section 1", "Returns policy › Refunds", "How long do I have?"),
        ("page 1, section 2", "Returns policy › Refunds", "Who pays?"),
    ]
    assert items[0].answer.startswith("You have 14 days. It is long")
    assert items[1].answer.endswith("On islands you pay half.")
    assert "Page" not in items[1].answer and "Shop policy" not in items[1].answer


def test_numbered_lines_are_headings_where_all_text_is_set_alike(tmp_path: Path) -> None:
    page = ["1. Refunds", "We refund within", "14 days after delivery.", "2. Exchanges", "We do it.", "Why?", "So."]
    items = documents(read(lines(tmp_path / "x.pdf", page)))
    assert [(i.context, i.question, i.answer or i.text, i.group) for i in items] == [
        ("Refunds", "", "We refund within 14 days after delivery.", ""),
        ("Exchanges", "", "We do it.", ""),
        ("Exchanges", "Why?", "So.", "why"),
    ]


def test_the_files_own_title_stands_for_a_missing_one(tmp_path: Path) -> None:
    canvas = Canvas(str(tmp_path / "x.pdf"))
    canvas.setTitle("Returns")
    canvas.drawString(72, 800, "How long does it take?")
    canvas.drawString(72, 786, "We refund it within some days.")
    canvas.save()
    item = only(read(tmp_path / "x.pdf"))
    assert (item.context, item.question) == ("Returns", "How long does it take?")


def set_in(path: Path, found: list[tuple[str, str]]) -> Path:
    """Lines, each with its font; spaces before a line are an indentation by letters of Courier."""
    canvas = Canvas(str(path))
    for number, (font, line) in enumerate(found):
        canvas.setFont(font, 15 if font.endswith("Bold") else 10)
        text = line.lstrip(" ")
        canvas.drawString(72 + (len(line) - len(text)) * 6, 800 - 16 * number, text)
    canvas.save()
    return path


def test_a_heading_of_several_lines_is_whole_and_stands_beside_its_siblings(tmp_path: Path) -> None:
    page = """
        *5.1 What does the shop take back, and what has it|*to be like?|All that is whole.|
        *5.2 My parcel came late. I|*do not want it.|*What should I do?|Send it back.|
        *5.3 Is a label on paper, cloth,|*or wood enough?|It is.|
        *5.4 Why is it not free? I thought that it was free!|It is free.|
        *5.5 Who pays?|The shop does. It is so. |It has been so for long.
    """
    found = [line.strip("\n") if line[:1] == "T" else line.strip() for line in page.split("|")]
    fonts = [("Helvetica-Bold" if line[0] == "*" else "Helvetica", line.lstrip("*")) for line in found]
    items = documents(read(set_in(tmp_path / "x.pdf", fonts)))
    assert [(i.context, i.question, i.answer or i.text) for i in items] == [
        ("", "What does the shop take back, and what has it to be like?", "All that is whole."),
        ("", "My parcel came late. I do not want it. What should I do?", "Send it back."),
        ("", "Is a label on paper, cloth, or wood enough?", "It is."),
        ("", "Why is it not free? I thought that it was free!", "It is free."),
        ("", "Who pays?", "The shop does. It is so. It has been so for long."),
    ]


def test_code_keeps_its_lines_and_what_is_set_so_within_a_sentence_does_not(tmp_path: Path) -> None:
    code = "for name in a b; do\n    echo $name |\n        wc -c\ndone"
    page = [
        ("Helvetica", "Write this into a file:"),
        *(("Courier", line) for line in code.split("\n")),
        ("Helvetica", "and run it, for 32-"),
        ("Helvetica", "bit machines as well."),
    ]
    item = only(read(set_in(tmp_path / "x.pdf", page)))
    assert item.text == f"Write this into a file:\n{code}\nand run it, for 32-bit machines as well."
    canvas = Canvas(str(tmp_path / "y.pdf"))
    for font, x, y, text in (
        ("Helvetica", 72, 800, "Run it with the option"),
        ("Courier", 190, 800, "--name"),
        ("Courier", 72, 786, "--other-name"),
        ("Helvetica", 72, 772, "and wait."),
    ):
        canvas.setFont(font, 10)
        canvas.drawString(x, y, text)
    canvas.save()
    assert only(read(tmp_path / "y.pdf")).text == "Run it with the option --name --other-name and wait."


def test_addresses_in_brackets_are_whole_and_a_paragraph_after_a_list_stands_alone(tmp_path: Path) -> None:
    page = """It is in the guide (https:
//shop.example/guide_
of_returns.html) and there (http://shop.example
and elsewhere). You need:
* a label,
  or a number,
* a box.
Then you send it."""
    assert only(read(set_in(tmp_path / "x.pdf", [("Helvetica", line) for line in page.split("\n")]))).text == (
        "It is in the guide (https://shop.example/guide_of_returns.html) and there (http://shop.example and elsewhere)."
        " You need:\n* a label, or a number,\n* a box.\nThen you send it."
    )


def test_without_headings_every_page_is_a_document_and_one_without_text_is_quarantined(tmp_path: Path) -> None:
    items = read(lines(tmp_path / "x.pdf", ["Just a text.", "And more."], ["Second page."], []))
    found = [(i.position, i.text) for i in documents(items)]
    assert found == [("page 1", "Just a text. And more."), ("page 2", "Second page.")]
    assert dropped(items) == [("empty", "page 3")]


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_a_corrupt_file_is_quarantined(tmp_path: Path, damage: str) -> None:
    path = lines(tmp_path / "x.pdf", ["Text here."])
    data = path.read_bytes()
    damaged = {"cut": data[: len(data) // 3], "garbage": b"%PDF-1.4\n" + bytes(range(256)) * 9, "empty": b""}
    path.write_bytes(damaged[damage])
    assert dropped(read(path)) == [("unreadable", "file")]


WORDS = [f"word{n}" for n in range(900)]


def columns(path: Path, count: int) -> Path:
    """Pages with a title across them and justified text in columns."""
    document = BaseDocTemplate(str(path), pagesize=A4)
    width = 480 / count
    frames = [Frame(60 + i * width, 60, width - 6, 650, id=str(i)) for i in range(count)]
    document.addPageTemplates([PageTemplate(frames=[Frame(60, 720, 480, 60, id="title"), *frames])])
    style = ParagraphStyle("x", fontName="Helvetica", fontSize=10, leading=12, alignment=TA_JUSTIFY)
    texts = [" ".join(WORDS[i : i + 45]) + "." for i in range(0, 135 * count // 45 * 45, 45)]
    title = Paragraph("A title that stands across all of the columns of the page", style)
    document.build([title, FrameBreak(), *(Paragraph(text, style) for text in texts)])
    return path


@pytest.mark.parametrize("count", [1, 2, 3])
def test_columns_are_read_one_after_the_other(tmp_path: Path, count: int) -> None:
    text = only(read(columns(tmp_path / "x.pdf", count))).text
    assert text.startswith("A title that stands across all of the columns of the page word0 word1 ")
    assert re.findall(r"\d+", text) == [str(n) for n in range(135 * count // 45 * 45)]


def test_columns_are_read_in_order_however_they_are_saved_and_tables_by_row(tmp_path: Path) -> None:
    left = [f"The left column says this in line {n}, which" for n in range(12)]
    right = [f"The right column says that in line {n}, so" for n in range(12)]
    below = "What stands below across both of the columns, from one margin to the other, comes last."
    drawn = []
    for n in range(12):  # line by line across the page, with feet that do not agree
        drawn += [(60, 700 - 14 * n, left[n]), (320, 696 - 14 * n, right[n])]
    edges = [(60, 800, "Shop policy"), (60, 20, "Printed in 2026"), (60, 480, below)]
    item = only(read(texts(tmp_path / "x.pdf", *drawn, *edges)))
    assert item.text == " ".join(["Shop policy", *left, *right, below, "Printed in 2026"])
    rows = [
        ("Ireland", "2 to 4 days"),
        ("Belgium", "3 days"),
        ("Germany", "3 to 5 days"),
        ("Spain", "6"),
        ("Italy", "7"),
    ]
    cells = [(72 + 178 * m, 700 - 14 * n, text) for n, row in enumerate(rows) for m, text in enumerate(row)]
    item = only(read(texts(tmp_path / "y.pdf", *cells)))
    assert item.text == " ".join(f"{country} {days}" for country, days in rows)


def test_words_cut_at_the_end_of_a_line_are_joined(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.pdf", ["We deliv-", "er on week-", "days, 5 -", "6 days, for A-", "B too."])
    assert only(read(path)).text == "We deliver on weekdays, 5 - 6 days, for A- B too."


def test_a_password_is_named_and_one_for_the_owner_alone_does_not_matter(tmp_path: Path) -> None:
    locked, opened = (
        texts(tmp_path / name, (72, 700, "Text here."), encrypt=StandardEncryption(user, "owner", canPrint=0))
        for name, user in (("locked", "secret"), ("open", ""))
    )
    assert dropped(read(locked)) == [("encrypted", "file")]
    assert only(read(opened)).text == "Text here."


def test_a_scan_is_named(tmp_path: Path) -> None:
    canvas = Canvas(str(tmp_path / "x.pdf"))
    canvas.drawImage(ImageReader(Image.new("L", (60, 80), 200)), 0, 0, 595, 842)
    canvas.showPage()
    canvas.drawString(72, 700, "Text here.")
    canvas.save()
    items = read(tmp_path / "x.pdf")
    assert dropped(items) == [("scanned", "page 1")] and [i.position for i in documents(items)] == ["page 2"]


def test_text_that_stands_across_the_page_is_no_part_of_it(tmp_path: Path) -> None:
    canvas = Canvas(str(tmp_path / "x.pdf"))
    canvas.drawString(72, 700, "Text here.")
    canvas.rotate(45)
    canvas.drawString(500, 200, "DRAFT")
    canvas.save()
    assert only(read(tmp_path / "x.pdf")).text == "Text here."


CHAPTERS = ["Getting support for the shop", "How to return what was wrong", "Orders that never came to you", "Paying"]
NUMBER_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def said(n: int) -> str:
    """A line of text that no other is like."""
    return "it says " + " ".join(NUMBER_WORDS[int(digit)] for digit in str(n)) + " here"


def book(path: Path, lengths: list[int], head: str) -> list[str]:
    """Chapters of four pages, `lengths` lines each; returns the lines of the text in order."""
    canvas, texts = Canvas(str(path)), []
    for page, length in enumerate(lengths):
        chapter, first = CHAPTERS[page // 4 % len(CHAPTERS)], page % 4 == 0
        if not first and (head == "all" or (head == "even" and page % 2)):
            canvas.setFont("Helvetica", 10)
            canvas.drawString(72, 800, f"CHAPTER {page // 4 + 1}. {chapter.upper()[:18]} …")
            canvas.drawString(400, 800, f"{page // 4 + 1}.{page % 4}. SECTION")
        if first:
            canvas.setFont("Helvetica-Bold", 20)
            canvas.drawString(72, 770, chapter)
        canvas.setFont("Helvetica", 10)
        for row in range(length):
            texts.append(said(len(texts)))
            canvas.drawString(72, 740 - 12 * row, texts[-1])
        canvas.drawString(290, 30, str(page + 1))
        canvas.showPage()
    canvas.save()
    return texts


@settings(deadline=None, max_examples=5)
@given(st.lists(st.integers(1, 40), min_size=3, max_size=8), st.sampled_from(["none", "all", "even"]))
@example([15] * 8, "all")  # heads that change by chapter
def test_running_heads_go_and_no_line_of_the_text_is_lost(lengths: list[int], head: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.pdf"
        said = book(path, lengths, head)
        found = " ".join(f"{i.answer} {i.text}" for i in documents(read(path)))
        assert [line for line in said if line not in found] == []
        if head == "all" and len(lengths) >= 8:
            assert "CHAPTER" not in found and "SECTION" not in found
        if head == "all" and set(lengths) == {15}:
            assert " ".join(found.split()) == " ".join(said)


def test_questions_that_stand_apart_at_the_head_of_each_page_stay(tmp_path: Path) -> None:
    canvas = Canvas(str(tmp_path / "x.pdf"))
    for page in range(8):
        canvas.drawString(72, 800, f"What is {said(page)}?")
        for row in range(5):
            canvas.drawString(72, 760 - 12 * row, f"{said(10 * page + row + 100)}.")
        canvas.showPage()
    canvas.save()
    assert [i.question for i in documents(read(tmp_path / "x.pdf"))] == [f"What is {said(page)}?" for page in range(8)]


def test_footnotes_stand_at_the_end_of_their_section(tmp_path: Path) -> None:
    story = [
        Paragraph("1.1 Who pays?", STYLES["Heading2"]),
        Paragraph("The shop pays<super size=7>1</super>, up to 10<super size=7>2</super> euros. " + "We do. " * 60),
        Paragraph("1.2 Everybody asks; is it so?", STYLES["Heading2"]),
        Paragraph("It is so. " * 40),
    ]

    def foot(canvas: Canvas, template: SimpleDocTemplate) -> None:
        canvas.setFont("Helvetica", 5)
        canvas.drawString(72, 72, "1")
        canvas.setFont("Helvetica", 8)
        canvas.drawString(75, 70, "Not on islands, where")
        canvas.drawString(72, 60, "you pay half.")

    SimpleDocTemplate(str(tmp_path / "x.pdf")).build(story, onFirstPage=foot)
    first, second = documents(read(tmp_path / "x.pdf"))
    assert first.answer.startswith("The shop pays, up to 10² euros.")
    assert first.answer.endswith("We do.\n[Not on islands, where you pay half.]")
    assert (second.question, second.answer) == ("Everybody asks; is it so?", ("It is so. " * 40).strip())

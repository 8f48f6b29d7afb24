"""PDF, made with reportlab."""

from __future__ import annotations

from pathlib import Path

import pytest
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate

from llmops.config import Source
from llmops.data.readers import pdf_pages
from llmops.data.readers.origin import Origin
from llmops.records import Document, Dropped


def read(path: Path) -> list[Document | Dropped | None]:
    return list(pdf_pages.read(path, Origin(Source(name="s", kind="pdf", location="x"), path.name)))


def lines(path: Path, *pages: list[str]) -> Path:
    canvas = Canvas(str(path))
    for page in pages:
        for number, line in enumerate(page):
            canvas.drawString(72, 800 - 14 * number, line)
        canvas.showPage()
    canvas.save()
    return path


def test_styled_headings_with_running_titles_and_a_section_across_pages(tmp_path: Path) -> None:
    styles = getSampleStyleSheet()

    def edge(canvas: Canvas, template: SimpleDocTemplate) -> None:
        canvas.setFont("Helvetica", 8)
        canvas.drawString(72, 820, "Shop policy")
        canvas.drawString(72, 20, f"Page {template.page} of 2")

    story = [
        Paragraph("Returns policy", styles["Title"]),
        Paragraph("1. How long do I have?", styles["Heading2"]),
        Paragraph(
            "You have <b>14 days</b>. It is long enough for anybody to try it, we think. " * 3, styles["BodyText"]
        ),
        Paragraph("2. Who pays?", styles["Heading2"]),
        Paragraph("The shop pays for what was wrong. " * 6, styles["BodyText"]),
        PageBreak(),
        Paragraph("On islands you pay half.", styles["BodyText"]),
    ]
    path = tmp_path / "x.pdf"
    SimpleDocTemplate(str(path)).build(story, onFirstPage=edge, onLaterPages=edge)
    items = [item for item in read(path) if isinstance(item, Document)]
    assert [(i.position, i.question) for i in items] == [
        ("page 1, section 1", "How long do I have?"),
        ("page 1, section 2", "Who pays?"),
    ]
    assert items[0].answer.startswith("You have 14 days. It is long")
    assert items[1].answer.endswith("On islands you pay half.")
    assert "Page" not in items[1].answer and "Shop policy" not in items[1].answer


def test_numbered_lines_are_headings_where_all_text_is_set_alike(tmp_path: Path) -> None:
    page = [
        "1. Refunds",
        "We refund within",
        "14 days after delivery.",
        "2. Exchanges",
        "We exchange it.",
        "Why?",
        "So.",
    ]
    items = read(lines(tmp_path / "x.pdf", page))
    assert [(i.question, i.answer) for i in items if isinstance(i, Document)] == [
        ("Refunds", "We refund within 14 days after delivery."),
        ("Exchanges", "We exchange it."),
        ("Why?", "So."),
    ]
    assert [i.group for i in items if isinstance(i, Document)] == ["refunds", "exchanges", "why"]


def test_without_headings_every_page_is_a_document(tmp_path: Path) -> None:
    items = read(lines(tmp_path / "x.pdf", ["Just a text.", "And more."], ["Second page."]))
    assert [(i.position, i.text) for i in items if isinstance(i, Document)] == [
        ("page 1", "Just a text. And more."),
        ("page 2", "Second page."),
    ]


def test_a_page_without_text_is_quarantined_alone(tmp_path: Path) -> None:
    good, bad = sorted(read(lines(tmp_path / "x.pdf", ["Text here."], [])), key=lambda i: isinstance(i, Dropped))
    assert isinstance(good, Document)
    assert isinstance(bad, Dropped) and (bad.rule, bad.position) == ("empty", "page 2")


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_a_corrupt_file_is_quarantined(tmp_path: Path, damage: str) -> None:
    path = lines(tmp_path / "x.pdf", ["Text here."])
    data = path.read_bytes()
    path.write_bytes(
        {"cut": data[: len(data) // 3], "garbage": b"%PDF-1.4\n" + bytes(range(256)) * 9, "empty": b""}[damage]
    )
    (item,) = read(path)
    assert isinstance(item, Dropped) and (item.rule, item.location) == ("unreadable", "x.pdf")


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        read(tmp_path / "no.pdf")

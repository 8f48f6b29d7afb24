"""PDF, made with reportlab."""

from pathlib import Path
from typing import Any

import matplotlib
import pytest
from pypdfium2 import PdfDocument
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate

from llmops.data.collect.readers.origin import Item
from llmops.data.collect.readers.pdf import ocr
from llmops.frame.errors import SourceError
from llmops.frame.records import DroppedRow
from tests.data.collect.readers.reading import get_document, get_documents, list_dropped, read_file
from tests.programs import require_program

STYLES = getSampleStyleSheet()


def read_pdf(path: Path) -> list[Item]:
    return read_file("pdf", path.parent, None, name=path.name)


def draw_texts(path: Path, *pages: list[tuple[Any, ...]], title: str = "", **settings: object) -> Path:
    """Draw texts, each with its position, and its font and size if they are not Helvetica 10."""
    canvas = Canvas(str(path), **settings)
    canvas.setTitle(title or "untitled")
    for page in pages:
        for x, y, text, *font in page:
            canvas.setFont(*(font or ("Helvetica", 10)))
            canvas.drawString(x, y, text)
        canvas.showPage()
    canvas.save()
    return path


def draw_lines(path: Path, *pages: str, **settings: Any) -> Path:
    """Draw pages line by line: bold after `*`, code after `>`. Leading spaces become indentation."""
    drawn_pages = []
    for page in pages:
        drawn_pages.append([])
        for number, line in enumerate(page.split("\n")):
            has_mark = line.startswith(("*", ">")) and not line.startswith("* ")
            mark, text = (line[0], line[1:]) if has_mark else ("", line)
            font = {"*": ("Helvetica-Bold", 15), ">": ("Courier", 10)}.get(mark, ())
            indent = len(text) - len(text.lstrip(" "))
            drawn_pages[-1].append((72 + 6 * indent, 800 - 16 * number, text.lstrip(" "), *font))
    return draw_texts(path, *drawn_pages, **settings)


def test_styled_headings_with_running_titles_and_a_section_across_pages(tmp_path: Path) -> None:
    def draw_edges(canvas: Canvas, template: SimpleDocTemplate) -> None:
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
    SimpleDocTemplate(str(tmp_path / "x.pdf")).build(story, onFirstPage=draw_edges, onLaterPages=draw_edges)
    items = get_documents(read_pdf(tmp_path / "x.pdf"))
    assert [(i.position, i.context, i.question) for i in items] == [
        ("page 1, section 1", "Returns policy › Refunds", "How long do I have?"),
        ("page 1, section 2", "Returns policy › Refunds", "Who pays?"),
    ]
    assert items[0].answer.startswith("You have 14 days. It is long")
    assert items[1].answer.endswith("On islands you pay half.")
    assert "Page" not in items[1].answer and "Shop policy" not in items[1].answer


def test_numbered_lines_are_headings_where_all_text_is_set_alike(tmp_path: Path) -> None:
    page = "1. Refunds\nWe refund within\n14 days after delivery.\n2. Exchanges\nWe do it.\nWhy?\nSo."
    items = get_documents(read_pdf(draw_lines(tmp_path / "x.pdf", page)))
    assert [(i.context, i.question, i.answer or i.text, i.group) for i in items] == [
        ("Refunds", "", "We refund within 14 days after delivery.", ""),
        ("Exchanges", "", "We do it.", ""),
        ("Exchanges", "Why?", "So.", "why"),
    ]


def test_a_heading_of_several_lines_is_whole_and_stands_beside_its_siblings(tmp_path: Path) -> None:
    page = """*5.1 What does the shop take back, and what has it
*to be like?
All that is whole.
*5.2 My parcel came late. I
*do not want it.
*What should I do?
Send it back.
*5.3 Why is it not free? I thought that it was free!
It is free."""
    items = get_documents(read_pdf(draw_lines(tmp_path / "x.pdf", page)))
    assert [(i.context, i.question, i.answer or i.text) for i in items] == [
        ("", "What does the shop take back, and what has it to be like?", "All that is whole."),
        ("", "My parcel came late. I do not want it. What should I do?", "Send it back."),
        ("", "Why is it not free? I thought that it was free!", "It is free."),
    ]


def test_code_keeps_its_lines_and_what_is_set_so_within_a_sentence_does_not(tmp_path: Path) -> None:
    code = "for name in a b; do\n    echo $name |\n        wc -c\ndone"
    page = (
        f"Write this into a file:\n>{code.replace(chr(10), chr(10) + '>')}\nand run it, for 32-\nbit machines as well."
    )
    item = get_document(read_pdf(draw_lines(tmp_path / "x.pdf", page)))
    assert item.text == f"Write this into a file:\n{code}\nand run it, for 32-bit machines as well."
    page = [(72, 800, "Run it with the option"), (72, 772, "and wait."), (190, 800, "--name", "Courier", 10)]
    item = get_document(read_pdf(draw_texts(tmp_path / "y.pdf", [*page, (72, 786, "--other-name", "Courier", 10)])))
    assert item.text == "Run it with the option --name --other-name and wait."


def test_without_headings_every_page_is_a_document(tmp_path: Path) -> None:
    items = get_documents(read_pdf(draw_lines(tmp_path / "x.pdf", "Just a text.\nAnd more.", "Second page.")))
    assert [(i.position, i.text) for i in items] == [("page 1", "Just a text. And more."), ("page 2", "Second page.")]


@pytest.mark.parametrize("count", [2, 3])
def test_columns_are_read_in_order_however_they_are_saved(tmp_path: Path, count: int) -> None:
    columns = [[f"Column {m} says it in line {n}, so" for n in range(12)] for m in range(count)]
    below = "What stands below across all of the columns, from one margin to the other, comes last."
    drawn = []
    for n in range(12):  # line by line across the page, with feet that do not agree
        drawn += [(60 + 520 // count * m, 700 - 14 * n - 4 * (m % 2), column[n]) for m, column in enumerate(columns)]
    edges = [(60, 800, "Shop policy"), (60, 20, "Printed in 2026"), (60, 480, below)]
    item = get_document(read_pdf(draw_texts(tmp_path / "x.pdf", [*drawn, *edges])))
    assert item.text == " ".join(["Shop policy", *sum(columns, []), below, "Printed in 2026"])


def test_tables_are_read_by_row(tmp_path: Path) -> None:
    rows = [("Ireland", "2 to 4 days"), ("Belgium", "3 days"), ("Germany", "3 to 5 days"), ("Spain", "6")]
    cells = [(72 + 178 * m, 700 - 14 * n, text) for n, row in enumerate(rows) for m, text in enumerate(row)]
    item = get_document(read_pdf(draw_texts(tmp_path / "x.pdf", cells)))
    assert item.text == " ".join(f"{country} {days}" for country, days in rows)


def test_no_row_of_a_table_over_several_pages_is_lost(tmp_path: Path) -> None:
    rows = [f"S{n} {100 + n} EUR" for n in range(90)]
    pages = [["Prices of 2026", "Size Price", *rows[n : n + 30]] for n in (0, 30, 60)]
    drawn = [[(72, 800 - 16 * i, line) for i, line in enumerate(page)] for page in pages]
    text = " ".join(item.text for item in get_documents(read_pdf(draw_texts(tmp_path / "x.pdf", *drawn))))
    assert [row for row in rows if row not in text] == []
    assert "Prices of" not in text


def test_a_table_below_columns_does_not_hide_them(tmp_path: Path) -> None:
    columns = [[f"Column {m} says it in line {n}, so" for n in range(6)] for m in range(2)]
    lines = [(60 + 260 * m, 700 - 14 * n, line) for m, column in enumerate(columns) for n, line in enumerate(column)]
    cells = [(60 + 180 * m, 570 - 14 * n, f"cell {n}") for n in range(12) for m in range(3)]
    items = get_documents(
        read_pdf(draw_texts(tmp_path / "x.pdf", [*lines, (60, 590, "Prices", "Helvetica", 14), *cells]))
    )
    assert items[0].text == " ".join(sum(columns, []))


def test_words_cut_at_the_end_of_a_line_are_joined(tmp_path: Path) -> None:
    path = draw_lines(tmp_path / "x.pdf", "We deliv-\ner on week-\ndays, 5 -\n6 days, for A-\nB too.")
    assert get_document(read_pdf(path)).text == "We deliver on weekdays, 5 - 6 days, for A- B too."


def test_a_line_from_right_to_left_is_in_the_order_of_reading(tmp_path: Path) -> None:
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    pdfmetrics.registerFont(TTFont("DejaVu", fonts / "DejaVuSans.ttf"))
    lines = ["מי משלם על המשלוח?", "החנות, עד 20 ימים.", "כתבו אל shop@example.com לפני כן."]
    drawn = [
        " ".join(word if word.isascii() else word[::-1] for word in reversed(line.split()))  # as it is seen
        for line in lines
    ]
    texts = [(72, 700 - 14 * number, line, "DejaVu", 10) for number, line in enumerate(drawn)]
    item = get_document(read_pdf(draw_texts(tmp_path / "x.pdf", texts)))
    assert item.text == " ".join(lines)


def test_a_turned_page_is_read_as_it_is_shown(tmp_path: Path) -> None:
    lines = ["Returns are free,", "for two weeks."]
    for turn in (90, 180, 270):
        canvas = Canvas(str(tmp_path / "x.pdf"), pagesize=(400, 400))
        canvas.setPageRotation(turn)
        canvas.translate(200, 200)
        canvas.rotate(turn)
        for number, line in enumerate(lines):
            canvas.drawString(-150, 100 - 14 * number, line)
        canvas.showPage()
        canvas.save()
        assert get_document(read_pdf(tmp_path / "x.pdf")).text == " ".join(lines)


def scan(path: Path) -> Path:
    """Replace each page of a PDF by its image."""
    with PdfDocument(path) as pdf:
        images = [page.render(scale=300 / 72).to_pil() for page in pdf]
    images[0].save(path, save_all=True, append_images=images[1:], resolution=300)
    return path


def write_table(lines: list[tuple[str, int, float]]) -> str:
    """Return tesseract's table of lines, each with its height in dots and its confidence."""
    rows = [
        "\t".join(map(str, (5, 1, 1, 1, number, at, 100 + 90 * at, 100 * number, 80, height, sure, word)))
        for number, (text, height, sure) in enumerate(lines, 1)
        for at, word in enumerate(text.split())
    ]
    return "\n".join(["level", *rows, "4\t1\t1\t1\t9\t0\t0\t0\t9\t9\t-1\t"])


def test_words_of_a_scanned_page_have_one_font_but_for_large_lines() -> None:
    lines = [("Returns", 60, 90.0), ("Send it", 30, 80.0), ("back soon.", 34, 70.0)]
    rows, confidence = ocr._convert_table(write_table(lines), 0.5)
    assert [[word.text for word in row] for row in rows] == [["Returns"], ["Send", "it"], ["back", "soon."]]
    assert [row[0].size for row in rows] == [30, 17, 17] and rows[1][1].left == 95
    assert confidence == pytest.approx((7 * 90 + 6 * 80 + 9 * 70) / 22)
    assert ocr._convert_table("level", 1.0) == ([], 0.0)


def test_a_scanned_page_is_read_with_its_headings(tmp_path: Path) -> None:
    require_program("tesseract")
    lines = ["*Returns policy", "", "1. Who pays for the return?", "The shop pays for what was wrong."]
    page = "\n".join([*lines, "2. How long does it take?", "Two weeks at most."])
    items = get_documents(read_pdf(scan(draw_lines(tmp_path / "x.pdf", page))))
    assert [(i.question, i.answer) for i in items][-2:] == [
        ("Who pays for the return?", "The shop pays for what was wrong."),
        ("How long does it take?", "Two weeks at most."),
    ]


def test_a_page_that_tesseract_is_not_sure_of_is_quarantined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_program("tesseract")
    monkeypatch.setattr(ocr, "MIN_CONFIDENCE", 101.0)
    path = scan(draw_lines(tmp_path / "x.pdf", "Some text."))
    assert list_dropped(read_pdf(path)) == [("scanned", "page 1")]
    with pytest.raises(SourceError, match=r"lacks a language of `languages: \[xyz\]`"):
        read_file("pdf", tmp_path, None, name="x.pdf", languages=("xyz",))


CHAPTERS = ["Getting support for the shop", "How to return what was wrong", "Orders that never came to you", "Paying"]
NUMBER_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def spell_number(n: int) -> str:
    return "it says " + " ".join(NUMBER_WORDS[int(digit)] for digit in str(n)) + " here"


def draw_book(path: Path, lengths: list[int], head: str) -> list[str]:
    """Draw chapters of four pages; `lengths` are the lines of each page. Return the lines of the text in order."""
    lines, pages = [], []
    for page, length in enumerate(lengths):
        chapter, first = CHAPTERS[page // 4 % len(CHAPTERS)], page % 4 == 0
        drawn = [(290, 30, str(page + 1))]
        if first:
            drawn.append((72, 770, chapter, "Helvetica-Bold", 20))
        elif head == "all" or (head == "even" and page % 2):
            drawn.append((72, 800, f"CHAPTER {page // 4 + 1}. {chapter.upper()[:18]} …"))
            drawn.append((400, 800, f"{page // 4 + 1}.{page % 4}. SECTION"))
        for row in range(length):
            lines.append(spell_number(len(lines)))
            drawn.append((72, 740 - 12 * row, lines[-1]))
        pages.append(drawn)
    draw_texts(path, *pages)
    return lines


def test_a_page_with_nothing_but_its_running_head_is_quarantined(tmp_path: Path) -> None:
    pages = [[(72, 800, f"Guide, page {n}"), *([(72, 700, f"{spell_number(n)}.")] * (n != 2))] for n in range(1, 5)]
    items = read_pdf(draw_texts(tmp_path / "x.pdf", *pages))
    assert [i.position for i in get_documents(items)] == ["page 1", "page 3", "page 4"]
    (row,) = [item for item in items if isinstance(item, DroppedRow)]
    assert (row.position, row.rule) == ("page 2", "empty")


@pytest.mark.parametrize("head", ["none", "all", "even"])
@pytest.mark.parametrize("lengths", [[15] * 8, [3, 40, 1, 15, 22, 8, 40, 5]])  # heads change by chapter
def test_running_heads_go_and_no_line_of_the_text_is_lost(tmp_path: Path, lengths: list[int], head: str) -> None:
    expected = draw_book(tmp_path / "x.pdf", lengths, head)
    text = " ".join(f"{i.answer} {i.text}" for i in get_documents(read_pdf(tmp_path / "x.pdf")))
    assert [line for line in expected if line not in text] == []
    if head == "all":
        assert "CHAPTER" not in text and "SECTION" not in text
    if head == "all" and set(lengths) == {15}:
        assert " ".join(text.split()) == " ".join(expected)


def test_questions_that_stand_apart_at_the_head_of_each_page_stay(tmp_path: Path) -> None:
    pages = [
        f"What is {spell_number(n)}?\n\n" + "\n".join(f"{spell_number(10 * n + m + 100)}." for m in range(5))
        for n in range(8)
    ]
    items = get_documents(read_pdf(draw_lines(tmp_path / "x.pdf", *pages, title="Returns")))
    assert [(item.context, item.question) for item in items] == [
        ("Returns", f"What is {spell_number(n)}?") for n in range(8)
    ]


def test_exponents_are_kept_and_footnotes_stay_at_the_foot_of_their_page(tmp_path: Path) -> None:
    story = [
        Paragraph("1.1 Who pays?", STYLES["Heading2"]),
        Paragraph("The shop pays<super size=7>1</super>, up to 10<super size=7>2</super> euros. " + "We do. " * 60),
        Paragraph("1.2 Everybody asks; is it so?", STYLES["Heading2"]),
        Paragraph("It is so. " * 40),
    ]

    def draw_footnote(canvas: Canvas, template: SimpleDocTemplate) -> None:
        canvas.setFont("Helvetica", 5)
        canvas.drawString(72, 72, "1")
        canvas.setFont("Helvetica", 8)
        canvas.drawString(75, 70, "Not on islands, where")
        canvas.drawString(72, 60, "you pay half.")

    SimpleDocTemplate(str(tmp_path / "x.pdf")).build(story, onFirstPage=draw_footnote)
    first, second = get_documents(read_pdf(tmp_path / "x.pdf"))
    assert first.answer.startswith("The shop pays¹, up to 10² euros.") and first.answer.endswith("We do.")
    assert second.question == "Everybody asks; is it so?"
    assert second.answer == "It is so. " * 40 + "¹Not on islands, where you pay half."

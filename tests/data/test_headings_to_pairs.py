"""From pages to what is trained on: collect, then annotate's candidates."""

from __future__ import annotations

from pathlib import Path

from reportlab.pdfgen.canvas import Canvas

from llmops.config import Collect, Source
from llmops.data.annotate.candidates import candidates
from llmops.data.annotate.quality import broken_rule
from llmops.data.collect import stage as collect
from llmops.records import Document, read_rows

PAGE = (
    "<title>{0} | Help</title><h1>{0}</h1><p>About it.</p><h2>2.1. How long does it take?</h2><p>{1} days.</p>"
    "<h2>What must I not do?</h2><h3>You probably do not want to:</h3><p>{2}.</p><h2>Overview</h2><p>All of {0}.</p>"
)
TEXT = "Chapter 1. Repairs\n\n1.1. How long does it\ntake?\n\n  A week.\n\n1.2. Overview\n\n  More.\n"
CHAT = "Anna: Do you have it?\nMaria: Yes.\nAnna: And in blue?\nMaria: No, only in red.\n"


def test_what_asks_is_a_pair_with_its_context_and_the_rest_is_text(tmp_path: Path) -> None:
    (tmp_path / "returns.html").write_text(PAGE.format("Returns", 3, "Wash it"), encoding="utf-8")
    (tmp_path / "delivery.html").write_text(PAGE.format("Delivery", 5, "Move"), encoding="utf-8")
    (tmp_path / "repairs.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "talk.txt").write_text(CHAT, encoding="utf-8")
    sources = (
        Source(name="pages", kind="html", location="*.html"),
        Source(name="texts", kind="text", location="repairs.txt"),
        Source(name="chats", kind="chat", location="talk.txt"),
    )
    (tmp_path / "out").mkdir()
    config = Collect(root=tmp_path, sources=sources, cache=tmp_path / "cache", forgotten=tmp_path / "forgotten.json")
    collect.run(config, interval="2026-01-31", out=tmp_path / "out")
    made, dropped, *_ = candidates(read_rows(tmp_path / "out" / "documents.parquet", Document), {})
    assert sorted((c.context, c.question, c.answer) for c in made) == [
        ("", "Do you have it?", "Yes."),
        ("Customer: Do you have it?\nAgent: Yes.", "And in blue?", "No, only in red."),
        ("Delivery", "How long does it take?", "5 days."),
        ("Delivery", "What must I not do?", "You probably do not want to:\nMove."),
        ("Repairs", "How long does it take?", "A week."),
        ("Returns", "How long does it take?", "3 days."),
        ("Returns", "What must I not do?", "You probably do not want to:\nWash it."),
    ]
    assert sorted((row.rule, row.content) for row in dropped) == [
        ("no_question", "context: Delivery\nAbout it."),
        ("no_question", "context: Delivery › Overview\nAll of Delivery."),
        ("no_question", "context: Returns\nAbout it."),
        ("no_question", "context: Returns › Overview\nAll of Returns."),
    ]


def test_what_surrounds_the_text_of_pages_reaches_no_answer(tmp_path: Path) -> None:
    canvas = Canvas(str(tmp_path / "book.pdf"))
    questions = ["Who pays for what was wrong?", "Debian claims to be free; is it so?"]
    for page in range(8):
        chapter = page // 4
        canvas.setFont("Helvetica", 10)
        if page % 4:
            canvas.drawString(72, 800, f"CHAPTER {chapter + 1}. {questions[chapter].upper()[:9]} …")
        else:
            canvas.setFont("Helvetica-Bold", 14)
            canvas.drawString(72, 760, f"1.{chapter + 1} {questions[chapter]}")
            canvas.setFont("Helvetica", 10)
        for row, word in enumerate(["first", "second", "third"]):
            canvas.drawString(72, 740 - 12 * row, f"It is the {word} line of part {'abcdefgh'[page]}.")
        canvas.showPage()
    canvas.save()
    (tmp_path / "page.html").write_text(
        "<title>Orders</title><h2>What is it?</h2><p>An order.</p><h2>How do I return it?</h2><p>See the guide.</p>"
        "<h2>When?</h2><p>Now.</p><table><tr><td><a rel=prev href=a.html>Returns</a></td></tr></table>",
        encoding="utf-8",
    )
    sources = tuple(Source(name=kind, kind=kind, location=f"*.{kind}") for kind in ("pdf", "html"))
    (tmp_path / "out").mkdir()
    config = Collect(root=tmp_path, sources=sources, cache=tmp_path / "cache", forgotten=tmp_path / "forgotten.json")
    collect.run(config, interval="2026-01-31", out=tmp_path / "out")
    made, *_ = candidates(read_rows(tmp_path / "out" / "documents.parquet", Document), {})
    parts = [
        [f"It is the {word} line of part {part}." for part in p for word in ("first", "second", "third")]
        for p in ("abcd", "efgh")
    ]
    assert sorted(
        (c.question, c.answer) for c in made if "pointer_only" not in (broken_rule(c.question, c.answer) or "")
    ) == sorted(
        [
            *zip(questions, map(" ".join, parts), strict=True),
            ("What is it?", "An order."),
            ("When?", "Now."),
        ]
    )

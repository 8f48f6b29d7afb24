"""OpenDocument, RTF and Office before 2007, and the same files in the newer formats, as LibreOffice writes them.

`made_by_libreoffice/make.sh` makes them from three sources, which have a comment, a tracked change, a footnote, merged
cells, Hebrew, a hidden sheet and a hidden slide.
"""

import gzip
from pathlib import Path

import pytest

from llmops.data.collect.readers.decoding import UnreadableError
from tests.data.collect.readers.office.office_files import GOOD, MADE_BY_LIBREOFFICE
from tests.data.collect.readers.office.test_office import summarize_item
from tests.data.collect.readers.reading import read_file

Rows = list[tuple[str, ...]]

LIST = "- unused\n- packed\n  - in its box"
TABLE = "| Size | Price |  |\n|---|---|---|\n| S | 10 € | 11 € |\n|  | 12 € | 13 € |"
HEBREW = "האוהל אינו מתכווץ (40°)."
AREA = "The area is x2."
SHEET = "| Size | Price |  | Since |\n|---|---|---|---|\n| S | 12.5 | 0.19 | 2026-01-31 |\n| M | 13.5 | 0.07 | אוהל |"
SHEETS: Rows = [("sheet Prices", "Prices", "", SHEET), ("sheet Care", "Care", "", "| Dry it in the sun |\n|---|")]


def list_sections(period: str, table: str, gap: str = "\n\n") -> Rows:
    return [
        ("section 1", "Returns", "", "All of our tents."),
        ("section 2", "Returns", "How long do I have?", f"You have {period}{gap}{LIST}"),
        ("section 3", "Returns", "What does it cost?", table),
        ("section 4", "Returns › Care", "", HEBREW),
    ]


FILES: dict[str, Rows] = {
    "text.odt": list_sections("thirty days, if the tent is: [From the day of delivery.]", f"{TABLE}\n\n{AREA}"),
    # The deletion is read, and the footnote is lost.
    "text.rtf": list_sections("fourteenthirty days, if the tent is:", f"{TABLE}\n\n{AREA}"),
    "text.docx": list_sections(
        "thirty days [From the day of delivery.], if the tent is:",
        "| Size | Price | Price |\n|---|---|---|\n| S | 10 € | 11 € |\n| S | 12 € | 13 € |\nThe area is x².",
        "\n",
    ),
    # LibreOffice numbers its headings without a number, so they are a list; the table is lines.
    "text.doc": [
        ("section 1", "", "", "- Returns\n\nAll of our tents.\n\n- - How long do I have?\n\nYou have "
         f"fourteenthirty days, if the tent is:\n\n{LIST}\n  - What does it cost?\n\n"
         f"Size Price  S 10 € 11 €   12 € 13 €  {AREA}\n\n- - Care\n\n{HEBREW}"),
        ("notes", "", "", "From the day of delivery."),
    ],
    "sheets.ods": SHEETS,
    "sheets.xls": SHEETS,
    "sheets.xlsx": [
        ("sheet Prices", "Prices", "", "| Size | Price | Price | Since |\n|---|---|---|---|\n"
         "| S | 12.5 | 19% | 2026-01-31 |\n| M | 13.5 | 7% | אוהל |"),
        ("sheet Care", "Care", "", "Dry it in the sun"),
    ],
    "slides.odp": [
        ("slide 1", "Tents", "", "All of ours"),
        ("slide 2", "", "Which are light?", "- These\n\n- - two\n\n| Tent | kg |  |\n|---|---|---|\n| A | 1 | 2 |\n\n"
         "אוהל\n\nWeighed without pegs."),
    ],
    # The hidden slide is read.
    "slides.ppt.gz": [
        ("slide 1", "Tents", "", "All of ours"),
        ("slide 2", "", "Which are light?", "These\n\ntwo\n\nTent\n\nkg\n\nA\n\n1\n\n2\n\nאוהל"),
        ("slide 3", "Draft", "", "do not show"),
        ("notes", "", "", "Weighed without pegs."),
    ],
    "slides.pptx": [
        ("slide 1", "Tents", "", "All of ours"),
        ("slide 2", "Tents", "Which are light?", "- These\n  - two\n| Tent | kg | kg |\n|---|---|---|\n| A | 1 | 2 |\n"
         "אוהל\n\nWeighed without pegs."),
    ],
}  # fmt: skip


def get_data(name: str) -> bytes:
    data = (MADE_BY_LIBREOFFICE / name).read_bytes()
    return gzip.decompress(data) if name.endswith(".gz") else data


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_libreoffice_becomes_its_documents(name: str, tmp_path: Path) -> None:
    items = read_file(name.split(".")[1], tmp_path, get_data(name))
    assert [summarize_item(item) for item in items] == FILES[name]


def test_a_bold_line_of_rtf_that_asks_is_a_heading(tmp_path: Path) -> None:
    lines = ["{\\b Returns}", "All of ours.", "{\\b Who pays?}", "We do.", "{\\b Why?}", "So."]
    data = "".join(["{\\rtf1\\ansi ", *(rf"\pard\plain {line}\par" for line in lines), "}"])
    found = [(item[2], item[3]) for item in map(summarize_item, read_file("rtf", tmp_path, data))]
    assert found == [("", "**Returns**\n\nAll of ours."), ("Who pays?", "We do."), ("Why?", "So.")]


def set_word_password(data: bytes) -> bytes:
    start = data.index(b"\xec\xa5", 512)
    return data[: start + 11] + bytes([data[start + 11] | 1]) + data[start + 12 :]


def set_excel_password(data: bytes) -> bytes:
    start = data.index(b"\x09\x08\x10\x00", 512) + 20  # behind the first record
    return data[:start] + b"\x2f\x00" + data[start + 2 :]


BAD = {
    "doc with a password": ("doc", set_word_password(get_data("text.doc")), "encrypted"),
    "xls with a password": ("xls", set_excel_password(get_data("sheets.xls")), "encrypted"),
    "ppt with a password": ("ppt", get_data("slides.ppt.gz") + "EncryptedSummary".encode("utf-16-le"), "encrypted"),
    "doc that is a docx": ("doc", GOOD["docx"], "unreadable"),
    "odt that is a docx": ("odt", GOOD["docx"], "unreadable"),
    "odt that is an ods": ("odt", get_data("sheets.ods"), "unreadable"),
    "rtf that is text": ("rtf", b"text", "unreadable"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_has_its_reason(name: str, tmp_path: Path) -> None:
    kind, data, rule = BAD[name]
    try:
        (row,) = [summarize_item(item) for item in read_file(kind, tmp_path, data)]
    except UnreadableError:
        row = ("file", "unreadable")
    assert row == ("file", rule)

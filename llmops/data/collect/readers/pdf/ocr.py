"""Words of scanned pages, read by tesseract where it is installed.

Debian has it as `tesseract-ocr`, and each language as a package, such as `tesseract-ocr-deu`. The words take the same
way as those of other pages: columns, running heads, headings. All have one font, except lines that are much higher.
"""

import io
import os
import shutil
import subprocess
from collections.abc import Sequence
from itertools import groupby
from math import sqrt
from statistics import median

from pypdfium2 import PdfPage

from llmops.data.collect.readers.pdf.pdf_layout import Row
from llmops.data.collect.readers.pdf.pdf_words import Word
from llmops.frame.errors import SourceError

MIN_CONFIDENCE = 60.0  #: least confidence of a page, in percent
DOTS_PER_INCH = 300  #: what tesseract is made for
LARGEST_IMAGE = 30_000_000  #: most dots of a page; a larger page has fewer per inch
TIMEOUT_S = 90.0  #: longest time for a page
HEADING_FACTOR = 1.4  #: a line higher than most by this factor is in a larger font; letters alone make less difference

_POINTS = 72.0  #: per inch


def is_installed() -> bool:
    """Return True if tesseract is installed."""
    return shutil.which("tesseract") is not None


def get_version() -> str:
    """Return tesseract's version and the languages that it knows; empty if it is not installed."""
    if not is_installed():
        return ""
    told = [
        subprocess.run(["tesseract", option], capture_output=True, text=True, check=False).stdout.splitlines()
        for option in ("--version", "--list-langs")
    ]
    return ", ".join([*told[0][:1], *sorted(told[1][1:])])


def recognize(page: PdfPage, languages: Sequence[str]) -> tuple[list[Row], float]:
    """Return the words of a page, as `pdf_layout.extract_rows` does, and how sure tesseract is of them, in percent.

    Args:
        page: the page.
        languages: tesseract's names of the languages, such as `eng`, the likeliest first.

    Raises:
        SourceError: if the data of a language are not installed.
        OSError: if tesseract fails, or takes too long.
    """
    resolution = min(DOTS_PER_INCH, _POINTS * sqrt(LARGEST_IMAGE / max(1.0, page.get_width() * page.get_height())))
    png = io.BytesIO()
    page.render(scale=resolution / _POINTS, grayscale=True).to_pil().save(png, "PNG", dpi=(resolution, resolution))
    command = ["tesseract", "-", "-", "-l", "+".join(languages), "tsv"]
    environ = {**os.environ, "OMP_THREAD_LIMIT": "1"}  # several pages are read at a time, in as many processes
    try:
        done = subprocess.run(
            command, input=png.getvalue(), capture_output=True, timeout=TIMEOUT_S, check=False, env=environ
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"tesseract takes more than {TIMEOUT_S:g} s for it") from error
    if done.returncode:
        message = " ".join(done.stderr.decode(errors="replace").split())[:300]
        if "loading language" in message:
            raise SourceError(f"tesseract lacks a language of `languages: [{', '.join(languages)}]`: {message}")
        raise OSError(f"tesseract fails: {message}")
    return _convert_table(done.stdout.decode(), _POINTS / resolution)


def _convert_table(table: str, scale: float) -> tuple[list[Row], float]:
    """Return the words of tesseract's table, and the mean of their confidence. `scale` is the points of a dot.

    Its columns are level, page, block, paragraph, line, word, left, top, width, height, confidence and text.
    """
    cells = [line.split("\t", 11) for line in table.splitlines()[1:]]
    found = [row for row in cells if len(row) == 12 and row[11].strip()]
    if not found:
        return [], 0.0
    lines = [[*group] for _, group in groupby(found, lambda row: row[2:5])]
    heights = [max(int(row[9]) for row in line) * scale for line in lines]
    usual = median(heights)
    rows: list[Row] = []
    for line, height in zip(lines, heights, strict=True):
        size = height if height >= HEADING_FACTOR * usual else usual
        bottom = median(int(row[7]) + int(row[9]) for row in line) * scale
        rows.append(
            [
                Word(
                    row[11].strip(), int(row[6]) * scale, (int(row[6]) + int(row[8])) * scale, bottom, size, bold=False
                )
                for row in line
            ]
        )
    chars = sum(len(row[11]) for row in found)
    return rows, sum(float(row[10]) * len(row[11]) for row in found) / chars

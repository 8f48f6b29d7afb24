"""The words of a PDF page, of the letters that PDFium finds. Raised numbers are words of their own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from ctypes import byref, c_double, c_int, c_void_p, cast, create_string_buffer
from dataclasses import dataclass, replace
from itertools import groupby
from math import hypot
from statistics import median

import pypdfium2.raw as pdfium
from pypdfium2 import PdfPage, PdfTextPage

MAX_SLOPE = 0.1  #: slope from which a line is not horizontal
WORD_SPACE = 0.15  #: space between two letters, in font sizes, from which they belong to two words
SAME_HEIGHT = 0.5  #: distance of the baselines of two letters, in font sizes, from which they belong to two words
UNMAPPED = "\ufffd"  #: a glyph whose font does not tell its character
FARTHEST = 14_400.0  #: largest side of a page, in points; a letter farther from its origin is not read
SMALLEST = 0.1  #: size of the smallest font that is read, in points
NAME_BYTES = 256  #: most bytes of a font's name
RAISED_SIZE = 0.8  #: largest relative size or width of a digit that is a footnote's mark or an exponent
RAISED_HEIGHT = 0.15  #: least height of such a digit

_MARK = re.compile(r"\d{1,3}")
_CODE_FONT = re.compile(
    r"mono(?!type)|courier|consolas|typewriter|menlo|inconsolata|(?:^|\+)(?:cmtt|sftt|lmtt)", re.IGNORECASE
)

# Clockwise rotation of a page in degrees → how x and y of PDF (upwards) become x and y as read (downwards).
_TURNS = {0: (1, 0, 0, -1), 90: (0, 1, 1, 0), 180: (-1, 0, 0, 1), 270: (0, -1, -1, 0)}


@dataclass(frozen=True, slots=True)
class Font:
    """The font of a text object."""

    name: str
    size: float  #: in points
    bold: bool
    monospaced: bool  #: all its letters have equal width, as in code
    is_horizontal: bool  #: the text object's lines are horizontal


@dataclass(slots=True)
class Letter:
    """One character and its position, in points to the right of and below the page's origin."""

    text: str
    left: float
    right: float
    bottom: float  #: height of the baseline
    font: Font

    def compute_width(self) -> float:
        """Return the width in font sizes."""
        return (self.right - self.left) / self.font.size


@dataclass(frozen=True, slots=True)
class Word:
    """One word and its position, in points from the upper left corner of the page."""

    text: str
    left: float
    right: float
    bottom: float
    size: float  #: font size in points
    bold: bool
    monospaced: bool = False  #: all its letters are in a font for code
    raised: bool = False  #: it is a number that may be an exponent or a footnote's mark
    narrow: bool = False  #: only the width of its glyphs shows that it is raised


def read_words(page: PdfPage) -> list[Word]:
    """Return the horizontal words of a page, in the order of the file."""
    words = _group_letters(page)
    letters = [letter for word in words for letter in word]
    usual_size = median(letter.font.size for letter in letters) if letters else 0.0
    widths: dict[str, float] = {}  # font → width of its widest digit
    for letter in letters:
        if letter.text.isdigit():
            widths[letter.font.name] = max(widths.get(letter.font.name, 0.0), letter.compute_width())
    return [part for word in words for part in _split_word(word, usual_size, widths)]


def _group_letters(page: PdfPage) -> list[list[Letter]]:
    """Return the horizontal words of a page, in the order of the file. Each has its letters in the order of reading.

    PDFium puts letters of scripts that are written from right to left into that order.
    """
    words: list[list[Letter]] = [[]]
    text_page = page.get_textpage()
    try:
        for letter in _read_letters(text_page, _TURNS[page.get_rotation()]):
            if letter is None:
                words.append([])
            elif words[-1] and not _is_joined(words[-1][-1], letter):
                words.append([letter])
            else:
                words[-1].append(letter)
    finally:
        text_page.close()
    return [word for word in words if word]


def _read_letters(page: PdfTextPage, turn: tuple[int, int, int, int]) -> Iterator[Letter | None]:
    """Yield the horizontal letters, and None for white space."""
    fonts: dict[int | None, Font] = {}
    box, x, y = pdfium.FS_RECTF(), c_double(), c_double()

    for i in range(page.count_chars()):
        text = _get_text(page, i)
        if text.isspace():
            yield None
            continue

        address = cast(pdfium.FPDFText_GetTextObject(page, i), c_void_p).value
        if address not in fonts:
            fonts[address] = _get_font(page, i, turn)
        font = fonts[address]
        if font.is_horizontal and font.size >= SMALLEST:
            pdfium.FPDFText_GetLooseCharBox(page, i, byref(box))
            pdfium.FPDFText_GetCharOrigin(page, i, byref(x), byref(y))
            start = turn[0] * box.left + turn[1] * box.bottom
            end = turn[0] * box.right + turn[1] * box.top
            height = turn[2] * x.value + turn[3] * y.value
            if max(map(abs, (start, end, height))) <= FARTHEST:
                yield Letter(text, min(start, end), max(start, end), height, font)


def _get_text(page: PdfTextPage, i: int) -> str:
    """Return a character; a space for a control character."""
    code = pdfium.FPDFText_GetUnicode(page, i)
    if pdfium.FPDFText_HasUnicodeMapError(page, i) == 1:
        return UNMAPPED
    if pdfium.FPDFText_IsHyphen(page, i) == 1:  # at the end of a line
        return "-"
    return chr(code) if code > ord(" ") else " "


def _get_font(page: PdfTextPage, i: int, turn: tuple[int, int, int, int]) -> Font:
    matrix, buffer, flags = pdfium.FS_MATRIX(), create_string_buffer(NAME_BYTES), c_int()
    pdfium.FPDFText_GetFontInfo(page, i, buffer, NAME_BYTES, byref(flags))
    pdfium.FPDFText_GetMatrix(page, i, byref(matrix))
    name = buffer.value.decode(errors="replace")
    along = turn[0] * matrix.a + turn[1] * matrix.b
    up = turn[2] * matrix.a + turn[3] * matrix.b
    return Font(
        name,
        size=pdfium.FPDFText_GetFontSize(page, i) * hypot(matrix.c, matrix.d),
        bold="bold" in name.lower(),
        monospaced=bool(_CODE_FONT.search(name)),
        is_horizontal=abs(up) < MAX_SLOPE * abs(along),
    )


def _is_joined(letter: Letter, following: Letter) -> bool:
    """Return True if two letters belong to one word. A letter may be to the left of the one before."""
    size = max(letter.font.size, following.font.size)
    space = max(following.left - letter.right, letter.left - following.right)
    return space <= WORD_SPACE * size and abs(following.bottom - letter.bottom) <= SAME_HEIGHT * size


def _split_word(letters: Sequence[Letter], usual_size: float, widths: Mapping[str, float]) -> Iterator[Word]:
    """Yield the word, with each raised number in it as a separate word."""
    size = max(letter.font.size for letter in letters)
    bottom = max(letter.bottom for letter in letters if letter.font.size == size)

    def is_raised(letter: Letter) -> bool:
        is_small = letter.font.size <= RAISED_SIZE * size and bottom - letter.bottom > RAISED_HEIGHT * size
        # Some fonts have small raised digits of the same size. A small digit alone may be a page number in the body.
        return letter.text.isdigit() and (is_small or letter.compute_width() <= RAISED_SIZE * widths[letter.font.name])

    is_small_number = size <= RAISED_SIZE * usual_size and _MARK.fullmatch("".join(letter.text for letter in letters))
    if is_small_number or all(map(is_raised, letters)):
        yield replace(_build_word(letters), raised=True, narrow=size > RAISED_SIZE * usual_size)
        return
    for raised, part_letters in groupby(letters, is_raised):
        part = _build_word([*part_letters])
        yield replace(part, raised=raised, narrow=raised and part.size > RAISED_SIZE * size)


def _build_word(letters: Sequence[Letter]) -> Word:
    return Word(
        "".join(letter.text for letter in letters),
        left=min(letter.left for letter in letters),
        right=max(letter.right for letter in letters),
        bottom=max(letter.bottom for letter in letters),
        size=round(max(letter.font.size for letter in letters), 1),
        bold=all(letter.font.bold for letter in letters),
        monospaced=all(letter.font.monospaced for letter in letters),
    )

"""Formatting of HTML pages as characters: superscripts and subscripts, numbers and nesting of lists."""

import re

from bs4 import BeautifulSoup
from bs4.element import NavigableString, Tag

INDENT = "\ufdd0"  #: begins the line of an item, once per space of indentation; a character that no text has

_LISTS = ("ol", "ul", "menu")
_FOOTNOTE_MARK = re.compile(r"\[\w{1,3}\]|\d{1,3}|[*†‡]")
_SCRIPT_SIGNS = {"sup": "^", "sub": "_"}
_SCRIPT_CHARS = {
    "sup": str.maketrans("0123456789+-−=nao", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼ⁿªº"),
    "sub": str.maketrans("0123456789+-−=", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌"),
}
_SCRIPT_PATTERNS = {"sup": re.compile(r"[0-9+\-−=n,]+|[ao]"), "sub": re.compile(r"[0-9+\-−=]+")}
_FORMULA = re.compile(r"(?=.*\w)[\w+\-−=*/().,·×∞'^]{1,12}")
# Raised texts that are not exponents: `1st`, `2e`, `1er`, `Mlle`, `Brand™`, `(1)`.
_NOT_EXPONENTS = re.compile(r"[^\W\d_]{3,}|st|nd|rd|th|er|re|e|es|de|os|as|me|te|TM|SM|MD|MC|[(\[]\d+[)\]]")
_ITEM_MARK = re.compile(rf"{INDENT}+(?:-|-?\d+\.|[A-Za-z]\.)")


class LineBreak(NavigableString):
    """The end of a line. A line break in the file is not one, except within `pre`."""


def format_superscripts(root: Tag | BeautifulSoup) -> None:
    """Write superscripts and subscripts as `10²`, `2^k`, `x_(i+1)`, and remove the marks of footnotes."""
    for tag in root.find_all(["sup", "sub"])[::-1]:  # inner ones first
        text, name = tag.get_text().strip(), tag.name
        if name == "sup" and _FOOTNOTE_MARK.fullmatch(text) and (tag.find("a") or tag.find_parent("a")):
            tag.decompose()
        elif _SCRIPT_PATTERNS[name].fullmatch(text):
            tag.string = text.translate(_SCRIPT_CHARS[name])
        elif _has_base(tag) and _FORMULA.fullmatch(text) and not (name == "sup" and _NOT_EXPONENTS.fullmatch(text)):
            in_brackets = text[0] == "(" and text.find(")") == len(text) - 1
            is_clear = in_brackets or (text.isalnum() and not _is_continued(tag))
            tag.string = _SCRIPT_SIGNS[name] + (text if is_clear else f"({text})")


def _has_base(tag: Tag) -> bool:
    """Return True if a tag directly follows a letter, a digit or a closing bracket."""
    before = tag.previous_element
    last = before[-1:] if isinstance(before, NavigableString) else ""
    return last.isalnum() or last in (")", "]")


def _is_continued(tag: Tag) -> bool:
    """Return True if the text after a tag would be read as part of it."""
    after = tag.next_sibling
    return after is not None and getattr(after, "name", "") not in _SCRIPT_SIGNS and after.get_text()[:1].isalnum()


def write_list_items(root: Tag | BeautifulSoup) -> None:
    """Begin each list item on a new line, indented by its nesting, with `-` or its number."""
    numbers: dict[int, str] = {}
    for list_tag in root.find_all("ol"):
        items, is_reversed = list_tag.find_all("li", recursive=False), list_tag.has_attr("reversed")
        number = _read_number(list_tag, "start", len(items) if is_reversed else 1)
        for item in items:
            number = _read_number(item, "value", number)
            has_letters = list_tag.get("type") in ("a", "A") and 1 <= number <= 26
            numbers[id(item)] = f"{chr(ord(str(list_tag['type'])) + number - 1) if has_letters else number}."
            number += -1 if is_reversed else 1
    for item in root.find_all("li"):
        outer_lists = [parent.name for parent in item.parents if parent.name in _LISTS][1:]
        indent = 1 + sum(3 if name == "ol" else 2 for name in outer_lists)
        item.insert(0, LineBreak(f"\n{INDENT * indent}{numbers.get(id(item), '-')} "))


def _read_number(tag: Tag, name: str, default: int) -> int:
    value = str(tag.get(name, "")).strip()
    return int(value) if re.fullmatch(r"-?[0-9]{1,9}", value) else default


def is_item_mark(line: str) -> bool:
    """Return True if a line is only the mark of an item."""
    return _ITEM_MARK.fullmatch(line) is not None


def indent_lines(lines: list[str]) -> list[str]:
    """Replace the indentation marks by spaces, without the indentation that all items share."""
    depths = [len(line) - len(line.lstrip(INDENT)) for line in lines]
    margin = min(filter(None, depths), default=0)
    return [" " * (depth - margin) + line[depth:] for depth, line in zip(depths, lines, strict=True)]

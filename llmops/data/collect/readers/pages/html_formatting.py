"""Formatting of HTML pages as characters: superscripts and subscripts, numbers and nesting of lists."""

import re

from bs4 import BeautifulSoup
from bs4.element import NavigableString, Tag

INDENT = "\ufdd0"  #: begins the line of an item, once per space of indentation; a character that no text has

_LISTS = ("ol", "ul", "menu")
_FOOTNOTE_MARK = re.compile(r"\[\w{1,3}\]|\d{1,3}|[*†‡]")
_SCRIPT_CHARS = {
    "sup": str.maketrans("0123456789+-−=nao", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼ⁿªº"),
    "sub": str.maketrans("0123456789+-−=", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌"),
}
_SCRIPT_PATTERNS = {"sup": re.compile(r"[0-9+\-−=n,]+|[ao]"), "sub": re.compile(r"[0-9+\-−=]+")}
_ITEM_MARK = re.compile(rf"{INDENT}+(?:-|\d+\.)")


class LineBreak(NavigableString):
    """The end of a line. A line break in the file is not one, except within `pre`."""


def format_superscripts(root: Tag | BeautifulSoup) -> None:
    """Write raised and lowered digits as `10²` and `H₂O`, and remove the marks of footnotes."""
    for tag in root.find_all(["sup", "sub"]):
        text, name = tag.get_text().strip(), tag.name
        if name == "sup" and _FOOTNOTE_MARK.fullmatch(text) and (tag.find("a") or tag.find_parent("a")):
            tag.decompose()
        elif _SCRIPT_PATTERNS[name].fullmatch(text):
            tag.string = text.translate(_SCRIPT_CHARS[name])


def write_list_items(root: Tag | BeautifulSoup) -> None:
    """Begin each list item on a new line, indented by its nesting, with `-` or its number."""
    numbers: dict[int, str] = {}
    for list_tag in root.find_all("ol"):
        start = re.fullmatch(r"\d{1,9}", str(list_tag.get("start", "")))
        items = list_tag.find_all("li", recursive=False)
        numbers |= {id(item): f"{number}." for number, item in enumerate(items, int(start[0]) if start else 1)}
    for item in root.find_all("li"):
        outer_lists = [parent.name for parent in item.parents if parent.name in _LISTS][1:]
        indent = 1 + sum(3 if name == "ol" else 2 for name in outer_lists)
        item.insert(0, LineBreak(f"\n{INDENT * indent}{numbers.get(id(item), '-')} "))


def is_item_mark(line: str) -> bool:
    """Return True if a line is only the mark of an item."""
    return _ITEM_MARK.fullmatch(line) is not None


def indent_lines(lines: list[str]) -> list[str]:
    """Replace the indentation marks by spaces, without the indentation that all items share."""
    depths = [len(line) - len(line.lstrip(INDENT)) for line in lines]
    margin = min(filter(None, depths), default=0)
    return [" " * (depth - margin) + line[depth:] for depth, line in zip(depths, lines, strict=True)]

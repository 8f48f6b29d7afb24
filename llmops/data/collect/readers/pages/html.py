"""HTML pages: a heading is the question, what stands under it the answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from bs4 import BeautifulSoup
from bs4.element import Comment, Doctype, NavigableString, PageElement, PreformattedString, Tag

from llmops.data.collect.readers.decode import open_bytes
from llmops.data.collect.readers.origin import Items, Origin
from llmops.data.collect.readers.pages.sections import PageSection, documents
from llmops.records import Document

HEADINGS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6, "summary": 6, "dt": 6, "button": 6}  #: name → level
BLOCKS = (
    *HEADINGS,
    *("p", "div", "section", "article", "main", "ul", "ol", "dl", "dd", "table", "tr", "blockquote", "pre", "figure"),
)
# Not part of the page's text: navigation, code, what nobody sees. A header inside an article is its title.
REMOVED = (
    "nav, footer, script, style, noscript, template, dialog, select, svg, iframe, aside, head, [hidden], "
    "button:not([aria-expanded], :is(h1, h2, h3, h4, h5, h6, dt) button), "
    "[role=navigation], [role=banner], [role=contentinfo], [role=complementary], [role=search], [role=dialog], "
    "[role=alertdialog], [role=menu], [role=menubar], "
    "[aria-hidden=true], [style*='display:none' i], [style*='display: none' i], "
    "[style*='visibility:hidden' i], [style*='visibility: hidden' i], "
    "header:not(article header, section header, main header)"
)
BOXES = ("div", "section", "ul", "ol", "p", "form")  #: what sites build the same parts of without saying so
# Words in the class or id of a box by which sites call it one of those parts. `links` only where the box is little else
# than links, `asks` only where it has something to press: "menu" may also be what a restaurant serves, and "cookies" a
# topic of a help page.
PARTS = {
    "links": {"breadcrumb", "breadcrumbs", "menu", "nav", "navbar", "navigation", "pager", "pagination"}
    | {"related", "share", "sharing", "skip", "social", "tags", "toc"},
    "asks": {"consent", "cookie", "cookies", "feedback", "gdpr", "modal", "newsletter", "popup", "subscribe"},
    "other": {"ad", "ads", "advert", "advertisement", "footer", "sidebar", "sponsored"},
}
OPENS = "[aria-expanded][aria-controls]"  #: what opens an accordion's answer, which is hidden until then
LINKS = 0.6  #: share of a box's text in links from which it is navigation
MOST = 0.5  #: a box with a larger share of the page's text is the page, whatever it is called

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per heading with text under it; text before the first heading is a document without a question.

    The heading's `id`, or what would be one, is the topic. Sections count from 1 in the order of the page.

    Raises:
        Unreadable: where a gzip file breaks off.
    """
    with open_bytes(path) as file:
        data = file.read()
    if not data.strip():
        yield origin.dropped("file", "empty", "the file is empty")
        return
    soup = BeautifulSoup(data, "lxml", from_encoding=origin.source.encoding or None)
    origin = origin.read_as(str(soup.original_encoding or ""))
    root = soup.select_one("main, [role=main]") or soup.body or soup
    _strip(root)
    empty = True
    for item in documents(_sections(root), origin):
        empty = False
        if isinstance(item, Document) and "\ufffd" in item.question + item.answer + item.text:
            detail = f"bytes that are not valid {origin.encoding or 'text'}, under the heading {item.question!r}"
            yield origin.dropped(item.position, "encoding", detail, f"{item.question}\n{item.answer}{item.text}")
        else:
            yield item
    if empty:
        yield origin.dropped("file", "empty", "no text is left without navigation, header and footer")


def _strip(root: Tag | BeautifulSoup) -> None:
    """Remove what is not part of the page's text."""
    shown = {name for control in root.select(OPENS) for name in str(control["aria-controls"]).split()}
    for panel in root.find_all(id=list(shown)):
        for attribute in ("hidden", "aria-hidden", "style"):
            del panel[attribute]
    size = _size(root)
    for box in root.find_all(BOXES):
        if not box.decomposed and _is_part(box) and _size(box) <= size * MOST:
            box.decompose()
    for tag in root.select(REMOVED):
        tag.decompose()


def _is_part(box: Tag) -> bool:
    names = f"{' '.join(box.get_attribute_list('class', default=''))} {box.get('id', '')}"
    words = {word.lower() for word in _WORD.findall(names)}
    if words & PARTS["links"]:
        return sum(map(_size, box.find_all("a"))) >= _size(box) * LINKS
    if words & PARTS["asks"]:
        return bool(box.select("button, input, [role=button], [class*=btn], [class*=button]"))
    return box.name == "form" or bool(words & PARTS["other"])


def _size(tag: Tag | BeautifulSoup) -> int:
    return len("".join(tag.get_text().split()))


def _sections(root: Tag | BeautifulSoup) -> Iterator[PageSection]:
    """Every heading and the text up to the next one; those with neither text nor a question have no number."""
    for tag in root.find_all("br"):
        tag.replace_with("\n")
    for tag in root.find_all("li"):
        tag.insert(0, "\n- ")
    for tag in root.find_all(["td", "th"]):
        tag.append(" ")
    for tag in root.find_all(BLOCKS):
        tag.insert(0, "\n")
        tag.append("\n")
    found: list[tuple[Tag | None, list[str], list[str]]] = [(None, [], [])]
    for node in root.descendants:
        current, heading, text = found[-1]
        if isinstance(node, Tag) and node.name in HEADINGS:
            if not _within(node, current):
                found.append((node, [], []))
        elif isinstance(node, NavigableString) and not isinstance(node, PreformattedString | Comment | Doctype):
            (heading if _within(node, current) else text).append(str(node))
    number = 0
    for tag, heading, text in found:
        asks, says = " ".join("".join(heading).split()), _lines("".join(text))
        number += bool(says or asks.endswith("?"))
        level, anchor = (HEADINGS[tag.name], str(tag.get("id") or "")) if tag else (0, "")
        yield PageSection(f"section {number}", level, asks, says, anchor)


def _within(node: PageElement, heading: Tag | None) -> bool:
    return heading is not None and any(parent is heading for parent in node.parents)


def _lines(text: str) -> str:
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return "\n".join(line for line in lines if line and line != "-")

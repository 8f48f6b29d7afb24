"""HTML pages, cut at their headings. A heading that asks is a question, the text below it the answer."""

import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from bs4 import BeautifulSoup, XMLParsedAsHTMLWarning
from bs4.element import Comment, Doctype, NavigableString, PageElement, PreformattedString, Tag

from llmops.data.collect.readers.decode import LARGEST_PAGE, open_bytes, too_large
from llmops.data.collect.readers.origin import Items, Origin
from llmops.data.collect.readers.pages.html_marks import INDENT, Break, is_mark, moved_in, write_items, write_shifted
from llmops.data.collect.readers.pages.html_navigation import remove_navigation
from llmops.data.collect.readers.pages.html_tables import is_line, markdown_rows
from llmops.data.collect.readers.pages.sections import TERM, PageSection, documents
from llmops.data.text.headings import ends_as_question
from llmops.frame.records import Document

HEADINGS = {  #: name → level
    **{"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6},
    **dict.fromkeys(["summary", "dt", "button"], TERM),
}
BLOCKS = (
    *HEADINGS,
    *("p", "div", "section", "article", "main", "ul", "ol", "dl", "dd", "table", "tr", "blockquote", "pre", "figure"),
)
# Not part of the text: navigation, code, invisible elements. A header inside an article is its title.
REMOVED = (
    "nav, footer, script, style, noscript, template, dialog, select, svg, iframe, aside, head, [hidden], "
    "button:not([aria-expanded], :is(h1, h2, h3, h4, h5, h6, dt) button), "
    "[role=navigation], [role=banner], [role=contentinfo], [role=complementary], [role=search], [role=dialog], "
    "[role=alertdialog], [role=menu], [role=menubar], "
    "[aria-hidden=true], [style*='display:none' i], [style*='display: none' i], "
    "[style*='visibility:hidden' i], [style*='visibility: hidden' i], "
    "header:not(article header, section header, main header)"
)
BOXES = ("div", "section", "ul", "ol", "p", "form")  #: elements that sites use for such parts without saying so
# Words in the class or id of a box that mark it as such a part. `links` only if the box is mostly links, `asks` only if
# it has a button: "menu" may also be a restaurant's, and "cookies" a topic of a help page.
PARTS = {
    "links": {"breadcrumb", "breadcrumbs", "menu", "nav", "navbar", "navfooter", "navheader", "navigation", "pager"}
    | {"pagination", "related", "share", "sharing", "skip", "social", "tags", "toc"},
    "asks": {"consent", "cookie", "cookies", "feedback", "gdpr", "modal", "newsletter", "popup", "subscribe"},
    "other": {"ad", "ads", "advert", "advertisement", "footer", "sidebar", "sponsored"},
}
# Names of boxes beside the text that belong to it.
NOTES = {"admonition", "callout", "caution", "danger", "hint", "important", "note", "notice", "tip", "warning"}
#: Elements that open the hidden answer of an accordion, or bring the hidden panel of a tab to the front.
OPENS = "[aria-expanded][aria-controls], [role=tab][aria-controls]"
LINKS = 0.6  #: share of links in a box's text from which it is navigation
LARGEST_TAGS = 1 << 20  #: most tags of a page; each takes some hundred bytes of memory
LINK_MARKS = "¶#§🔗"  #: texts of a heading's link to itself
MOST = 0.5  #: a box with a larger share of the page's text is the page, whatever its name

_VERBATIM = "\ue000"  #: begins a line whose spaces count; a private character that no text has
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per heading with text below it (see `sections.documents`), numbered from the top of the page.

    Raises:
        Unreadable: if a gzip file is cut off, or the page is too large for memory.
    """
    with open_bytes(path) as file:
        data = file.read(LARGEST_PAGE + 1)
    if not data.strip():
        yield origin.dropped("file", "empty", "the file is empty")
        return
    soup = parsed(data, origin.source.encoding)
    titled = soup.select_one("title:not(svg title)")
    title = _spaced(titled.get_text()).strip() if titled else ""
    empty = True
    for item in _items(soup, _page(soup, title), origin, title):
        empty = False
        yield item
    if empty:
        yield origin.dropped("file", "empty", "no text is left without navigation, header and footer")


def parsed(data: bytes, encoding: str = "") -> BeautifulSoup:
    """Return the tree of a page. An empty encoding is detected.

    Raises:
        Unreadable: if the page is too large for memory.
    """
    if len(data) > LARGEST_PAGE:
        raise too_large(LARGEST_PAGE, "bytes", "split the page")
    if data.count(b"<") > LARGEST_TAGS:
        raise too_large(LARGEST_TAGS, "tags", "split the page")
    warnings.filterwarnings("ignore", category=XMLParsedAsHTMLWarning)  # XHTML is read as browsers do
    return BeautifulSoup(data, "lxml", from_encoding=encoding or None)


def text(soup: BeautifulSoup) -> str:
    """Return the text of a page, with its headings."""
    return "\n\n".join(filter(None, (f"{part.heading}\n{part.text}".strip() for part in _page(soup, ""))))


def book_items(soup: BeautifulSoup, origin: Origin, title: str, at: str = "") -> Items:
    """Yield one item per heading with text below it. The title is over all headings, and `at` begins each position."""
    for link in soup.select(", ".join(f"{name} a" for name in HEADINGS)):  # bookmarks, and links to the contents
        link.unwrap()
    for box in soup.find_all(lambda tag: tag.name in ("aside", "form") or tag.has_attr("class")):  # notes of a book
        box.name = "div" if box.name in ("aside", "form") else box.name
        del box["class"]
    parts = (PageSection(at + s.position, s.level and s.level + 1, s.heading, s.text) for s in _page(soup, title))
    yield from _items(soup, parts, origin, title)


def _items(soup: BeautifulSoup, parts: Iterable[PageSection], origin: Origin, title: str) -> Items:
    origin = origin.read_as(str(soup.original_encoding or ""))
    for item in documents(parts, origin, title):
        if isinstance(item, Document) and "\ufffd" in item.question + item.answer + item.text:
            detail = f"bytes that are not valid {origin.encoding or 'text'}, under the heading {item.question!r}"
            yield origin.dropped(item.position, "encoding", detail, f"{item.question}\n{item.answer}{item.text}")
        else:
            yield item


def _page(soup: BeautifulSoup, title: str) -> Iterator[PageSection]:
    root = soup.select_one("main, [role=main]") or soup.body or soup
    remove_navigation(soup, root, title)
    _strip(root)
    return _sections(root)


def _strip(root: Tag | BeautifulSoup) -> None:
    shown = {name for control in root.select(OPENS) for name in str(control["aria-controls"]).split()}
    for panel in [*root.find_all(id=list(shown)), *root.select("[role=tabpanel]")]:
        for attribute in ("hidden", "aria-hidden", "style"):
            del panel[attribute]
    for aside in root.find_all("aside"):
        if _names(aside) & NOTES:
            aside.name = "div"
    size = _size(root)
    for box in root.find_all(BOXES):
        if not box.decomposed and _is_part(box) and _size(box) <= size * MOST:
            box.decompose()
    for tag in root.select(REMOVED):
        tag.decompose()


def _is_part(box: Tag) -> bool:
    words = _names(box)
    if words & PARTS["links"]:
        return sum(map(_size, box.find_all("a"))) >= _size(box) * LINKS
    if words & PARTS["asks"]:
        return bool(box.select("button, input, [role=button], [class*=btn], [class*=button]"))
    return box.name == "form" or bool(words & PARTS["other"])


def _names(box: Tag) -> set[str]:
    names = f"{' '.join(box.get_attribute_list('class', default=''))} {box.get('id', '')}"
    return {word.lower() for word in _WORD.findall(names)}


def _size(tag: Tag | BeautifulSoup) -> int:
    return len("".join(tag.get_text().split()))


def _sections(root: Tag | BeautifulSoup) -> Iterator[PageSection]:
    """Yield every heading with its text up to the next one. A heading without text and question has no number."""
    _break_lines(root)
    found: list[tuple[Tag | None, list[str], list[str]]] = [(None, [], [])]
    verbatim: Tag | None = None
    for node in root.descendants:
        current, heading, text = found[-1]
        if isinstance(node, Tag) and node.name in HEADINGS:
            if not _inside(node, current) and not _leads_elsewhere(node):
                found.append((node, [], []))
        elif isinstance(node, Tag) and node.name == "pre":
            verbatim = node
        elif isinstance(node, Break):
            (heading if _inside(node, current) else text).append(str(node))
        elif isinstance(node, NavigableString) and not isinstance(node, PreformattedString | Comment | Doctype):
            shown = _VERBATIM + str(node).replace("\n", "\n" + _VERBATIM) if _inside(node, verbatim) else _spaced(node)
            (heading if _inside(node, current) else text).append(shown)
    number = 0
    for tag, heading, text in found:
        asks, says = " ".join(re.sub(f"[{_VERBATIM}{INDENT}]", "", "".join(heading)).split()), _lines("".join(text))
        number += bool(says or ends_as_question(asks))
        level, anchor = (HEADINGS[tag.name], _anchor(tag)) if tag else (0, "")
        yield PageSection(f"section {number}", level, asks, says, anchor)


def _break_lines(root: Tag | BeautifulSoup) -> None:
    write_shifted(root)
    for link in root.select(", ".join(f"{name} a" for name in HEADINGS)):
        if link.get_text().strip() in LINK_MARKS:
            link.string = ""
    for table in root.find_all("table"):
        if lines := markdown_rows(table):
            table.clear()
            table.extend(part for line in lines for part in (NavigableString(line), Break("\n")))
    for cell in root.find_all(["td", "th"]):
        cell.append(" ")
    for tag in root.find_all("br"):
        tag.replace_with(Break("\n"))
    write_items(root)
    for tag in root.find_all(BLOCKS):
        cell = tag.find_parent(["td", "th"])
        if cell is None or not is_line(cell):
            tag.insert(0, Break("\n"))
            tag.append(Break("\n"))


def _inside(node: PageElement, outer: Tag | None) -> bool:
    return outer is not None and any(parent is outer for parent in node.parents)


def _leads_elsewhere(heading: Tag) -> bool:
    """Return True if a heading is an entry of a table of contents or a teaser, whose text is on another page."""
    if heading.name == "h1":  # a title may lead to its own page
        return False
    size = _size(heading)
    links = [link for link in heading.find_all("a", href=True) if _size(link) >= size * LINKS and not _opens(link)]
    return bool(size) and any(HEADINGS[heading.name] == TERM or "#" not in str(link["href"]) for link in links)


def _opens(link: Tag) -> bool:
    """Return True if a link opens the text below it, as in an accordion."""
    href = str(link["href"]).strip().lower()
    toggles = any(link.has_attr(name) for name in ("data-toggle", "data-bs-toggle", "aria-expanded"))
    return toggles or link.get("role") == "button" or href in ("", "#") or href.startswith(("javascript:", "?"))


def _anchor(heading: Tag) -> str:
    inner = heading.select_one("a[id], a[name]")
    names = [heading.get("id"), inner and (inner.get("id") or inner.get("name"))]
    return str(next(filter(None, names), ""))


def _spaced(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def _lines(text: str) -> str:
    """Return the text without blank lines and superfluous space. A `pre` keeps both, except at its edges and line ends.

    The mark of a list item precedes its first line; a number before a `pre` gets its own line.
    """
    lines: list[str] = []
    blank: list[str] | None = None  # blank lines after a line of `pre`; None after any other
    mark = ""
    for line in text.split("\n"):
        before, verbatim, code = line.partition(_VERBATIM)
        kept = f"{before.lstrip()}{code.replace(_VERBATIM, '').rstrip()}" if verbatim else " ".join(line.split())
        if not verbatim and is_mark(kept):
            mark, blank = kept, None
        elif kept.strip() and (verbatim or kept != "-"):
            if mark and not verbatim and not kept.startswith(INDENT):
                kept = f"{mark} {kept}"
            elif verbatim and mark[-1:] == ".":
                lines.append(mark)
            lines += [*(blank or []), kept] if verbatim else [kept]
            blank, mark = ([] if verbatim else None), ""
        elif not verbatim:
            blank = None
        elif blank is not None:
            blank.append("")
    return "\n".join(moved_in(lines))

"""HTML pages, cut at their headings. A heading that asks is a question, the text below it the answer."""

import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from bs4 import BeautifulSoup, XMLParsedAsHTMLWarning
from bs4.element import Comment, Doctype, NavigableString, PageElement, PreformattedString, Tag

from llmops.data.collect.readers.decoding import LARGEST_PAGE, UnreadableError, make_size_error, open_bytes
from llmops.data.collect.readers.origin import Items, Origin
from llmops.data.collect.readers.pages.html_formatting import (
    INDENT,
    LineBreak,
    format_superscripts,
    indent_lines,
    is_item_mark,
    write_list_items,
)
from llmops.data.collect.readers.pages.html_navigation import remove_navigation
from llmops.data.collect.readers.pages.html_tables import convert_table, is_single_line
from llmops.data.collect.readers.pages.sections import TERM_LEVEL, PageSection, make_documents
from llmops.data.text.headings import has_final_question_mark
from llmops.frame.records import Document

HEADING_LEVELS = {  #: name → level
    **{"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6},
    **dict.fromkeys(["summary", "dt", "button"], TERM_LEVEL),
}
BLOCK_TAGS = (
    *HEADING_LEVELS,
    *("p", "div", "section", "article", "main", "ul", "ol", "dl", "dd", "table", "tr", "blockquote", "pre", "figure"),
)
# Not part of the text: navigation, code, invisible elements. A header inside an article is its title.
REMOVED_SELECTOR = (
    "nav, footer, script, style, noscript, template, dialog, select, svg, iframe, aside, head, [hidden], "
    "button:not([aria-expanded], :is(h1, h2, h3, h4, h5, h6, dt) button), "
    "[role=navigation], [role=banner], [role=contentinfo], [role=complementary], [role=search], [role=dialog], "
    "[role=alertdialog], [role=menu], [role=menubar], "
    "[aria-hidden=true], [style*='display:none' i], [style*='display: none' i], "
    "[style*='visibility:hidden' i], [style*='visibility: hidden' i], "
    "header:not(article header, section header, main header)"
)
BOX_TAGS = ("div", "section", "ul", "ol", "p", "form")  #: elements that sites also use for such parts, without a role
# Words in the class or id of a box that is not part of the text. A word of `links` counts only if the box is mostly
# links, one of `requests` only if it has a button: "menu" may also be a restaurant's, "cookies" a help page's topic.
BOILERPLATE_WORDS = {
    "links": {"breadcrumb", "breadcrumbs", "menu", "nav", "navbar", "navfooter", "navheader", "navigation", "pager"}
    | {"pagination", "related", "share", "sharing", "skip", "social", "tags", "toc"},
    "requests": {"consent", "cookie", "cookies", "feedback", "gdpr", "modal", "newsletter", "popup", "subscribe"},
    "other": {"ad", "ads", "advert", "advertisement", "footer", "sidebar", "sponsored"},
}
# Words in the class or id of boxes beside the text that belong to it.
NOTE_WORDS = {"admonition", "callout", "caution", "danger", "hint", "important", "note", "notice", "tip", "warning"}
#: Elements that open the hidden answer of an accordion, or bring the hidden panel of a tab to the front.
CONTROL_SELECTOR = "[aria-expanded][aria-controls], [role=tab][aria-controls]"
LINK_SHARE = 0.6  #: share of links in a box's text from which it is navigation
LARGEST_TAGS = 1 << 20  #: most tags of a page; each takes some hundred bytes of memory
LARGEST_DEPTH = 512  #: most elements inside each other, as in browsers; the time of a search grows with the depth
LINK_MARKS = "¶#§🔗"  #: texts of a heading's link to itself
LARGEST_BOX_SHARE = 0.5  #: a box with a larger share of the page's text is the page, whatever its name

_VERBATIM = "\ue000"  #: begins a line whose spaces count; a private character that no text has
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per heading with text below it (see `sections.make_documents`), numbered from the top of the page.

    Raises:
        UnreadableError: if a gzip file is cut off, or the page is too large for memory.
    """
    with open_bytes(path) as file:
        data = file.read(LARGEST_PAGE + 1)
    if not data.strip():
        yield origin.make_dropped("file", "empty", "the file is empty")
        return
    soup = parse_html(data, origin.source.encoding)
    title_tag = soup.select_one("title:not(svg title)")
    title = _collapse_space(title_tag.get_text()).strip() if title_tag else ""
    is_empty = True
    for item in _convert_sections(soup, _read_sections(soup, title), origin, title):
        is_empty = False
        yield item
    if is_empty:
        yield origin.make_dropped("file", "empty", "no text is left without navigation, header and footer")


def parse_html(data: bytes, encoding: str = "") -> BeautifulSoup:
    """Return the tree of a page. An empty encoding is detected.

    Raises:
        UnreadableError: if the page is too large for memory, or nested too deeply.
    """
    if len(data) > LARGEST_PAGE:
        raise make_size_error(LARGEST_PAGE, "bytes", "split the page")
    if data.count(b"<") > LARGEST_TAGS:
        raise make_size_error(LARGEST_TAGS, "tags", "split the page")
    warnings.filterwarnings("ignore", category=XMLParsedAsHTMLWarning)  # XHTML is read as browsers do
    soup = BeautifulSoup(data, "lxml", from_encoding=encoding or None)
    if _measure_depth(soup) > LARGEST_DEPTH:
        raise UnreadableError(f"it nests more than {LARGEST_DEPTH} elements; close its tags")
    return soup


def _measure_depth(soup: BeautifulSoup) -> int:
    depths = {id(soup): 0}
    for element in soup.descendants:
        if isinstance(element, Tag):
            depths[id(element)] = depths[id(element.parent)] + 1
    return max(depths.values())


def extract_text(soup: BeautifulSoup) -> str:
    """Return the text of a page, with its headings."""
    return "\n\n".join(filter(None, (f"{part.heading}\n{part.text}".strip() for part in _read_sections(soup, ""))))


def convert_book(soup: BeautifulSoup, origin: Origin, title: str) -> Items:
    """Yield one item per heading with text below it. `title` is above all headings of the page."""
    for link in soup.select(", ".join(f"{name} a" for name in HEADING_LEVELS)):  # bookmarks, and links to the contents
        link.unwrap()
    for box in soup.find_all(lambda tag: tag.name in ("aside", "form") or tag.has_attr("class")):  # notes of a book
        box.name = "div" if box.name in ("aside", "form") else box.name
        del box["class"]
    parts = (PageSection(s.position, s.level and s.level + 1, s.heading, s.text) for s in _read_sections(soup, title))
    yield from _convert_sections(soup, parts, origin, title)


def _convert_sections(soup: BeautifulSoup, sections: Iterable[PageSection], origin: Origin, title: str) -> Items:
    origin = origin.replace_encoding(str(soup.original_encoding or ""))
    for item in make_documents(sections, origin, title):
        if isinstance(item, Document) and "\ufffd" in item.question + item.answer + item.text:
            detail = f"bytes that are not valid {origin.encoding or 'text'}, under the heading {item.question!r}"
            yield origin.make_dropped(item.position, "encoding", detail, f"{item.question}\n{item.answer}{item.text}")
        else:
            yield item


def _read_sections(soup: BeautifulSoup, title: str) -> Iterator[PageSection]:
    root = soup.select_one("main, [role=main]") or soup.body or soup
    remove_navigation(soup, root, title)
    _remove_boilerplate(root)
    return _split_sections(root)


def _remove_boilerplate(root: Tag | BeautifulSoup) -> None:
    panel_ids = {name for control in root.select(CONTROL_SELECTOR) for name in str(control["aria-controls"]).split()}
    for panel in [*root.find_all(id=list(panel_ids)), *root.select("[role=tabpanel]")]:
        for attribute in ("hidden", "aria-hidden", "style"):
            del panel[attribute]
    for aside in root.find_all("aside"):
        if _list_names(aside) & NOTE_WORDS:
            aside.name = "div"
    page_chars = _count_chars(root)
    for box in root.find_all(BOX_TAGS):
        if not box.decomposed and _is_boilerplate(box) and _count_chars(box) <= page_chars * LARGEST_BOX_SHARE:
            box.decompose()
    for tag in root.select(REMOVED_SELECTOR):
        tag.decompose()


def _is_boilerplate(box: Tag) -> bool:
    words = _list_names(box)
    if words & BOILERPLATE_WORDS["links"]:
        return sum(map(_count_chars, box.find_all("a"))) >= _count_chars(box) * LINK_SHARE
    if words & BOILERPLATE_WORDS["requests"]:
        return bool(box.select("button, input, [role=button], [class*=btn], [class*=button]"))
    return box.name == "form" or bool(words & BOILERPLATE_WORDS["other"])


def _list_names(box: Tag) -> set[str]:
    names = f"{' '.join(box.get_attribute_list('class', default=''))} {box.get('id', '')}"
    return {word.lower() for word in _WORD.findall(names)}


def _count_chars(tag: Tag | BeautifulSoup) -> int:
    return len("".join(tag.get_text().split()))


def _split_sections(root: Tag | BeautifulSoup) -> Iterator[PageSection]:
    """Yield every heading with its text up to the next one. A heading without text and question has no number."""
    _break_lines(root)
    sections: list[tuple[Tag | None, list[str], list[str]]] = [(None, [], [])]
    verbatim: Tag | None = None
    for node in root.descendants:
        current, heading, text = sections[-1]
        if isinstance(node, Tag) and node.name in HEADING_LEVELS:
            if not _is_inside(node, current) and not _is_teaser(node):
                sections.append((node, [], []))
        elif isinstance(node, Tag) and node.name == "pre":
            verbatim = node
        elif isinstance(node, LineBreak):
            (heading if _is_inside(node, current) else text).append(str(node))
        elif isinstance(node, NavigableString) and not isinstance(node, PreformattedString | Comment | Doctype):
            in_pre = _is_inside(node, verbatim)
            shown = _VERBATIM + str(node).replace("\n", "\n" + _VERBATIM) if in_pre else _collapse_space(node)
            (heading if _is_inside(node, current) else text).append(shown)
    number = 0
    for tag, heading, text in sections:
        heading_text = " ".join(re.sub(f"[{_VERBATIM}{INDENT}]", "", "".join(heading)).split())
        body = _clean_lines("".join(text))
        number += bool(body or has_final_question_mark(heading_text))
        level, anchor = (HEADING_LEVELS[tag.name], _find_anchor(tag)) if tag else (0, "")
        yield PageSection(f"section {number}", level, heading_text, body, anchor)


def _break_lines(root: Tag | BeautifulSoup) -> None:
    format_superscripts(root)
    for link in root.select(", ".join(f"{name} a" for name in HEADING_LEVELS)):
        if link.get_text().strip() in LINK_MARKS:
            link.string = ""
    for table in root.find_all("table"):
        if lines := convert_table(table):
            table.clear()
            table.extend(part for line in lines for part in (NavigableString(line), LineBreak("\n")))
    for cell in root.find_all(["td", "th"]):
        cell.append(" ")
    for tag in root.find_all("br"):
        tag.replace_with(LineBreak("\n"))
    write_list_items(root)
    for tag in root.find_all(BLOCK_TAGS):
        cell = tag.find_parent(["td", "th"])
        if cell is None or not is_single_line(cell):
            tag.insert(0, LineBreak("\n"))
            tag.append(LineBreak("\n"))


def _is_inside(node: PageElement, outer: Tag | None) -> bool:
    return outer is not None and any(parent is outer for parent in node.parents)


def _is_teaser(heading: Tag) -> bool:
    """Return True if the text of a heading is on another page, as for a teaser or an entry of a table of contents."""
    if heading.name == "h1":  # a title may lead to its own page
        return False
    size = _count_chars(heading)
    links = [
        link
        for link in heading.find_all("a", href=True)
        if _count_chars(link) >= size * LINK_SHARE and not _is_toggle(link)
    ]
    return bool(size) and any(
        HEADING_LEVELS[heading.name] == TERM_LEVEL or "#" not in str(link["href"]) for link in links
    )


def _is_toggle(link: Tag) -> bool:
    """Return True if a link opens the text below it, as in an accordion."""
    href = str(link["href"]).strip().lower()
    toggles = any(link.has_attr(name) for name in ("data-toggle", "data-bs-toggle", "aria-expanded"))
    return toggles or link.get("role") == "button" or href in ("", "#") or href.startswith(("javascript:", "?"))


def _find_anchor(heading: Tag) -> str:
    inner = heading.select_one("a[id], a[name]")
    names = [heading.get("id"), inner and (inner.get("id") or inner.get("name"))]
    return str(next(filter(None, names), ""))


def _collapse_space(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def _clean_lines(text: str) -> str:
    """Return the text without blank lines and superfluous space. A `pre` keeps both, except at its edges and line ends.

    The mark of a list item precedes its first line; a number before a `pre` gets its own line.
    """
    lines: list[str] = []
    blank_lines: list[str] | None = None  # blank lines after a line of `pre`; None after any other
    item_mark = ""
    for line in text.split("\n"):
        before, verbatim, code = line.partition(_VERBATIM)
        cleaned = f"{before.lstrip()}{code.replace(_VERBATIM, '').rstrip()}" if verbatim else " ".join(line.split())
        if not verbatim and is_item_mark(cleaned):
            item_mark, blank_lines = cleaned, None
        elif cleaned.strip() and (verbatim or cleaned != "-"):
            if item_mark and not verbatim and not cleaned.startswith(INDENT):
                cleaned = f"{item_mark} {cleaned}"
            elif verbatim and item_mark[-1:] == ".":
                lines.append(item_mark)
            lines += [*(blank_lines or []), cleaned] if verbatim else [cleaned]
            blank_lines, item_mark = ([] if verbatim else None), ""
        elif not verbatim:
            blank_lines = None
        elif blank_lines is not None:
            blank_lines.append("")
    return "\n".join(indent_lines(lines))

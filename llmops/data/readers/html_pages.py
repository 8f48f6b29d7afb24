"""HTML pages: a heading is the question, what stands under it the answer."""

from __future__ import annotations

from pathlib import Path

from bs4 import BeautifulSoup
from bs4.element import Comment, Doctype, NavigableString, PreformattedString, Tag

from llmops.data.readers.origin import Items, Origin, slug

HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6", "summary", "dt")
BLOCKS = (
    *HEADINGS,
    *("p", "div", "section", "article", "main", "ul", "ol", "dl", "dd", "table", "tr", "blockquote", "pre", "figure"),
)
# Not part of the page's text: navigation, code, what nobody sees. A header inside an article is its title.
REMOVED = (
    "nav, footer, script, style, noscript, template, form, button, svg, iframe, aside, head, [hidden], "
    "[aria-hidden=true], [style*='display:none' i], [style*='display: none' i], "
    "header:not(article header, section header, main header)"
)


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per heading with text under it; text before the first heading is a document without a question.

    The heading's `id`, or what would be one, is the topic. Sections count from 1 in the order of the page. A heading
    that only stands over other headings holds no text of its own and is no section; one that asks and is not answered
    is a document without an answer. An `h1` over other headings is the page's title, and what stands under it answers
    nothing.
    """
    data = path.read_bytes()
    if not data.strip():
        yield origin.dropped("file", "empty", "the file is empty")
        return
    soup = BeautifulSoup(data, "lxml", from_encoding=origin.source.encoding or None)
    origin = origin.read_as(str(soup.original_encoding or ""))
    for tag in soup.select(REMOVED):
        tag.decompose()
    sections = _sections(soup.select_one("main") or soup.body or soup)
    if not sections:
        yield origin.dropped("file", "empty", "no text is left without navigation, header and footer")
    for number, (heading, text, group) in enumerate(sections, start=1):
        position = f"section {number}"
        if "\ufffd" in heading + text:
            detail = f"bytes that are not valid {origin.encoding or 'text'}, under the heading {heading!r}"
            yield origin.dropped(position, "encoding", detail, f"{heading}\n{text}")
        elif heading:
            yield origin.document(position, question=heading, answer=text, group=group)
        else:
            yield origin.document(position, text=text)


def _sections(root: Tag | BeautifulSoup) -> list[tuple[str, str, str]]:
    """(heading, text, topic) of every section that has text or asks; the heading of a page's intro is empty."""
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
        if isinstance(node, Tag) and node.name in HEADINGS:
            found.append((node, [], []))
        elif isinstance(node, NavigableString) and not isinstance(node, PreformattedString | Comment | Doctype):
            current, heading, text = found[-1]
            inside = current is not None and any(parent is current for parent in node.parents)
            (heading if inside else text).append(str(node))
    titled = len(found) > 2
    sections = []
    for tag, heading, text in found:
        asks, says = " ".join("".join(heading).split()), _lines("".join(text))
        if tag is not None and tag.name == "h1" and titled and not asks.endswith("?"):
            tag, asks = None, ""
        if says or asks.endswith("?"):
            sections.append((asks, says, str((tag and tag.get("id")) or slug(asks))))
    return sections


def _lines(text: str) -> str:
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return "\n".join(line for line in lines if line and line != "-")

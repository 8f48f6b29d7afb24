"""Markdown (CommonMark with tables), cut at its headings. A heading that asks is a question."""

import re
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from llmops.data.collect.readers.decoding import LARGEST_PAGE, read_text
from llmops.data.collect.readers.origin import Items, Origin
from llmops.data.collect.readers.pages.markdown_links import insert_addresses, record_references
from llmops.data.collect.readers.pages.sections import PageSection, make_documents

_FRONT_MATTER = re.compile(r"(---|\+\+\+)\n(.*?)\n(?:\1|\.\.\.)(?:\n|$)", re.DOTALL)  # YAML or TOML
# A YAML line with a name and a value, and lines that may be between such lines.
_YAML_PAIR = re.compile(r"""[\w$"'][\w$./-]*(?: [\w$./-]+){0,2}["']? ?:(?:\s.*)?""")
_YAML_FILLER = re.compile(r"\s*|\s.*|#.*|-(?:\s.*)?|[\]}],?")
_COMMENT = re.compile(r"<!--(?:-?>|.*?(?:-->|\Z))", re.DOTALL)
_TITLE = re.compile(r"^title\s*[:=]\s*([\"']?)(?P<title>.+?)\1\s*$", re.MULTILINE)
_ANCHOR = re.compile(r"\s*\{#([\w-]+)\}$")  # as in Pandoc, Hugo and MkDocs


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per heading with text below it. See `sections.make_documents`.

    Front matter (except its title) and comments are skipped, because the page does not show them. Headings in blocks of
    code do not count.

    Raises:
        UnreadableError: if the file is not text.
    """
    text, origin = read_text(path, origin, LARGEST_PAGE, "split it, or read it as kind `text`")
    if not text.strip():
        yield origin.make_dropped("file", "empty", "the file is empty")
        return
    front = _find_front_matter(text)
    title = _TITLE.search(front[0]) if front else None
    items = list(make_documents(split_sections(text), origin, title["title"] if title else ""))
    yield from items
    if not items:
        yield origin.make_dropped("file", "empty", "it holds no text besides headings, front matter and comments", text)


def _find_front_matter(text: str) -> re.Match[str] | None:
    """Return the front matter. A first line `---` without names behind it is a rule, not front matter."""
    front = _FRONT_MATTER.match(text)
    if not front or front[1] == "+++":
        return front
    lines = [line for line in front[2].split("\n") if not line.startswith("#")]
    names = lines and _YAML_PAIR.fullmatch(lines[0])
    return (
        front if names and all(_YAML_PAIR.fullmatch(line) or _YAML_FILLER.fullmatch(line) for line in lines) else None
    )


def split_sections(text: str) -> Iterator[PageSection]:
    """Yield every heading of Markdown with its text up to the next one. Positions are lines."""
    front = _find_front_matter(text)
    # The line breaks stay, so that positions are those of the file.
    body = "\n" * front[0].count("\n") + text[front.end() :] if front else text
    parser = MarkdownIt("commonmark").enable("table")
    edits = record_references(parser)
    blocks = parser.parse(body)
    lines = insert_addresses(body.split("\n"), blocks, edits)
    level, heading, anchor, first_line = 0, "", "", 1
    parts: list[str] = []
    for number, block in enumerate(blocks):
        if block.level or block.nesting < 0 or not block.map:
            continue
        first, last = block.map
        if block.type == "heading_open":
            inline = blocks[number + 1]
            yield PageSection(f"line {first_line}", level, heading, "\n\n".join(parts), anchor)
            anchor_match = _ANCHOR.search(inline.content)
            anchor = anchor_match[1] if anchor_match else ""
            level, heading, first_line, parts = int(block.tag[1]), _ANCHOR.sub("", _join_inline(inline)), first + 1, []
        else:
            part = "\n".join(lines[first:last]).strip("\n")
            if block.type == "html_block" and part.lstrip().startswith("<!--"):
                part = _COMMENT.sub("", part).strip()
            parts += [part] if part else []
    yield PageSection(f"line {first_line}", level, heading, "\n\n".join(parts), anchor)


def _join_inline(inline: Token) -> str:
    words = [" " if "break" in token.type else token.content for token in inline.children or []]
    return " ".join("".join(words).split())

"""Pages cut at their headings. A heading that asks is a question, the text below it the answer."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from llmops.data.collect.readers.origin import Items, Origin, slug
from llmops.data.collect.readers.plain_text import PART
from llmops.data.text.headings import asks, ends_as_question, numbers, path, table_header, without_number

ANSWER_CHARS = 4000  #: most characters of an answer that includes headings below its question
TERM = 7  #: level of an element that is a heading only if it asks: a term of a list, the button of an accordion

_TITLE_PARTS = re.compile(r"\s+[|–—·•»›:-]+\s+")


@dataclass(frozen=True, slots=True)
class PageSection:
    """A heading and the text below it; `level` 0 is the text before the first heading."""

    position: str
    level: int
    heading: str
    text: str
    anchor: str = ""  #: the heading's name in the page


def documents(sections: Iterable[PageSection], origin: Origin, title: str = "") -> Items:
    """Yield one item per section with text.

    A heading that asks (see `data.text.headings`) becomes a question without its number. Its context is the path of the
    headings above it, with the page's title first: `Returns › Refunds`. So the same question on two pages is two
    questions. Its answer is the text below it, including headings below it that ask nothing, with their text. A heading
    without a question mark asks only if no heading below it asks; otherwise it is a title. A question mark without text
    is a document without an answer. The group is the heading's anchor; default: its slug.

    The text below any other heading is a document without a question, in parts if it is long. Its path ends with its
    own heading. The same holds for a question with too much text below its headings to be one answer.

    The title is the heading of a page without a heading of the first level: the answer to a question in it is the text
    before the first heading, and the headings after it that ask nothing.

    `title` is the page's title outside its text, as browsers show it; it may be empty.
    """
    found = _titled(_without_terms(sections), title)
    counted = numbers(section.heading for section in found)
    questions = [without_number(section.heading, counted).removesuffix(":").strip() for section in found]
    asking = [asks(question) for question in questions]
    above = _above(found, questions, title)
    index = 0
    while index < len(found):
        section, question, end = found[index], questions[index], _end(found, index)
        first = next((i for i in range(index + 1, end) if asking[i]), end)
        marked = ends_as_question(question)
        if asking[index] and (marked or first == end):
            answer = _answer(found[index:first])
            if first == index + 1 or len(answer) <= ANSWER_CHARS:
                if answer or marked:
                    context, group = path(above[index]), section.anchor or slug(question)
                    parts = {"question": question, "answer": answer, "context": context, "group": group}
                    yield origin.document(section.position, **parts)
                index = first
                continue
        yield from texts(section, path([*above[index], questions[index]]), origin)
        index += 1


def _without_terms(sections: Iterable[PageSection]) -> list[PageSection]:
    """Move terms that ask nothing into the text of the section before them."""
    found: list[PageSection] = []
    texts: list[list[str]] = []
    for section in sections:
        if section.level >= TERM and not asks(without_number(section.heading)):
            if not found:
                found, texts = [PageSection(section.position, 0, "", "")], [[]]
            texts[-1].append(_whole(section))
        else:
            found.append(section)
            texts.append([section.text])
    return [replace(s, text="\n".join(filter(None, some))) for s, some in zip(found, texts, strict=True)]


def _titled(sections: list[PageSection], title: str) -> list[PageSection]:
    """Use the part of the title that asks as the heading of the text before the first heading."""
    asked = next((part for part in _TITLE_PARTS.split(title) if asks(without_number(part))), "")
    if not asked or not sections or not sections[0].text or any(section.level <= 1 for section in sections[1:]):
        return sections
    return sections if sections[0].level else [replace(sections[0], heading=asked), *sections[1:]]


def _whole(section: PageSection) -> str:
    return f"{section.heading}\n{section.text}".strip()


def _answer(sections: Sequence[PageSection]) -> str:
    """Return the first section's text, and the others with their headings. Skip headings without text."""
    parts: list[str] = []
    below = 0  # level of the last section that was not skipped
    for section in reversed(sections[1:]):
        if section.text or section.level < below:
            parts.append(_whole(section))
            below = section.level
    return "\n\n".join(filter(None, [sections[0].text, *reversed(parts)]))


def _end(sections: Sequence[PageSection], index: int) -> int:
    level = sections[index].level
    return next((i for i in range(index + 1, len(sections)) if sections[i].level <= level), len(sections))


def _above(sections: Sequence[PageSection], headings: Sequence[str], title: str) -> list[list[str]]:
    """Return the headings above each section, the title first; of the title only the part that the page repeats.

    A question that is itself that part has the other parts above: `Shop › Returns` for `Who pays? | Returns | Shop`.
    """
    open_: list[tuple[int, str]] = []
    parts = _TITLE_PARTS.split(title)
    found = []
    for section, heading in zip(sections, headings, strict=True):
        while open_ and open_[-1][0] >= section.level:
            open_.pop()
        outer = [text for _, text in open_]
        top, level = (outer[0], open_[0][0]) if outer else (heading, section.level)
        at = next((i for i, part in enumerate(parts) if top and top.casefold() in part.casefold()), None)
        if at is not None:
            others = [*parts[:at], *parts[:at:-1]] if asks(heading) else []
            outer[:1] = [without_number(parts[at])] if outer else others
        elif title and (level != 1 or not outer):
            outer.insert(0, without_number(title))
        found.append(outer)
        if section.level:
            open_.append((section.level, heading))
    return found


def texts(section: PageSection, context: str, origin: Origin) -> Items:
    """Yield the text of a section as documents without a question. Parts of a table repeat a short header."""
    part: list[str] = []
    size, number = 0, 1
    for line in section.text.split("\n"):
        if part and size + len(line) > PART and not line.startswith("|---|"):
            text = "\n".join(part)
            yield origin.document(f"{section.position}, part {number}", text=text, context=context)
            header = table_header(text) if line.startswith("|") else ""
            header = header if len(header) <= PART // 4 else ""
            part, size, number = [header] if header else [], len(header), number + 1
        part.append(line)
        size += len(line) + 1
    if section.text:
        position = f"{section.position}, part {number}" if number > 1 else section.position
        yield origin.document(position, text="\n".join(part), context=context)

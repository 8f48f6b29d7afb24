"""Pages cut at their headings: a heading that asks is a question, what stands under it the answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from llmops.data.collect.readers.origin import Items, Origin, slug
from llmops.data.collect.readers.plain_text import PART
from llmops.data.text.headings import asks, ends_as_question, numbers, path, without_number

ANSWER_CHARS = 4000  #: most characters of an answer that takes in the headings under its question
TERM = 7  #: the level of what is only a heading if it asks: a term of a list, the button of an accordion

_TITLE_PARTS = re.compile(r"\s+[|–—·•»›:-]+\s+")


@dataclass(frozen=True, slots=True)
class PageSection:
    """A heading and what stands under it; `level` 0 is what stands before the first heading."""

    position: str
    level: int
    heading: str
    text: str
    anchor: str = ""  #: the heading's own name in the page


def documents(sections: Iterable[PageSection], origin: Origin, title: str = "") -> Items:
    """Yield one item per section that has text.

    A heading that asks (see `data.text.headings`) becomes a question without its number, and its context is the path of
    the headings above it, the page's title first: `Returns › Refunds`. So the same question of two pages is two
    questions. Its answer is what stands under it, the headings under it that ask nothing and their text included. A
    heading that ends in no question mark asks only if no heading under it asks: else it is a title. A question mark
    without text is a document without an answer. The group is the heading's anchor or, without one, what the anchor
    would be.

    What stands under any other heading is a document without a question, in parts if it is long, whose path ends with
    its own heading; so is what stands under a question with so much under its headings that it answers no one question.

    The title is the heading of a page that has no other of the first level: what it asks is answered by what stands
    before the first heading, and by the headings under it that ask nothing.

    Args:
        title: what the page is called outside its text, as browsers show it; empty if nothing.
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
        yield from _texts(section, path([*above[index], questions[index]]), origin)
        index += 1


def _without_terms(sections: Iterable[PageSection]) -> list[PageSection]:
    """The sections, with terms that ask nothing in the text of the section before them."""
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
    """The sections; the part of the title that asks is the heading of what stands before the first of them."""
    asked = next((part for part in _TITLE_PARTS.split(title) if asks(without_number(part))), "")
    if not asked or not sections or not sections[0].text or any(section.level <= 1 for section in sections[1:]):
        return sections
    return sections if sections[0].level else [replace(sections[0], heading=asked), *sections[1:]]


def _whole(section: PageSection) -> str:
    return f"{section.heading}\n{section.text}".strip()


def _answer(sections: Sequence[PageSection]) -> str:
    """What stands under the first section, and the others with their headings; a heading over nothing says nothing."""
    parts: list[str] = []
    below = 0  # the level of what stands below in the page and was not left out
    for section in reversed(sections[1:]):
        if section.text or section.level < below:
            parts.append(_whole(section))
            below = section.level
    return "\n\n".join(filter(None, [sections[0].text, *reversed(parts)]))


def _end(sections: Sequence[PageSection], index: int) -> int:
    """The index of the first section after the one at `index` that is not under it."""
    level = sections[index].level
    return next((i for i in range(index + 1, len(sections)) if sections[i].level <= level), len(sections))


def _above(sections: Sequence[PageSection], headings: Sequence[str], title: str) -> list[list[str]]:
    """The headings above each section, the page's title first; of the title only the part that the page repeats.

    Above a question that is itself that part stand the others: of `Who pays? | Returns | Shop`, `Shop › Returns`.
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


def _texts(section: PageSection, context: str, origin: Origin) -> Items:
    """What stands under a heading that asks nothing, cut at the ends of lines into parts of some `PART` characters."""
    part: list[str] = []
    size, number = 0, 1
    for line in section.text.split("\n"):
        if part and size + len(line) > PART:
            yield origin.document(f"{section.position}, part {number}", text="\n".join(part), context=context)
            part, size, number = [], 0, number + 1
        part.append(line)
        size += len(line) + 1
    if section.text:
        position = f"{section.position}, part {number}" if number > 1 else section.position
        yield origin.document(position, text="\n".join(part), context=context)

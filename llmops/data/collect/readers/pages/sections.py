"""Pages cut at their headings. A heading that asks is a question, the text below it the answer."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from llmops.data.collect.readers.origin import Items, Origin, make_slug
from llmops.data.collect.readers.plain_text import PART_CHARS
from llmops.data.text.headings import (
    find_section_numbers,
    find_table_header,
    has_final_question_mark,
    is_question,
    join_headings,
    remove_number,
)

ANSWER_CHARS = 4000  #: most characters of an answer that includes headings below its question
TERM_LEVEL = 7  #: level of an element that is a heading only if it asks: a term of a list, the button of an accordion

_TITLE_PARTS = re.compile(r"\s+[|–—·•»›:-]+\s+")


@dataclass(frozen=True, slots=True)
class PageSection:
    """A heading and the text below it; `level` 0 is the text before the first heading."""

    position: str
    level: int
    heading: str
    text: str
    anchor: str = ""  #: the heading's name in the page


def make_documents(sections: Iterable[PageSection], origin: Origin, title: str = "") -> Items:
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
    page_sections = _apply_title(_merge_terms(sections), title)
    numbered = find_section_numbers(section.heading for section in page_sections)
    questions = [remove_number(section.heading, numbered).removesuffix(":").strip() for section in page_sections]
    are_questions = [is_question(question) for question in questions]
    headings_above = _list_headings_above(page_sections, questions, title)
    index = 0
    while index < len(page_sections):
        section, question, end = page_sections[index], questions[index], _find_end(page_sections, index)
        next_question = next((i for i in range(index + 1, end) if are_questions[i]), end)
        has_question_mark = has_final_question_mark(question)
        if are_questions[index] and (has_question_mark or next_question == end):
            answer = _join_answer(page_sections[index:next_question])
            if next_question == index + 1 or len(answer) <= ANSWER_CHARS:
                if answer or has_question_mark:
                    context, group = join_headings(headings_above[index]), section.anchor or make_slug(question)
                    parts = {"question": question, "answer": answer, "context": context, "group": group}
                    yield origin.make_document(section.position, **parts)
                index = next_question
                continue
        yield from make_texts(section, join_headings([*headings_above[index], questions[index]]), origin)
        index += 1


def _merge_terms(sections: Iterable[PageSection]) -> list[PageSection]:
    """Move terms that ask nothing into the text of the section before them."""
    merged: list[PageSection] = []
    parts: list[list[str]] = []
    for section in sections:
        if section.level >= TERM_LEVEL and not is_question(remove_number(section.heading)):
            if not merged:
                merged, parts = [PageSection(section.position, 0, "", "")], [[]]
            parts[-1].append(_join_section(section))
        else:
            merged.append(section)
            parts.append([section.text])
    return [replace(s, text="\n".join(filter(None, lines))) for s, lines in zip(merged, parts, strict=True)]


def _apply_title(sections: list[PageSection], title: str) -> list[PageSection]:
    """Use the part of the title that asks as the heading of the text before the first heading."""
    question = next((part for part in _TITLE_PARTS.split(title) if is_question(remove_number(part))), "")
    if not question or not sections or not sections[0].text or any(section.level <= 1 for section in sections[1:]):
        return sections
    return sections if sections[0].level else [replace(sections[0], heading=question), *sections[1:]]


def _join_section(section: PageSection) -> str:
    return f"{section.heading}\n{section.text}".strip()


def _join_answer(sections: Sequence[PageSection]) -> str:
    """Return the first section's text, and the others with their headings. Skip headings without text."""
    parts: list[str] = []
    last_level = 0  # level of the last section that was not skipped
    for section in reversed(sections[1:]):
        if section.text or section.level < last_level:
            parts.append(_join_section(section))
            last_level = section.level
    return "\n\n".join(filter(None, [sections[0].text, *reversed(parts)]))


def _find_end(sections: Sequence[PageSection], index: int) -> int:
    level = sections[index].level
    return next((i for i in range(index + 1, len(sections)) if sections[i].level <= level), len(sections))


def _list_headings_above(sections: Sequence[PageSection], headings: Sequence[str], title: str) -> list[list[str]]:
    """Return the headings above each section. The first is the title, or the part of it that the page repeats.

    A question that is itself that part has the other parts above: `Shop › Returns` for `Who pays? | Returns | Shop`.
    """
    open_headings: list[tuple[int, str]] = []
    parts = _TITLE_PARTS.split(title)
    result = []
    for section, heading in zip(sections, headings, strict=True):
        while open_headings and open_headings[-1][0] >= section.level:
            open_headings.pop()
        outer = [text for _, text in open_headings]
        top, level = (outer[0], open_headings[0][0]) if outer else (heading, section.level)
        repeated_part = next((i for i, part in enumerate(parts) if top and top.casefold() in part.casefold()), None)
        if repeated_part is not None:
            others = [*parts[:repeated_part], *parts[:repeated_part:-1]] if is_question(heading) else []
            outer[:1] = [remove_number(parts[repeated_part])] if outer else others
        elif title and (level != 1 or not outer):
            outer.insert(0, remove_number(title))
        result.append(outer)
        if section.level:
            open_headings.append((section.level, heading))
    return result


def make_texts(section: PageSection, context: str, origin: Origin) -> Items:
    """Yield the text of a section as documents without a question. Parts of a table repeat a short header."""
    part: list[str] = []
    size, number = 0, 1
    for line in section.text.split("\n"):
        if part and size + len(line) > PART_CHARS and not line.startswith("|---|"):
            text = "\n".join(part)
            yield origin.make_document(f"{section.position}, part {number}", text=text, context=context)
            header = find_table_header(text) if line.startswith("|") else ""
            header = header if len(header) <= PART_CHARS // 4 else ""
            part, size, number = [header] if header else [], len(header), number + 1
        part.append(line)
        size += len(line) + 1
    if section.text:
        position = f"{section.position}, part {number}" if number > 1 else section.position
        yield origin.make_document(position, text="\n".join(part), context=context)

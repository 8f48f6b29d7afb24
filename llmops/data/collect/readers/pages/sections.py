"""Pages cut at their headings: a heading is the question, what stands under it the answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llmops.data.collect.readers.origin import Items, Origin, slug


@dataclass(frozen=True, slots=True)
class PageSection:
    """A heading and what stands under it; `level` 0 is what stands before the first heading."""

    position: str
    level: int
    heading: str
    text: str
    anchor: str = ""  #: the heading's own name in the page


def documents(sections: Iterable[PageSection], origin: Origin) -> Items:
    """Yield one item per section.

    A heading without text under it is no document, unless it ends in a question mark: then it is a document without an
    answer. A heading of the first level that has other headings with it and ends in no question mark is the page's
    title, and what stands under it becomes a document without a question. The group is the heading's anchor or, without
    one, what the anchor would be.
    """
    found = list(sections)
    titled = sum(section.level > 0 for section in found) > 1
    for section in found:
        heading = section.heading
        if section.level == 1 and titled and not heading.endswith("?"):
            heading = ""
        if heading and (section.text or heading.endswith("?")):
            group = section.anchor or slug(heading)
            yield origin.document(section.position, question=heading, answer=section.text, group=group)
        elif section.text:
            yield origin.document(section.position, text=section.text)

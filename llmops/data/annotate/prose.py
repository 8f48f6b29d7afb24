"""Questions and their answers in plain text, where nothing but its layout tells them apart."""

from __future__ import annotations

import re

_PARAGRAPHS = re.compile(r"\n[^\S\n]*\n\s*")
_QUESTION = re.compile(r"(?:Q(?:uestion)?[^\S\n]*\d*[:.)][^\S\n]*)?(?P<question>[^\n]{3,200}[?？])")
_MARKED = re.compile(r"Q(?:uestion)?[^\S\n]*\d*[:.)][^\S\n]*(?P<question>[^\n]{3,200})(?:\n(?P<rest>.+))?", re.DOTALL)
_ANSWER = re.compile(r"A(?:nswer)?[^\S\n]*\d*[:.)]\s*(?=\S)")


def qa_pairs(text: str) -> list[tuple[str, str]]:
    """The questions of `text` with what answers each: all that follows until the next question.

    A question is a paragraph of one line that ends in a question mark, or a line at the beginning of a paragraph that
    is marked as in `Q: …`. A question that nothing follows is left out, as is what comes before the first.
    """
    found: list[tuple[str, list[str]]] = []
    for paragraph in _PARAGRAPHS.split(text.strip()):
        if match := _QUESTION.fullmatch(paragraph):
            found.append((match["question"], []))
        elif match := _MARKED.fullmatch(paragraph):
            found.append((match["question"], [match["rest"]] if match["rest"] else []))
        elif found:
            found[-1][1].append(paragraph)
    return [(question, _ANSWER.sub("", "\n\n".join(answer), count=1)) for question, answer in found if answer]

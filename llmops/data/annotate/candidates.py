"""Questions and answers of documents: as they stand, rendered from a row's fields, or as another wording of one.

A document with nothing but text makes the pairs that stand in it as in a list of frequently asked questions.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from llmops.config import Template
from llmops.data.annotate.prose import qa_pairs
from llmops.data.annotate.split import normalized
from llmops.errors import LlmopsError
from llmops.records import Document, Dropped, content_id

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True, slots=True)
class Candidate:
    """What may become an example."""

    document: Document  #: where it comes from; its texts are emptied, except in a candidate made only to be dropped
    question: str
    answer: str
    context: str
    group: str  #: empty: grouped by the answer
    own: tuple[str, str] | None = None  #: the row's values in a template's question and answer; None: no template


def candidates(
    documents: Iterable[Document], templates: Mapping[str, Sequence[Template]]
) -> tuple[list[Candidate], list[Dropped], int]:
    """The candidates, the documents that make none, and how many templates were skipped for an empty field.

    Pairs, rendered rows and what plain text asks come first, then the other wordings, each in the order of the
    documents' ids.

    Raises:
        LlmopsError: if a template names a source or a field that does not exist.
    """
    made: list[Candidate] = []
    wordings: list[Document] = []
    dropped: list[Dropped] = []
    known: defaultdict[str, set[str]] = defaultdict(set)
    skipped = 0
    for document in documents:
        known[document.source] |= _fields(document).keys()
        rendered, empty = render(document, templates.get(document.source, ()))
        made += rendered
        skipped += len(empty)
        if document.question and document.answer:
            made.append(_as_it_stands(document))
        elif document.question and document.same_as:
            wordings.append(document)
        elif asked := [] if rendered else qa_pairs(document.text):
            made += [Candidate(_origin(document), *pair, document.context, document.group) for pair in asked]
        elif not rendered:
            whole = Candidate(document, document.question, document.answer, document.context, document.group)
            if empty:
                dropped.append(drop(whole, "empty_field", f"every template needs an empty field: {', '.join(empty)}"))
            else:
                dropped.append(
                    drop(whole, "no_question", "neither a question with its answer in it nor a template for it")
                )
    check(known, templates)
    made.sort(
        key=lambda candidate: candidate.document.id
    )  # stable: what one row makes keeps the order of its templates
    reworded, unknown = _reworded(sorted(wordings, key=lambda document: document.id), made)
    return made + reworded, dropped + unknown, skipped


def render(document: Document, templates: Sequence[Template]) -> tuple[list[Candidate], list[str]]:
    """The candidates that templates make of a structured row, and the empty fields that kept others from being made."""
    values = _fields(document) if templates else {}
    made, empty = [], []
    for number, template in enumerate(templates):
        parts = (template.question, template.answer, template.context, template.group)
        if lacking := next((n for part in parts for n in _PLACEHOLDER.findall(part) if not values.get(n)), None):
            empty.append(lacking)
            continue
        question, answer = (" ".join(values[n] for n in _PLACEHOLDER.findall(part)) for part in parts[:2])
        own = (f"{document.source}.{number} {question}", answer)
        shown = [_PLACEHOLDER.sub(lambda m: values[m[1]], part) for part in parts]
        made.append(Candidate(_origin(document), shown[0], shown[1], shown[2], shown[3], own))
    return made, empty


def check(known: Mapping[str, Iterable[str]], templates: Mapping[str, Sequence[Template]]) -> None:
    """Check that templates name sources and fields that exist.

    Args:
        known: source → the fields that its rows have.

    Raises:
        LlmopsError: naming the first that does not, and those that do.
    """
    for source, entries in templates.items():
        if source not in known:
            raise LlmopsError(
                f"annotate.templates: there are no documents of a source {source!r}; "
                f"there are some of {', '.join(sorted(known)) or 'none'}."
            )
        for index, template in enumerate(entries):
            for part in ("question", "answer", "context", "group"):
                for name in _PLACEHOLDER.findall(getattr(template, part)):
                    if name not in known[source]:
                        raise LlmopsError(
                            f"annotate.templates.{source}[{index}].{part} names the field {name!r}, which no row has; "
                            f"they have {', '.join(sorted(known[source])) or 'none, as the source maps its question'}."
                        )


def drop(candidate: Candidate, rule: str, detail: str) -> Dropped:
    """The candidate as a dropped row."""
    document = candidate.document
    parts = {"question": candidate.question, "answer": candidate.answer, "context": candidate.context}
    return Dropped(
        id=content_id(document.id, rule, candidate.question, candidate.answer, candidate.context),
        source=document.source,
        location=document.location,
        position=document.position,
        rule=rule,
        detail=detail,
        content="\n".join(f"{name}: {text}" for name, text in parts.items() if text) or document.text,
    )


def _reworded(documents: Iterable[Document], made: Iterable[Candidate]) -> tuple[list[Candidate], list[Dropped]]:
    """Candidates that ask a known question in other words and have its answer; and the documents that make none.

    A document pairs `question` with `same_as`, and either of them may be the one whose answer is known. If both are
    known, or one has several answers, a candidate is made of each. Which of these is kept is decided with the split,
    since more data must not take a question out of the test.
    """
    known: defaultdict[str, list[Candidate]] = defaultdict(list)
    for candidate in made:
        known[normalized(candidate.question)].append(candidate)
    found, unknown = [], []
    for document in documents:
        origin = _origin(document)
        reworded = {normalized(document.question): document.same_as, normalized(document.same_as): document.question}
        answered = [(original, new) for asked, new in reworded.items() for original in known.get(asked, ())]
        found += [replace(original, document=origin, question=new, own=None) for original, new in answered]
        if not answered:
            detail = f"no source answers {document.same_as!r} or {document.question!r}"
            whole = Candidate(document, document.question, document.same_as, document.context, document.group)
            unknown.append(drop(whole, "unknown_question", detail))
    return found, unknown


def _as_it_stands(document: Document) -> Candidate:
    return Candidate(_origin(document), document.question, document.answer, document.context, document.group)


def _origin(document: Document) -> Document:
    return replace(document, text="", question="", answer="", context="", same_as="", group="", fields="{}")


def _fields(document: Document) -> dict[str, str]:
    values: dict[str, str] = json.loads(document.fields)
    return values

"""Questions and answers of documents: as they stand, rendered from a row's fields, or as another wording of one."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from llmops.config import Template
from llmops.data.split import normal
from llmops.errors import LlmopsError
from llmops.records import Document, Dropped, content_id

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True, slots=True)
class Candidate:
    """What may become an example."""

    document: Document
    question: str
    answer: str
    context: str
    group: str  #: empty: grouped by the answer


def candidates(
    documents: Sequence[Document], templates: Mapping[str, Sequence[Template]]
) -> tuple[list[Candidate], list[Dropped], int]:
    """The candidates, the documents that make none, and how many templates were skipped for an empty field.

    Pairs and rendered rows come first, then the other wordings, each in the order of the documents' ids.

    Raises:
        LlmopsError: if a template names a source or a field that does not exist.
    """
    check(documents, templates)
    made: list[Candidate] = []
    wordings: list[Document] = []
    dropped: list[Dropped] = []
    skipped = 0
    for document in sorted(documents, key=lambda d: d.id):
        rendered, empty = render(document, templates.get(document.source, ()))
        made += rendered
        skipped += len(empty)
        if document.question and document.answer:
            made.append(
                Candidate(document, document.question, document.answer, document.context, document.group),
            )
        elif document.question and document.same_as:
            wordings.append(document)
        elif not rendered:
            whole = Candidate(document, document.question, document.answer, document.context, document.group)
            if empty:
                dropped.append(drop(whole, "empty_field", f"every template needs an empty field: {', '.join(empty)}"))
            else:
                dropped.append(drop(whole, "no_question", "neither a question with its answer nor a template for it"))
    reworded, unknown = _reworded(wordings, made)
    return made + reworded, dropped + unknown, skipped


def render(document: Document, templates: Iterable[Template]) -> tuple[list[Candidate], list[str]]:
    """The candidates that templates make of a structured row, and the empty fields that kept others from being made."""
    values: dict[str, str] = json.loads(document.fields)
    made, empty = [], []
    for template in templates:
        parts = (template.question, template.answer, template.context, template.group)
        if lacking := next((n for part in parts for n in _PLACEHOLDER.findall(part) if not values.get(n)), None):
            empty.append(lacking)
            continue
        made.append(Candidate(document, *(_PLACEHOLDER.sub(lambda m: values[m[1]], part) for part in parts)))
    return made, empty


def check(documents: Iterable[Document], templates: Mapping[str, Sequence[Template]]) -> None:
    """Check that templates name sources and fields that exist.

    Raises:
        LlmopsError: naming the first that does not, and those that do.
    """
    known: defaultdict[str, set[str]] = defaultdict(set)
    for document in documents:
        known[document.source] |= json.loads(document.fields).keys()
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
    """Other wordings of known questions, with those questions' answers. Either side of a pair may be the known one."""
    known: dict[str, Candidate] = {}
    for candidate in made:
        known.setdefault(normal(candidate.question), candidate)
    found, unknown = [], []
    for document in documents:
        for there, new in ((document.same_as, document.question), (document.question, document.same_as)):
            if original := known.get(normal(there)):
                found.append(replace(original, document=document, question=new))
                break
        else:
            detail = f"no source answers {document.same_as!r} or {document.question!r}"
            whole = Candidate(document, document.question, document.same_as, document.context, document.group)
            unknown.append(drop(whole, "unknown_question", detail))
    return found, unknown

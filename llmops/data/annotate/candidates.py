"""Questions and answers from documents: ready pairs, pairs rendered from a row's fields, other wordings of a question.

A document of plain text gives the pairs that it lists, as in frequently asked questions.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import groupby
from typing import NamedTuple

import polars as pl
import pyarrow as pa

from llmops.config import Template
from llmops.data.annotate.prose import qa_pairs
from llmops.data.text.comparable import comparable
from llmops.data.text.headings import path
from llmops.data.worktables import BATCH, WorkTables, batched
from llmops.frame.errors import LlmopsError
from llmops.frame.records import Document, Dropped, content_id, joined_licences, schema

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
_NAMES = tuple(field.name for field in fields(Document))


def _columns(numbers: str, texts: str) -> pa.Schema:
    return pa.schema([*((n, pa.int64()) for n in numbers.split()), *((n, pa.string()) for n in texts.split())])


#: The tables of a run. `own` is what is compared instead of question and answer, see `Candidate.own`.
TABLES = {
    "candidates": _columns(
        "row",
        "document documents source location position licence id question answer context group wording own_question "
        "own_answer",
    ),
    "dropped": schema(Dropped),
    "found": _columns("question answer context", "place document entity"),  # by a `Redactor`
    # by earlier runs
    "tested": _columns("number", "id wording group compared documents interval source question answer example"),
    "wordings": pa.schema([("number", pa.int64()), *schema(Document)]),
    "asked": _columns("number side", "asked new"),
    "answered": _columns("row", "document asked answer context group licence"),
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A question and its answer, which may become an example."""

    document: Document  #: its document, without texts, except in a candidate that is made only to be dropped
    question: str
    answer: str
    context: str
    group: str  #: empty: grouped by the answer
    own: tuple[str, str] | None = None  #: the row's values in a template's question and answer; None: no template
    documents: str = ""  #: ids of its documents, separated by spaces, if there are several


class Made(NamedTuple):
    """The result of some documents."""

    candidates: list[Candidate]
    dropped: list[Dropped]  #: documents without a candidate
    wordings: list[Document]  #: those that ask a question in other words, which another document may answer
    skipped: int  #: templates, for an empty field
    fields: dict[str, set[str]]  #: source → the fields that its rows have


def candidates(documents: Iterable[Document], templates: Mapping[str, Sequence[Template]]) -> Made:
    """Return the candidates of documents: ready pairs, rows rendered by templates, and questions found in plain text.

    They come in the order of the documents, then of the source's templates.
    """
    made: list[Candidate] = []
    dropped: list[Dropped] = []
    wordings: list[Document] = []
    fields: defaultdict[str, set[str]] = defaultdict(set)
    skipped = 0
    for document in documents:
        fields[document.source] |= _fields(document).keys()
        rendered, empty = render(document, templates.get(document.source, ()))
        made += rendered
        skipped += len(empty)
        whole = Candidate(document, document.question, document.answer, document.context, document.group)
        if document.question and document.answer:
            made.append(replace(whole, document=origin(document)))
        elif document.question and document.same_as:
            wordings.append(document)
        elif asked := [] if rendered else qa_pairs(document.text):
            for question, answer, heading in asked:
                context = path([document.context, heading])
                made.append(Candidate(origin(document), question, answer, context, document.group))
        elif not rendered:
            if empty:
                dropped.append(drop(whole, "empty_field", f"every template needs an empty field: {', '.join(empty)}"))
            else:
                dropped.append(
                    drop(whole, "no_question", "neither a question with its answer in it nor a template for it")
                )
    return Made(made, dropped, wordings, skipped, fields)


def render(document: Document, templates: Sequence[Template]) -> tuple[list[Candidate], list[str]]:
    """Render templates with a row's fields. Return the candidates and, for each skipped template, its empty field."""
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
        made.append(Candidate(origin(document), shown[0], shown[1], shown[2], shown[3], own))
    return made, empty


def check(known: Mapping[str, Iterable[str]], templates: Mapping[str, Sequence[Template]]) -> None:
    """Check that templates name sources and fields that exist. `known` is source → the fields that its rows have.

    Raises:
        LlmopsError: if one does not exist. The message names it, and those that exist.
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
    """Return the dropped row of a candidate."""
    document = candidate.document
    parts = {"question": candidate.question, "answer": candidate.answer, "context": candidate.context}
    return Dropped(
        id=content_id(document.id, rule, candidate.question, candidate.answer, candidate.context),
        source=document.source,
        location=document.location,
        position=document.position,
        rule=rule,
        detail=detail,
        content="\n".join([*(f"{name}: {text}" for name, text in parts.items() if text), document.text]).strip(),
    )


class Wordings:
    """The other wordings of questions, and the candidates that may answer them, in the tables of a run."""

    def __init__(self, work: WorkTables) -> None:
        self._work = work
        self._asked = self._answered = 0

    def ask(self, documents: Sequence[Document]) -> None:
        """Add other wordings, in their order.

        A document pairs `question` with `same_as`, and either of them may be the one whose answer is known.
        """
        numbers = dict(enumerate(documents, self._asked))
        self._asked += len(documents)
        self._work.add("wordings", [{"number": number, **asdict(d)} for number, d in numbers.items()])
        rows = []
        for number, d in numbers.items():
            sides = {comparable(d.question, closing=False): d.same_as, comparable(d.same_as, closing=False): d.question}
            rows += [
                {"number": number, "side": side, "asked": content_id(asked), "new": new}
                for side, (asked, new) in enumerate(sides.items())
            ]
        self._work.add("asked", rows)

    def answer(self, made: Sequence[Candidate]) -> None:
        """Add candidates that may answer the other wordings, in their order."""
        rows = [
            {
                "row": row, "asked": content_id(comparable(c.question, closing=False)), "answer": c.answer,
                "context": c.context,
                "group": c.group, "licence": c.document.licence, "document": c.document.id,
            }
            for row, c in enumerate(made, self._answered)
        ]  # fmt: skip
        self._answered += len(made)
        self._work.add("answered", rows)

    def candidates(self) -> Iterator[list[Candidate]]:
        """Yield candidates that ask a known question in other words and have its answer, all of a document together.

        If both sides of a document are known, or one has several answers, each gives a candidate. The split decides
        which of these is kept, since more data must not take a question out of the test. The candidate is under the
        licences of both documents.
        """
        self._work.execute("""
            CREATE OR REPLACE TABLE pairs AS
            SELECT a.number, a.side, o.row, row_number() OVER (ORDER BY a.number, a.side, o.row) - 1 AS rank
            FROM (SELECT number, side, asked FROM asked) a JOIN (SELECT row, asked FROM answered) o USING (asked)""")
        query = """
            SELECT w.*, a.new, o.answer AS its_answer, o.context AS its_context, o.group AS its_group,
                o.licence AS its_licence, o.document AS its_document, p.rank
            FROM pairs p JOIN asked a USING (number, side) JOIN wordings w USING (number)
            JOIN answered o ON o.row = p.row"""
        made: list[Candidate] = []
        for _, rows in groupby(self._work.ranked_rows(query, self._work.count("pairs")), key=lambda row: row["number"]):
            for row in rows:
                document = Document(**{name: row[name] for name in _NAMES})
                licence = joined_licences(row["its_licence"], document.licence)
                where = replace(origin(document), licence=licence)
                texts = (row["new"], row["its_answer"], row["its_context"], row["its_group"])
                made.append(Candidate(where, *texts, documents=f"{document.id} {row['its_document']}"))
            if len(made) >= BATCH:
                yield made
                made = []
        yield made

    def unknown(self) -> Iterator[Dropped]:
        """Yield a dropped row for each other wording whose question has no answer."""
        query = "SELECT * FROM wordings WHERE number NOT IN (SELECT number FROM asked JOIN answered USING (asked))"
        for row in self._work.rows(query):
            document = Document(**{name: row[name] for name in _NAMES})
            detail = f"no source answers {document.same_as!r} or {document.question!r}"
            whole = Candidate(document, document.question, document.same_as, document.context, document.group)
            yield drop(whole, "unknown_question", detail)


def drop_all(dropped: Iterable[Dropped], work: WorkTables) -> None:
    """Store dropped rows in their table."""
    work.add("dropped", [asdict(row) for row in dropped])


def drop_rows(late: pl.DataFrame, work: WorkTables) -> None:
    """Drop candidates that are stored in the table of candidates.

    `late` has `row`, `rule`, `detail` and `twin`: the row of a candidate whose place is added to the detail, or null.
    """
    work.replace("late", late.to_arrow())
    query = """
        SELECT c.*, late.rule, late.detail, t.source AS t_source, t.location AS t_location, t.position AS t_position
        FROM late JOIN candidates c USING (row) LEFT JOIN candidates t ON t.row = late.twin"""
    for some in batched(work.rows(query)):
        drop_all((drop(_stored(row), row["rule"], row["detail"] + _twin(row)) for row in some), work)


def _twin(row: dict[str, str]) -> str:
    if row["t_source"] is None:
        return ""
    return place(Document(id="", source=row["t_source"], location=row["t_location"], position=row["t_position"]))


def _stored(row: dict[str, str]) -> Candidate:
    origin = Document(id=row["document"], source=row["source"], location=row["location"], position=row["position"])
    return Candidate(origin, row["question"], row["answer"], row["context"], row["group"])


def place(document: Document) -> str:
    """Return the place of a document for readers."""
    return f"{document.source}: {document.location}, {document.position}"


def origin(document: Document) -> Document:
    """Return the document without its texts, as the origin of a candidate."""
    return replace(document, text="", question="", answer="", context="", same_as="", group="", fields="{}")


def _fields(document: Document) -> dict[str, str]:
    return dict(json.loads(document.fields))

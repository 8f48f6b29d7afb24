"""Make question-answer pairs from documents.

A document may be a ready pair, a row whose fields fill a template, a paraphrase of another document's question, or a
plain text that lists questions with their answers (FAQ).
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
from llmops.data.annotate.faq import find_qa_pairs
from llmops.data.text.headings import join_headings
from llmops.data.text.normalization import normalize_text
from llmops.data.work_tables import BATCH_ROWS, WorkTables, make_batches
from llmops.frame.errors import LlmopsError
from llmops.frame.records import Document, DroppedRow, get_schema, join_licences, make_content_id

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
_DOCUMENT_FIELDS = tuple(field.name for field in fields(Document))


def _make_schema(numbers: str, texts: str) -> pa.Schema:
    return pa.schema([*((n, pa.int64()) for n in numbers.split()), *((n, pa.string()) for n in texts.split())])


#: The temporary tables of a run. For `question_values` and `answer_values`, see `QAPair.values`.
TABLES = {
    "qa_pairs": _make_schema(
        "row",
        "document documents source location position licence id question answer context group wording question_values "
        "answer_values",
    ),
    "dropped": get_schema(DroppedRow),
    # Number of redactions in each part of a document, written by a `Redactor`.
    "redactions": _make_schema("question answer context", "origin document entity"),
    # Tested entries of earlier runs, written by `SplitHistory`.
    "tested": _make_schema("number", "id wording group compared documents interval source question answer example"),
    # The rest is for `Paraphrases`. A paraphrase has two sides, and each may be the question with a known answer.
    "paraphrases": pa.schema([("number", pa.int64()), *get_schema(Document)]),
    "sides": _make_schema("number side", "known_question new_question"),
    "answers": _make_schema("row", "document known_question answer context group licence"),
}


@dataclass(frozen=True, slots=True)
class QAPair:
    """A question and its answer, which may become an example."""

    document: Document  #: its document, without texts, except in a pair that is made only to be dropped
    question: str
    answer: str
    context: str
    group: str  #: empty: grouped by the answer
    #: the row's values in a template's question and answer, compared instead of these; None: no template
    values: tuple[str, str] | None = None
    documents: str = ""  #: ids of its documents, separated by spaces, if there are several


class PairingResult(NamedTuple):
    """The pairs that some documents give, and the documents that give none."""

    pairs: list[QAPair]
    dropped: list[DroppedRow]  #: documents without a pair
    paraphrases: list[Document]  #: documents that ask a question in other words; another document may answer it
    skipped: int  #: templates that were skipped because a field is empty
    fields: dict[str, set[str]]  #: source → the fields that its rows have


def make_qa_pairs(documents: Iterable[Document], templates: Mapping[str, Sequence[Template]]) -> PairingResult:
    """Make pairs of documents: ready pairs, rows rendered by templates, and questions found in plain text.

    They come in the order of the documents, then of the source's templates.
    """
    pairs: list[QAPair] = []
    dropped: list[DroppedRow] = []
    paraphrases: list[Document] = []
    fields: defaultdict[str, set[str]] = defaultdict(set)
    skipped = 0
    for document in documents:
        fields[document.source] |= _read_fields(document).keys()
        rendered, empty = render_templates(document, templates.get(document.source, ()))
        pairs += rendered
        skipped += len(empty)
        whole = QAPair(document, document.question, document.answer, document.context, document.group)
        if document.question and document.answer:
            pairs.append(replace(whole, document=strip_texts(document)))
        elif document.question and document.same_as:
            paraphrases.append(document)
        elif found := [] if rendered else find_qa_pairs(document.text):
            for question, answer, heading in found:
                context = join_headings([document.context, heading])
                pairs.append(QAPair(strip_texts(document), question, answer, context, document.group))
        elif not rendered:
            if empty:
                detail = f"every template needs an empty field: {', '.join(empty)}"
                dropped.append(make_dropped(whole, "empty_field", detail))
            else:
                detail = "neither a question with its answer in it nor a template for it"
                dropped.append(make_dropped(whole, "no_question", detail))
    return PairingResult(pairs, dropped, paraphrases, skipped, fields)


def render_templates(document: Document, templates: Sequence[Template]) -> tuple[list[QAPair], list[str]]:
    """Render templates with a row's fields. Return the pairs and, for each skipped template, its empty field."""
    values = _read_fields(document) if templates else {}
    pairs, empty = [], []
    for number, template in enumerate(templates):
        parts = (template.question, template.answer, template.context, template.group)
        if lacking := next((n for part in parts for n in _PLACEHOLDER.findall(part) if not values.get(n)), None):
            empty.append(lacking)
            continue
        question, answer = (" ".join(values[n] for n in _PLACEHOLDER.findall(part)) for part in parts[:2])
        compared = (f"{document.source}.{number} {question}", answer)
        rendered = [_PLACEHOLDER.sub(lambda m: values[m[1]], part) for part in parts]
        pairs.append(QAPair(strip_texts(document), rendered[0], rendered[1], rendered[2], rendered[3], compared))
    return pairs, empty


def check_templates(known: Mapping[str, Iterable[str]], templates: Mapping[str, Sequence[Template]]) -> None:
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


def make_dropped(pair: QAPair, rule: str, detail: str) -> DroppedRow:
    """Return the record of a dropped pair."""
    document = pair.document
    parts = {"question": pair.question, "answer": pair.answer, "context": pair.context}
    return DroppedRow(
        id=make_content_id(document.id, rule, pair.question, pair.answer, pair.context),
        source=document.source,
        location=document.location,
        position=document.position,
        rule=rule,
        detail=detail,
        content="\n".join([*(f"{name}: {text}" for name, text in parts.items() if text), document.text]).strip(),
    )


class Paraphrases:
    """The documents that ask a question in other words, and the pairs that may answer it, in the tables of a run."""

    def __init__(self, tables: WorkTables) -> None:
        self._tables = tables
        self._paraphrase_count = self._answer_count = 0

    def add_paraphrases(self, documents: Sequence[Document]) -> None:
        """Add paraphrases, in their order.

        A document pairs `question` with `same_as`, and either of them may be the one whose answer is known.
        """
        numbers = dict(enumerate(documents, self._paraphrase_count))
        self._paraphrase_count += len(documents)
        self._tables.add("paraphrases", [{"number": number, **asdict(d)} for number, d in numbers.items()])
        rows = []
        for number, d in numbers.items():
            sides = {
                normalize_text(d.question, keep_closing=False): d.same_as,
                normalize_text(d.same_as, keep_closing=False): d.question,
            }
            rows += [
                {"number": number, "side": side, "known_question": make_content_id(known), "new_question": new}
                for side, (known, new) in enumerate(sides.items())
            ]
        self._tables.add("sides", rows)

    def add_answers(self, pairs: Sequence[QAPair]) -> None:
        """Add pairs that may answer the paraphrases, in their order."""
        rows = [
            {
                "row": row, "known_question": make_content_id(normalize_text(p.question, keep_closing=False)),
                "answer": p.answer, "context": p.context,
                "group": p.group, "licence": p.document.licence, "document": p.document.id,
            }
            for row, p in enumerate(pairs, self._answer_count)
        ]  # fmt: skip
        self._answer_count += len(pairs)
        self._tables.add("answers", rows)

    def make_pairs(self) -> Iterator[list[QAPair]]:
        """Yield pairs that ask a known question in other words and have its answer, all of a document together.

        If both sides of a document are known, or one has several answers, each gives a pair. The split decides which of
        these is kept, since more data must not take a question out of the test. The pair is under the licences of both
        documents.
        """
        self._tables.execute("""
            CREATE OR REPLACE TABLE matches AS
            SELECT s.number, s.side, a.row, row_number() OVER (ORDER BY s.number, s.side, a.row) - 1 AS rank
            FROM (SELECT number, side, known_question FROM sides) s
            JOIN (SELECT row, known_question FROM answers) a USING (known_question)""")
        query = """
            SELECT p.*, s.new_question, a.answer AS its_answer, a.context AS its_context, a.group AS its_group,
                a.licence AS its_licence, a.document AS its_document, m.rank
            FROM matches m JOIN sides s USING (number, side) JOIN paraphrases p USING (number)
            JOIN answers a ON a.row = m.row"""
        matches = self._tables.read_ranked_rows(query, self._tables.count_rows("matches"))
        pairs: list[QAPair] = []
        for _, rows in groupby(matches, key=lambda row: row["number"]):
            for row in rows:
                document = Document(**{name: row[name] for name in _DOCUMENT_FIELDS})
                licence = join_licences(row["its_licence"], document.licence)
                origin = replace(strip_texts(document), licence=licence)
                texts = (row["new_question"], row["its_answer"], row["its_context"], row["its_group"])
                pairs.append(QAPair(origin, *texts, documents=f"{document.id} {row['its_document']}"))
            if len(pairs) >= BATCH_ROWS:
                yield pairs
                pairs = []
        yield pairs

    def drop_unanswered(self) -> Iterator[DroppedRow]:
        """Yield a dropped row for each paraphrase whose question has no answer."""
        query = """
            SELECT * FROM paraphrases
            WHERE number NOT IN (SELECT number FROM sides JOIN answers USING (known_question))"""
        for row in self._tables.read_rows(query):
            document = Document(**{name: row[name] for name in _DOCUMENT_FIELDS})
            detail = f"no source answers {document.same_as!r} or {document.question!r}"
            whole = QAPair(document, document.question, document.same_as, document.context, document.group)
            yield make_dropped(whole, "unknown_question", detail)


def store_dropped(dropped: Iterable[DroppedRow], tables: WorkTables) -> None:
    """Store dropped rows in their table."""
    tables.add("dropped", [asdict(row) for row in dropped])


def drop_stored_pairs(reasons: pl.DataFrame, tables: WorkTables) -> None:
    """Drop pairs that are stored in the table `qa_pairs`.

    `reasons` has `row`, `rule`, `detail` and `twin`: the row of a pair whose origin is added to the detail, or null.
    """
    tables.replace("reasons", reasons.to_arrow())
    query = """
        SELECT p.*, r.rule, r.detail, t.source AS t_source, t.location AS t_location, t.position AS t_position
        FROM reasons r JOIN qa_pairs p USING (row) LEFT JOIN qa_pairs t ON t.row = r.twin"""
    for batch in make_batches(tables.read_rows(query)):
        store_dropped(
            (make_dropped(_read_pair(row), row["rule"], row["detail"] + _format_twin(row)) for row in batch), tables
        )


def _format_twin(row: dict[str, str]) -> str:
    if row["t_source"] is None:
        return ""
    return format_origin(
        Document(id="", source=row["t_source"], location=row["t_location"], position=row["t_position"])
    )


def _read_pair(row: dict[str, str]) -> QAPair:
    origin = Document(id=row["document"], source=row["source"], location=row["location"], position=row["position"])
    return QAPair(origin, row["question"], row["answer"], row["context"], row["group"])


def format_origin(document: Document) -> str:
    """Return source, location and position of a document as one text for readers."""
    return f"{document.source}: {document.location}, {document.position}"


def strip_texts(document: Document) -> Document:
    """Return the document without its texts, as the origin of a pair."""
    return replace(document, text="", question="", answer="", context="", same_as="", group="", fields="{}")


def _read_fields(document: Document) -> dict[str, str]:
    return dict(json.loads(document.fields))

"""Redact personal data and secrets in question-answer pairs, and store the findings."""

import hashlib
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from llmops.data.annotate.qa_pairs import QAPair, format_origin
from llmops.data.work_tables import WorkTables
from llmops.frame.records import Finding, make_content_id
from llmops.scans.output import DISCLOSURE
from llmops.scans.pii import SECRET, RedactedText, redact_texts

BATCH = 2_000  #: texts that are searched at once: bounds memory, not the result
CACHE_SIZE = 50_000  #: texts whose result is kept, since contexts, for example, come several times


class Redactor:
    """A redactor of these entities in pairs, which stores the findings of each document if it has tables."""

    def __init__(self, entities: Sequence[str], tables: WorkTables | None = None) -> None:
        self._entities, self._tables = entities, tables
        self._cache: dict[bytes, RedactedText | None] = {}  # hash of a text → its result; None: nothing to redact
        self._counted: set[tuple[str, str]] = set()  # document and text

    def redact(self, pairs: Sequence[QAPair], unfinished: Container[str] = ()) -> list[QAPair]:
        """Return the pairs, all of some documents, with all entities replaced by marks.

        `unfinished` are ids of documents whose further pairs come in a later call.
        """
        changed = self._redact_texts(pairs)
        found: dict[tuple[str, str, str], Counter[str]] = {}
        counted = self._counted
        redacted = []
        for p in pairs:
            for part, text in (("question", p.question), ("answer", p.answer), ("context", p.context)):
                if text not in changed or (p.document.id, text) in counted:
                    continue  # several templates show the same text of one row
                counted.add((p.document.id, text))
                for entity, count in changed[text].counts.items():
                    found.setdefault((format_origin(p.document), p.document.id, entity), Counter())[part] += count
            redacted.append(_replace_texts(p, changed))
        self._counted = {(document, text) for document, text in counted if document in unfinished}
        if self._tables:
            names = ("origin", "document", "entity")
            parts = ("question", "answer", "context")
            rows = [dict(zip(names, key, strict=True)) | {part: n[part] for part in parts} for key, n in found.items()]
            self._tables.add("redactions", rows)
        return redacted

    def _redact_texts(self, pairs: Sequence[QAPair]) -> dict[str, RedactedText]:
        """Return the redacted form of each text with findings."""
        texts = {text for p in pairs for text in (p.question, p.answer, p.context, p.group, *(p.values or ()))}
        keys = {text: hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts}
        new = sorted(text for text, key in keys.items() if key not in self._cache)
        for start in range(0, len(new), BATCH):
            batch = new[start : start + BATCH]
            for text, result in zip(batch, redact_texts(batch, self._entities), strict=True):
                self._cache[keys[text]] = result if result.counts else None
        found = {text: self._cache[key] for text, key in keys.items()}
        for key in list(islice(self._cache, max(0, len(self._cache) - CACHE_SIZE))):
            del self._cache[key]  # the oldest
        return {text: result for text, result in found.items() if result}


def read_findings(tables: WorkTables) -> Iterator[Finding]:
    """Yield a finding per document and entity from the table that a `Redactor` filled."""
    query = """
        SELECT origin, entity, sum(question) AS question, sum(answer) AS answer, sum(context) AS context
        FROM redactions GROUP BY origin, document, entity ORDER BY origin, document, entity"""
    for row in tables.read_rows(query):
        parts = {part: int(n) for part, n in row.items() if part not in ("origin", "entity") and n}
        yield _make_finding(row["origin"], row["entity"], parts)


def count_redactions(tables: WorkTables) -> dict[str, int]:
    """Return the number of redactions per entity from the table that a `Redactor` filled."""
    query = "SELECT entity, sum(question + answer + context) AS n FROM redactions GROUP BY entity ORDER BY entity"
    return {row["entity"]: int(row["n"]) for row in tables.read_rows(query)}


def _replace_texts(pair: QAPair, changed: Mapping[str, RedactedText]) -> QAPair:
    if not any(
        text in changed for text in (pair.question, pair.answer, pair.context, pair.group, *(pair.values or ()))
    ):
        return pair

    def redact(text: str) -> str:
        return changed[text].text if text in changed else text

    # A group may be named after a customer: what matters is only that it stays one group.
    group = make_content_id(pair.group) if pair.group in changed else pair.group
    values = (redact(pair.values[0]), redact(pair.values[1])) if pair.values else None
    return replace(
        pair,
        question=redact(pair.question),
        answer=redact(pair.answer),
        context=redact(pair.context),
        group=group,
        values=values,
    )


def _make_finding(origin: str, entity: str, parts: Mapping[str, int]) -> Finding:
    secret = entity == SECRET  # redacting does not help a leaked key: somebody has to revoke it
    detail = ", ".join(f"{count} replaced in the {part}" for part, count in sorted(parts.items()))
    return Finding(
        scan="secrets" if secret else "pii",
        rule=entity,
        severity="medium" if secret else "low",
        where=origin,
        detail=detail,
        owasp=DISCLOSURE,
    )

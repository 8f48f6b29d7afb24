"""Redact personal data and secrets in candidates, and store the findings."""

import hashlib
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from llmops.data.annotate.candidates import Candidate, place
from llmops.data.worktables import WorkTables
from llmops.frame.records import Finding, content_id
from llmops.scans.output import DISCLOSURE
from llmops.scans.pii import SECRET, Redacted, redact_all

BATCH = 2_000  #: texts that are searched at once: bounds memory, not the result
REMEMBERED = 50_000  #: texts that are not searched again when they come again, as contexts do


class Redactor:
    """A redactor of these entities in candidates, which stores the findings of each document if it has tables."""

    def __init__(self, entities: Sequence[str], work: WorkTables | None = None) -> None:
        self._entities, self._work = entities, work
        self._known: dict[bytes, Redacted | None] = {}  # by a hash of the text; None: there is nothing in it
        self._again: set[tuple[str, str]] = set()

    def redacted(self, made: Sequence[Candidate], again: Container[str] = ()) -> list[Candidate]:
        """Return the candidates, all of some documents, with all entities replaced by marks.

        `again` are ids of documents whose further candidates come in a later call.
        """
        changed = self._changed(made)
        found: dict[tuple[str, str, str], Counter[str]] = {}
        seen = self._again
        out = []
        for c in made:
            for part, text in (("question", c.question), ("answer", c.answer), ("context", c.context)):
                if text not in changed or (c.document.id, text) in seen:
                    continue  # several templates show the same text of one row
                seen.add((c.document.id, text))
                for entity, count in changed[text].counts.items():
                    found.setdefault((place(c.document), c.document.id, entity), Counter())[part] += count
            out.append(_replaced(c, changed))
        self._again = {(document, text) for document, text in seen if document in again}
        if self._work:
            names = ("place", "document", "entity")
            parts = ("question", "answer", "context")
            rows = [dict(zip(names, at, strict=True)) | {part: n[part] for part in parts} for at, n in found.items()]
            self._work.add("found", rows)
        return out

    def _changed(self, made: Sequence[Candidate]) -> dict[str, Redacted]:
        """Return the redacted form of each text with findings."""
        texts = {text for c in made for text in (c.question, c.answer, c.context, c.group, *(c.own or ()))}
        keys = {text: hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts}
        new = sorted(text for text, key in keys.items() if key not in self._known)
        for start in range(0, len(new), BATCH):
            batch = new[start : start + BATCH]
            for text, result in zip(batch, redact_all(batch, self._entities), strict=True):
                self._known[keys[text]] = result if result.counts else None
        found = {text: self._known[key] for text, key in keys.items()}
        for key in list(islice(self._known, max(0, len(self._known) - REMEMBERED))):
            del self._known[key]  # the oldest
        return {text: result for text, result in found.items() if result}


def findings(work: WorkTables) -> Iterator[Finding]:
    """Yield a finding per document and entity from the table that a `Redactor` filled."""
    query = """
        SELECT place, entity, sum(question) AS question, sum(answer) AS answer, sum(context) AS context
        FROM found GROUP BY place, document, entity ORDER BY place, document, entity"""
    for row in work.rows(query):
        parts = {part: int(n) for part, n in row.items() if part not in ("place", "entity") and n}
        yield _finding(row["place"], row["entity"], parts)


def counts(work: WorkTables) -> dict[str, int]:
    """Return the number of findings per entity from the table that a `Redactor` filled."""
    query = "SELECT entity, sum(question + answer + context) AS n FROM found GROUP BY entity ORDER BY entity"
    return {row["entity"]: int(row["n"]) for row in work.rows(query)}


def _replaced(c: Candidate, changed: Mapping[str, Redacted]) -> Candidate:
    if not any(text in changed for text in (c.question, c.answer, c.context, c.group, *(c.own or ()))):
        return c

    def clean(text: str) -> str:
        return changed[text].text if text in changed else text

    # A group may be named after a customer: what matters is only that it stays one group.
    group = content_id(c.group) if c.group in changed else c.group
    own = (clean(c.own[0]), clean(c.own[1])) if c.own else None
    return replace(
        c, question=clean(c.question), answer=clean(c.answer), context=clean(c.context), group=group, own=own
    )


def _finding(where: str, entity: str, parts: Mapping[str, int]) -> Finding:
    secret = entity == SECRET  # redacting does not help a leaked key: somebody has to revoke it
    detail = ", ".join(f"{count} replaced in the {part}" for part, count in sorted(parts.items()))
    return Finding(
        scan="secrets" if secret else "pii",
        rule=entity,
        severity="medium" if secret else "low",
        where=where,
        detail=detail,
        owasp=DISCLOSURE,
    )

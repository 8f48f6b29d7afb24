"""Candidates without personal data and secrets, and what was found in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from llmops.data.annotate.candidates import Candidate
from llmops.records import Document, Finding, content_id
from llmops.scans.output import DISCLOSURE
from llmops.scans.pii import SECRET, Redacted, redact_all

BATCH = 2_000  #: texts that are searched at once: bounds memory, not the result


def redacted(
    made: Sequence[Candidate], entities: Sequence[str]
) -> tuple[list[Candidate], list[Finding], dict[str, int]]:
    """The candidates without any of the `entities`, a finding per document and entity, and the sum per entity."""
    changed = _changed(made, entities)
    found: dict[tuple[str, str, str], Counter[str]] = {}
    seen: set[tuple[str, str]] = set()
    out = []
    for c in made:
        for part, text in (("question", c.question), ("answer", c.answer), ("context", c.context)):
            if text not in changed or (c.document.id, text) in seen:
                continue  # several templates show the same text of one row
            seen.add((c.document.id, text))
            for entity, count in changed[text].counts.items():
                found.setdefault((place(c.document), c.document.id, entity), Counter())[part] += count
        out.append(_replaced(c, changed))
    findings = [_finding(where, entity, parts) for (where, _, entity), parts in sorted(found.items())]
    counts: Counter[str] = Counter()
    for (_, _, entity), parts in found.items():
        counts[entity] += parts.total()
    return out, findings, dict(sorted(counts.items()))


def place(document: Document) -> str:
    """Where a document comes from, in words."""
    return f"{document.source}: {document.location}, {document.position}"


def _changed(made: Sequence[Candidate], entities: Sequence[str]) -> dict[str, Redacted]:
    """Text → what became of it, of the texts that held something; each text is searched once."""
    texts = sorted({text for c in made for text in (c.question, c.answer, c.context, c.group, *(c.own or ()))})
    changed: dict[str, Redacted] = {}
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        changed |= {t: r for t, r in zip(batch, redact_all(batch, entities), strict=True) if r.counts}
    return changed


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

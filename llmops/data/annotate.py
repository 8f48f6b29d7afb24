"""annotate: documents to `[Context] [Question] [Answer]` examples, free of personal data and secrets, and split."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmops import prompts
from llmops.config import Annotate
from llmops.data.candidates import Candidate, candidates, drop
from llmops.data.sentences import cut
from llmops.data.split import TEST, TRAIN, VALIDATION, normal, splits, wording
from llmops.errors import LlmopsError
from llmops.governance.output import DISCLOSURE
from llmops.governance.pii import SECRET, Redacted, redact_all
from llmops.records import Document, Dropped, Example, Finding, content_id, read_rows, write_rows

log = logging.getLogger(__name__)

# What would end or fake a turn: the annotated text's own marks, and the control tokens of chat templates.
_MARKER = re.compile(rf"\[(?:Context|Question|Answer)\]|{re.escape(prompts.END)}|<\|\w+\|>")


def run(config: Annotate, *, clean: Path, out: Path) -> Mapping[str, Any]:
    """Make examples of the documents of a clean artifact.

    Writes `train.parquet`, `validation.parquet`, `test.parquet`, `dropped.parquet`, `findings.parquet` (what was
    redacted) and `train.txt` (the annotated text), the same bytes for the same input.

    Raises:
        LlmopsError: if a template names a source or field that does not exist, too few test items result, or nothing is
            left to train on.
    """
    documents = read_rows(clean / "documents", Document)
    made, dropped, skipped = candidates(documents, config.templates)
    short, long = _by_length(made, config)
    redacted, findings, counts = _redacted(short, config)
    unmarked, marked = _unmarked(_fitted(candidate, config) for candidate in redacted)
    unique, repeated = _distinct(unmarked)
    examples, held_out = _divided(unique, config)
    dropped = sorted([*dropped, *long, *marked, *repeated, *held_out], key=lambda row: (row.source, row.id))
    write_rows(out / "dropped.parquet", dropped, Dropped)
    write_rows(out / "findings.parquet", findings, Finding)
    sizes = Counter(example.split for example in examples)
    log.info(
        "annotate: %s from %d documents; dropped %d; redacted %s",
        *(dict(sizes), len(documents), len(dropped), counts or "nothing"),
    )
    _check(sizes, config, out)
    for split in (TRAIN, VALIDATION, TEST):
        write_rows(out / f"{split}.parquet", [e for e in examples if e.split == split], Example)
    texts = [prompts.annotated(e.question, e.answer, e.context) for e in examples if e.split == TRAIN]
    (out / "train.txt").write_text("\n".join([*texts, ""]), encoding="utf-8")
    return {
        **{split: sizes[split] for split in (TRAIN, VALIDATION, TEST)},
        "groups": len({example.group for example in examples}),
        "dropped": dict(sorted(Counter(row.rule for row in dropped).items())),
        "skipped_templates": skipped,
        "redactions": counts,
    }


def _by_length(made: Iterable[Candidate], config: Annotate) -> tuple[list[Candidate], list[Dropped]]:
    kept, dropped = [], []
    for candidate in made:
        if len(candidate.answer) > config.max_answer_chars:
            detail = f"the answer has {len(candidate.answer)} characters, more than {config.max_answer_chars}"
            dropped.append(drop(candidate, "answer_too_long", detail))
        else:
            kept.append(candidate)
    return kept, dropped


def _redacted(made: Sequence[Candidate], config: Annotate) -> tuple[list[Candidate], list[Finding], dict[str, int]]:
    """The candidates without personal data and secrets, a finding per document and entity, and the sum per entity."""
    texts = sorted({text for c in made for text in (c.question, c.answer, c.context, c.group)})
    clean: dict[str, Redacted] = dict(zip(texts, redact_all(texts, config.redact), strict=True))
    found: dict[tuple[str, str, str], Counter[str]] = {}
    seen: set[tuple[str, str]] = set()
    out = []
    for c in made:
        for part, text in (("question", c.question), ("answer", c.answer), ("context", c.context)):
            if (c.document.id, text) in seen:
                continue  # several templates show the same text of one row
            seen.add((c.document.id, text))
            for entity, count in clean[text].counts.items():
                found.setdefault((_place(c.document), c.document.id, entity), Counter())[part] += count
        # A group may be named after a customer: what matters is only that it stays one group.
        group = content_id(c.group) if clean[c.group].counts else c.group
        question, answer, context = (clean[text].text for text in (c.question, c.answer, c.context))
        out.append(replace(c, question=question, answer=answer, context=context, group=group))
    findings = [_finding(where, entity, parts) for (where, _, entity), parts in sorted(found.items())]
    counts: Counter[str] = Counter()
    for (_, _, entity), parts in found.items():
        counts[entity] += parts.total()
    return out, findings, dict(sorted(counts.items()))


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


def _fitted(candidate: Candidate, config: Annotate) -> Candidate:
    """Answer and context in their lengths; cut after redaction, which half a card number would escape."""
    context = candidate.context
    if len(context) > config.max_context_chars:
        context = context[: config.max_context_chars + 1].rpartition(" ")[0].strip()
    return replace(candidate, answer=cut(candidate.answer, config.max_answer_sentences), context=context)


def _unmarked(made: Iterable[Candidate]) -> tuple[list[Candidate], list[Dropped]]:
    """Without texts that would end or fake a turn of the prompt."""
    kept, dropped = [], []
    for c in made:
        if match := _MARKER.search(f"{c.question}\n{c.answer}\n{c.context}"):
            dropped.append(drop(c, "prompt_marker", f"it holds {match[0]!r}, which has a meaning in prompts"))
        else:
            kept.append(c)
    return kept, dropped


def _distinct(made: Iterable[Candidate]) -> tuple[list[Candidate], list[Dropped]]:
    """Without duplicates, and without questions that stand in another group too: no split could part them."""
    first: dict[str, Candidate] = {}
    answers: defaultdict[str, set[str]] = defaultdict(set)
    kept, dropped = [], []
    for c in made:
        c = replace(c, group=c.group or content_id(normal(c.answer)))
        key = wording(c.question, c.context)
        known = first.setdefault(key, c)
        if normal(c.answer) in answers[key]:
            dropped.append(drop(c, "duplicate", f"the same question and answer as in {_place(known.document)}"))
        elif c.group != known.group:
            dropped.append(drop(c, "conflict", f"the question is answered otherwise in {_place(known.document)}"))
        else:
            answers[key].add(normal(c.answer))
            kept.append(c)
    return kept, dropped


def _divided(made: Iterable[Candidate], config: Annotate) -> tuple[list[Example], list[Dropped]]:
    """The examples with their splits, sorted by id."""
    unsplit = {example.id: (example, c) for example, c in ((_example(c), c) for c in made)}
    sides = splits([example for example, _ in unsplit.values()], config)
    detail = "its group is tested, and its source is not in test_sources"
    held_out = [drop(c, "held_out", detail) for key, (_, c) in unsplit.items() if key not in sides]
    return [replace(unsplit[key][0], split=side) for key, side in sorted(sides.items())], held_out


def _example(candidate: Candidate) -> Example:
    document = candidate.document
    return Example(
        id=content_id(candidate.context, candidate.question, candidate.answer),
        question=candidate.question,
        answer=candidate.answer,
        context=candidate.context,
        group=candidate.group,
        split="",
        source=document.source,
        location=document.location,
        position=document.position,
        licence=document.licence,
        interval=document.interval,
    )


def _place(document: Document) -> str:
    return f"{document.source}: {document.location}, {document.position}"


def _check(sizes: Mapping[str, int], config: Annotate, out: Path) -> None:
    if not sizes[TRAIN]:
        raise LlmopsError(
            f"No example is left to train on (validation {sizes[VALIDATION]}, test {sizes[TEST]}): lower annotate.test "
            f"({config.test}) or add sources. What was dropped, and why: {out / 'dropped.parquet'}."
        )
    if sizes[TEST] < config.min_test_items:
        sources = f" from {', '.join(config.test_sources)}" if config.test_sources else ""
        raise LlmopsError(
            f"Only {sizes[TEST]} test items{sources}, but annotate.min_test_items is {config.min_test_items}: raise "
            f"annotate.test ({config.test}), add data, or lower min_test_items. {sizes[TRAIN]} examples would train. "
            f"What was dropped, and why: {out / 'dropped.parquet'}."
        )
    if not sizes[VALIDATION]:
        log.warning("annotate: no validation items; raise annotate.validation (%s) or add data.", config.validation)

"""annotate: documents to `[Context] [Question] [Answer]` examples, free of personal data and secrets, and split.

In that order: candidates, length, redaction, cutting, quality, split, decontamination. What comes before the split
looks at one candidate alone; so more documents never take a question out of the frozen test (see `split`).
"""

from __future__ import annotations

import logging
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from llmops import prompts
from llmops.config import Annotate
from llmops.data.annotate import quality
from llmops.data.annotate.candidates import Candidate, candidates, drop
from llmops.data.annotate.decontaminate import overlaps
from llmops.data.annotate.redact import place, redacted
from llmops.data.annotate.split import TEST, TRAIN, VALIDATION, Claim, normalized, splits, wording_id
from llmops.data.text.sentences import cut
from llmops.errors import LlmopsError
from llmops.records import Document, Dropped, Example, Finding, content_id, write_rows

log = logging.getLogger(__name__)

# What would end or fake a turn: the annotated text's own marks, and the control tokens of chat templates.
_MARKER = re.compile(rf"\[(?:Context|Question|Answer)\]|{re.escape(prompts.END)}|<\|\w+\|>")
_BATCH = 5_000  # documents that are read at once
_SHARED = ("source", "location", "licence", "owner", "interval")  # fields that are the same in many documents


@dataclass(frozen=True, slots=True)
class TracedExample:
    """An example and the candidate that it was made of."""

    example: Example
    candidate: Candidate


def run(config: Annotate, *, clean: Path, out: Path) -> Mapping[str, Any]:
    """Make examples of the documents of a clean artifact.

    Writes `train.parquet`, `validation.parquet`, `test.parquet`, `dropped.parquet`, `findings.parquet` (what was
    redacted) and `train.txt` (the annotated text), the same bytes for the same documents in whatever order.

    Raises:
        LlmopsError: if a template names a source or field that does not exist, too few test items result, or nothing is
            left to train on.
    """
    made, dropped, skipped = candidates(_documents(clean / "documents"), config.templates)
    made = _kept(made, dropped, lambda c: _length_problem(c, config))
    made, findings, counts = redacted(made, config.redact)
    made = _kept([_fitted(c, config) for c in made], dropped, _quality_problem)
    items = _split_items(made, dropped, config)
    items = _decontaminated(items, dropped, config)
    write_rows(out / "dropped.parquet", sorted(dropped, key=lambda row: (row.source, row.id)), Dropped)
    write_rows(out / "findings.parquet", findings, Finding)
    sizes = Counter(item.example.split for item in items)
    rules = dict(sorted(Counter(row.rule for row in dropped).items()))
    log.info("annotate: %s; dropped %s; redacted %s", dict(sizes), rules or "nothing", counts or "nothing")
    _check_sizes(sizes, config, out)
    for split in (TRAIN, VALIDATION, TEST):
        write_rows(out / f"{split}.parquet", (i.example for i in items if i.example.split == split), Example)
    with open(out / "train.txt", "w", encoding="utf-8") as text:
        for e in (item.example for item in items if item.example.split == TRAIN):
            text.write(prompts.annotated(e.question, e.answer, e.context) + "\n")
    return {
        **{split: sizes[split] for split in (TRAIN, VALIDATION, TEST)},
        "groups": len({item.example.group for item in items}),
        "dropped": rules,
        "skipped_templates": skipped,
        "redactions": counts,
    }


def _documents(folder: Path) -> Iterator[Document]:
    """The documents of a clean artifact, read batch by batch. Equal values of `_SHARED` fields share one string, which
    saves memory."""
    names = [field.name for field in fields(Document)]
    for path in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(_BATCH, columns=names):
            for row in batch.to_pylist():
                yield Document(**row | {name: sys.intern(row[name]) for name in _SHARED})


def _kept(
    made: Iterable[Candidate], dropped: list[Dropped], judge: Callable[[Candidate], tuple[str, str] | None]
) -> list[Candidate]:
    """The candidates for which `judge` returns None; the others are added to `dropped` with its rule and detail."""
    kept = []
    for candidate in made:
        if reason := judge(candidate):
            dropped.append(drop(candidate, *reason))
        else:
            kept.append(candidate)
    return kept


def _length_problem(candidate: Candidate, config: Annotate) -> tuple[str, str] | None:
    question, answer = candidate.question, candidate.answer
    for name, text, most in (
        ("question", question, config.max_question_chars),
        ("answer", answer, config.max_answer_chars),
    ):
        if len(text) > most:
            return f"{name}_too_long", f"the {name} has {len(text)} characters, more than {most}"
    return None


def _fitted(candidate: Candidate, config: Annotate) -> Candidate:
    """The candidate with its answer and context cut to their largest lengths.

    Cutting comes after redaction, because a card number that is cut in half would not be recognised as one.
    """
    context = candidate.context
    if len(context) > config.max_context_chars:
        context = context[: config.max_context_chars + 1].rpartition(" ")[0].strip()
    return replace(candidate, answer=cut(candidate.answer, config.max_answer_sentences), context=context)


def _quality_problem(candidate: Candidate) -> tuple[str, str] | None:
    texts = f"{candidate.question}\n{candidate.answer}\n{candidate.context}"
    if match := _MARKER.search(texts):
        return "prompt_marker", f"it holds {match[0]!r}, which has a meaning in prompts"
    return quality.broken_rule(candidate.question, candidate.answer)


def _split_items(made: Iterable[Candidate], dropped: list[Dropped], config: Annotate) -> list[TracedExample]:
    """The examples, each with its split, sorted by id; candidates that become none are added to `dropped`.

    A question is kept in one group only: in two groups it could be in two splits at once.
    """
    claims = [(c, _claim(c)) for c in made]
    split_of = splits((claim for _, claim in claims), config)
    groups = {claim.wording: claim.group for claim in split_of}
    first: dict[tuple[str, str], Candidate] = {}
    for c, claim in claims:
        if claim in split_of:
            first.setdefault((claim.wording, normalized(c.answer)), c)
    items = []
    for c, claim in claims:
        same = first.get((claim.wording, normalized(c.answer)))
        if same is c:
            items.append(TracedExample(_example(c, claim.group, split_of[claim]), c))
        elif same:
            dropped.append(drop(c, "duplicate", f"the same question and answer as in {place(same.document)}"))
        elif groups.get(claim.wording, claim.group) != claim.group:
            dropped.append(drop(c, "conflict", "the question is answered otherwise in another group, which has it"))
        elif config.split_by == "group" or claim.wording in groups:
            dropped.append(drop(c, "held_out", "its group is tested, and its source is not in test_sources"))
        else:
            dropped.append(drop(c, "held_out", "a test source's only wording in its group: there is none to train on"))
    return sorted(items, key=lambda item: item.example.id)


def _decontaminated(items: Sequence[TracedExample], dropped: list[Dropped], config: Annotate) -> list[TracedExample]:
    """The items without those that would give others away, which are added to `dropped`.

    Validation loses what is too close to the test; training loses what is too close to the test or to validation.
    """
    by_split: defaultdict[str, list[TracedExample]] = defaultdict(list)
    for item in items:
        by_split[item.example.split].append(item)
    for split, others in ((VALIDATION, (TEST,)), (TRAIN, (TEST, VALIDATION))):
        held_out = [item for other in others for item in by_split[other]]
        close = overlaps((_compared(i, config) for i in by_split[split]), [_compared(i, config) for i in held_out])
        for index, (other, shared) in sorted(close.items()):
            twin = held_out[other].example
            detail = f"shares {shared}, with the {twin.split} item {twin.id}"
            dropped.append(drop(by_split[split][index].candidate, "contaminated", detail))
        by_split[split] = [item for index, item in enumerate(by_split[split]) if index not in close]
    return sorted((item for some in by_split.values() for item in some), key=lambda item: item.example.id)


def _compared(item: TracedExample, config: Annotate) -> str:
    """The text of an example by which it is compared with the held-out items.

    The context is never part of it: a page of policy is rightly the context of many questions, and answering from it is
    what the test asks. Of an example that a template made, only the row's values are compared, since the template's
    words stand in every row. When wordings are split, only the question is compared: the answers are meant to be known
    there, and what is tested is a wording not seen before.
    """
    question, answer = item.candidate.own or (item.example.question, item.example.answer)
    return question if config.split_by == "wording" else f"{question}\n{answer}"


def _claim(candidate: Candidate) -> Claim:
    group = candidate.group or content_id(normalized(candidate.answer))
    return Claim(wording_id(candidate.question, candidate.context), group, candidate.document.source)


def _example(candidate: Candidate, group: str, split: str) -> Example:
    document = candidate.document
    return Example(
        id=content_id(candidate.context, candidate.question, candidate.answer),
        question=candidate.question,
        answer=candidate.answer,
        context=candidate.context,
        group=group,
        split=split,
        source=document.source,
        location=document.location,
        position=document.position,
        licence=document.licence,
        interval=document.interval,
    )


def _check_sizes(sizes: Mapping[str, int], config: Annotate, out: Path) -> None:
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

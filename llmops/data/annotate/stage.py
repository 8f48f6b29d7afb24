"""annotate: documents to `[Context] [Question] [Answer]` examples, free of personal data and secrets, and split.

The steps are candidates, length, redaction, cutting, quality, split and decontamination. Each step before the split
looks at one candidate alone, so more documents never take a question out of the frozen test (see `split`). A question
that leaves the sources stays in the test, from the ledger of earlier runs (see `past`).
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from llmops import prompts
from llmops.config import Annotate
from llmops.data.annotate import quality
from llmops.data.annotate.candidates import TABLES, Candidate, Wordings, candidates, check, drop, drop_all
from llmops.data.annotate.examples import Candidates, entries, examples, split_items
from llmops.data.annotate.made_up import make_up, only_questions
from llmops.data.annotate.past import TEST, TRAIN, VALIDATION, Ledger, Past
from llmops.data.annotate.redact import Redactor, counts, findings
from llmops.data.row_file import RowFile
from llmops.data.text.sentences import cut, within
from llmops.data.worktables import BATCH, WorkTables, batched
from llmops.frame.errors import LlmopsError
from llmops.frame.records import Document, Dropped, Example, Finding, Row, schema, write_rows

log = logging.getLogger(__name__)

_RULES = "SELECT rule, count(*) AS n FROM dropped GROUP BY rule ORDER BY rule"
# Numbers and names are sorted first, then the texts by the ranks of these.
DROPPED = """
    SELECT dropped.*, r.rank FROM dropped
    JOIN (SELECT number, row_number() OVER (ORDER BY source, id, number) - 1 AS rank
          FROM (SELECT rowid AS number, source, id FROM dropped)) r ON dropped.rowid = r.number"""


def run(config: Annotate, *, clean: Path, out: Path, ledger: Ledger, index: Path | None = None) -> Mapping[str, Any]:
    """Make examples of the documents of a clean artifact.

    Writes `train.parquet`, `validation.parquet`, `test.parquet`, `dropped.parquet`, `findings.parquet` (the redactions)
    and `train.txt` (the annotated text). The same documents, in any order, and the same ledger give the same bytes. The
    new entries are written to the ledger last.

    If an index is given and there are too few test items, or none to train on, nothing is to be trained: there is only
    a test, of its questions so far and of others that are made from passages (see `made_up`).

    Raises:
        LlmopsError: if a template names a source or field that does not exist, too few test items result, or nothing is
            left to train on.
        TransientError: if another run wrote to the ledger meanwhile.
    """
    with WorkTables(out / ".work", TABLES) as work:
        made = Candidates(work, config)
        skipped = _take(clean / "documents", made, work, config)
        past = Past.of(ledger, work)
        items = split_items(made, work, config, past, ledger)
        _write(out / "dropped.parquet", Dropped, work.ranked(DROPPED, work.count("dropped")))
        rows = batched(asdict(finding) for finding in findings(work))
        _write(out / "findings.parquet", Finding, (pa.Table.from_pylist(some, schema(Finding)) for some in rows))
        sizes = Counter(items["split"].to_list())
        rules = {row["rule"]: row["n"] for row in work.rows(_RULES)}
        log.info("annotate: %s; dropped %s; redacted %s", dict(sizes), rules or "nothing", counts(work) or "nothing")
        made_up: list[Example] = []
        if index and (sizes[TEST] < config.min_test_items or not sizes[TRAIN]):
            items = only_questions(items.filter(pl.col("split") == TEST), work)
            made_up = make_up(index, config.min_test_items - len(items), config.seed)
            log.info(
                "annotate: %d test items of %d examples are too few to judge a trained model (annotate.min_test_items: "
                "%d), so nothing is trained; %d test questions are made from passages",
                sizes[TEST],
                sizes.total(),
                config.min_test_items,
                len(made_up),
            )
            sizes = Counter({TEST: len(items) + len(made_up)})
        _check_sizes(sizes, config, out, made_up=len(made_up) if index else None)
        for split in (TRAIN, VALIDATION, TEST):
            tables = (frame.to_arrow() for frame in examples(items, work, split))
            more = [pa.Table.from_pylist(list(map(asdict, made_up)), schema(Example))] if split == TEST else []
            _write(out / f"{split}.parquet", Example, chain(tables, more))
        _write_text(out / "train.txt", examples(items, work, TRAIN))
        new = past.new(items)
        ledger.write(entries(new, work, config))
        first = new.filter(pl.col("split") == TEST).join(past.since, "id", "anti")
        return {
            **{split: sizes[split] for split in (TRAIN, VALIDATION, TEST)},
            "new_test_items": len(first),
            "made_up": len(made_up),
            "groups": items["group"].n_unique(),
            "dropped": rules,
            "skipped_templates": skipped,
            "redactions": counts(work),
        }


def _take(folder: Path, made: Candidates, work: WorkTables, config: Annotate) -> int:
    """Store the candidates of documents; return the number of skipped templates.

    The documents are read in the order of their ids, then the other wordings of known questions follow.
    """
    fields: defaultdict[str, set[str]] = defaultdict(set)
    redactor, wordings, skipped = Redactor(config.redact, work), Wordings(work), 0
    files = sorted(folder.glob("*.parquet"))
    reworded = _any_reworded(files)
    for documents in batched(_documents(files, work)):
        some = candidates(documents, config.templates)
        for source, theirs in some.fields.items():
            fields[source] |= theirs
        skipped += some.skipped
        drop_all(some.dropped, work)
        if reworded:
            wordings.ask(some.wordings)
            wordings.answer(some.candidates)
        made.add(_fit(some.candidates, redactor, work, config, {document.id for document in some.wordings}))
    check(fields, config.templates)
    for rows in wordings.candidates() if reworded else ():
        made.add(_fit(rows, redactor, work, config))
    drop_all(wordings.unknown(), work)
    return skipped


def _documents(files: Sequence[Path], work: WorkTables) -> Iterator[Document]:
    """Yield the documents of a clean artifact, sorted by id. Most artifacts are sorted already."""
    names = [field.name for field in fields(Document)]
    ids = pl.concat(
        [pl.Series("id", [], pl.String), *(pl.read_parquet(path, columns=["id"], glob=False)["id"] for path in files)]
    )
    batches = (b for path in files for b in pq.ParquetFile(path).iter_batches(BATCH, columns=names))
    if not ids.is_sorted():
        ranks = ids.arg_sort().arg_sort().to_numpy().astype(np.int64)
        batches = (b for table in work.sorted(_numbered(batches, ranks), len(ids)) for b in table.to_batches(BATCH))
    for batch in batches:
        for row in batch.select(names).to_pylist():
            yield Document(**row)


def _numbered(batches: Iterable[pa.RecordBatch], ranks: NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in batches:
        yield batch.append_column("rank", pa.array(ranks[start : start + len(batch)]))
        start += len(batch)


def _any_reworded(files: Sequence[Path]) -> bool:
    batches = (batch for path in files for batch in pq.ParquetFile(path).iter_batches(columns=["same_as"]))
    return any(pc.any(pc.not_equal(batch.column("same_as"), "")).as_py() for batch in batches)


def _fit(
    made: Sequence[Candidate], redactor: Redactor, work: WorkTables, config: Annotate, again: Container[str] = ()
) -> list[Candidate]:
    """Drop the candidates that are too long or too bad; return the others, redacted and cut."""
    dropped: list[Dropped] = []
    short = _kept(made, dropped, lambda c: _length_problem(c, config))
    good = _kept([_fitted(c, config) for c in redactor.redacted(short, again)], dropped, _quality_problem)
    drop_all(dropped, work)
    return good


def _kept(
    made: Iterable[Candidate], dropped: list[Dropped], judge: Callable[[Candidate], tuple[str, str] | None]
) -> list[Candidate]:
    """Return the candidates for which `judge` returns None; add the others to `dropped` with its rule and detail."""
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
    """Cut the answer and context of a candidate to their largest lengths.

    Cutting comes after redaction, because a card number that is cut in half would not be recognised as one.
    """
    context = within(candidate.context, config.max_context_chars)
    return replace(candidate, answer=cut(candidate.answer, config.max_answer_sentences), context=context)


def _quality_problem(candidate: Candidate) -> tuple[str, str] | None:
    texts = f"{candidate.question}\n{candidate.answer}\n{candidate.context}"
    if match := prompts.MARKER.search(texts):
        return "prompt_marker", f"it holds {match[0]!r}, which has a meaning in prompts"
    return quality.broken_rule(candidate.question, candidate.answer)


def _write(path: Path, kind: type[Row], batches: Iterable[pa.RecordBatch | pa.Table]) -> None:
    with RowFile(path, schema(kind)) as file:
        for batch in batches:
            file.add(batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch]))
    if not file.rows:
        write_rows(path, (), kind)  # with a row group, as it always was


def _write_text(path: Path, frames: Iterable[pl.DataFrame]) -> None:
    with path.open("w", encoding="utf-8") as text:
        for frame in frames:
            for question, answer, context in frame.select("question", "answer", "context").iter_rows():
                text.write(prompts.annotated(question, answer, context) + "\n")


def _check_sizes(sizes: Mapping[str, int], config: Annotate, out: Path, *, made_up: int | None) -> None:
    without = "With grounding.enabled documents are enough: nothing is trained then. "
    if not sizes[TRAIN] and made_up is not None:
        if sizes[TEST] < config.min_test_items:
            raise LlmopsError(
                f"The sources give only {sizes[TEST] - made_up} test items and the indexed passages {made_up} more, "
                f"but annotate.min_test_items is {config.min_test_items}: raise annotate.test ({config.test}), add "
                f"sources, or lower min_test_items. The dropped examples, with reasons: {out / 'dropped.parquet'}."
            )
        return
    if not sizes[TRAIN]:
        raise LlmopsError(
            f"No example is left to train on (validation {sizes[VALIDATION]}, test {sizes[TEST]}): lower annotate.test "
            f"({config.test}) or add sources. {without}The dropped ones, with reasons: {out / 'dropped.parquet'}."
        )
    if sizes[TEST] < config.min_test_items:
        sources = f" from {', '.join(config.test_sources)}" if config.test_sources else ""
        raise LlmopsError(
            f"Only {sizes[TEST]} test items{sources}, but annotate.min_test_items is {config.min_test_items}: raise "
            f"annotate.test ({config.test}), add data, or lower min_test_items. {sizes[TRAIN]} examples would train. "
            f"{without}The dropped ones, with reasons: {out / 'dropped.parquet'}."
        )
    if not sizes[VALIDATION]:
        log.warning("annotate: no validation items; raise annotate.validation (%s) or add data.", config.validation)

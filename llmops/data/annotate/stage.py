"""annotate: documents to `[Context] [Question] [Answer]` examples, free of personal data and secrets, and split.

The steps are pairing (`qa_pairs`), length, redaction, cutting, quality, split and decontamination. Each step before the
split looks at one pair alone, so more documents never take a question out of the test, which is frozen once drawn (see
`split`). A question that leaves the sources stays in the test, from the ledger of earlier runs (see `split_history`).
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
from llmops.data.annotate.examples import PairStore, make_entries, read_split, split_items
from llmops.data.annotate.out_of_scope import divide_by_scope
from llmops.data.annotate.passage_questions import drop_task_headings, make_passage_questions
from llmops.data.annotate.qa_pairs import (
    TABLES,
    Paraphrases,
    QAPair,
    check_templates,
    make_dropped,
    make_qa_pairs,
    store_dropped,
)
from llmops.data.annotate.redact import Redactor, count_redactions, read_findings
from llmops.data.annotate.split_history import TEST, TRAIN, VALIDATION, Ledger, SplitHistory
from llmops.data.row_file import RowFile
from llmops.data.text.sentences import take_sentences, truncate_text
from llmops.data.work_tables import BATCH_ROWS, WorkTables, make_batches
from llmops.frame.errors import LlmopsError
from llmops.frame.records import (
    OUT_OF_SCOPE_FILE,
    AnyRow,
    Document,
    DroppedRow,
    Example,
    Finding,
    get_schema,
    write_rows,
)

log = logging.getLogger(__name__)

_RULE_COUNTS = "SELECT rule, count(*) AS n FROM dropped GROUP BY rule ORDER BY rule"
# Only row numbers, sources and ids are sorted; the long texts are then fetched by rank.
SORTED_DROPPED = """
    SELECT dropped.*, r.rank FROM dropped
    JOIN (SELECT number, row_number() OVER (ORDER BY source, id, number) - 1 AS rank
          FROM (SELECT rowid AS number, source, id FROM dropped)) r ON dropped.rowid = r.number"""


def run(config: Annotate, *, clean: Path, out: Path, ledger: Ledger, index: Path | None = None) -> Mapping[str, Any]:
    """Make examples of the documents of a clean artifact.

    Writes `train.parquet`, `validation.parquet`, `test.parquet`, `dropped.parquet`, `findings.parquet` (the redactions)
    and `train.txt` (the annotated text); with `config.out_of_scope` also `out_of_scope.parquet`. The same documents, in
    any order, and the same ledger give the same bytes. The new entries are written to the ledger last.

    With `index`, the folder of the retrieval index, nothing is trained if there are too few test items or no training
    items. Then only the test has rows: its real questions, and questions made from passages (see `passage_questions`).

    Raises:
        LlmopsError: if a template names a source or field that does not exist, too few test items result, or nothing is
            left to train on.
        TransientError: if another run wrote to the ledger meanwhile.
    """
    with WorkTables(out / ".work", TABLES) as tables:
        pairs = PairStore(tables, config)
        skipped = _store_pairs(clean / "documents", pairs, tables, config)
        history = SplitHistory.read(ledger, tables)
        all_items = split_items(pairs, tables, config, history, ledger)
        # Written before the sizes are checked, because the errors point to this file.
        _write_batches(
            out / "dropped.parquet", DroppedRow, tables.read_ranked(SORTED_DROPPED, tables.count_rows("dropped"))
        )
        rows = make_batches(asdict(finding) for finding in read_findings(tables))
        findings = (pa.Table.from_pylist(batch, get_schema(Finding)) for batch in rows)
        _write_batches(out / "findings.parquet", Finding, findings)
        items, outside = divide_by_scope(all_items, tables, config.out_of_scope, out)
        sizes = Counter(items["split"].to_list())
        rules = {row["rule"]: row["n"] for row in tables.read_rows(_RULE_COUNTS)}
        redactions = count_redactions(tables)
        log.info("annotate: %s; dropped %s; redacted %s", dict(sizes), rules or "nothing", redactions or "nothing")
        made_up: list[Example] = []
        if index and (sizes[TEST] < config.min_test_items or not sizes[TRAIN]):
            items = drop_task_headings(items.filter(pl.col("split") == TEST), tables)
            made_up = make_passage_questions(index, config.min_test_items - len(items), config.seed)
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
            batches = (frame.to_arrow() for frame in read_split(items, tables, split))
            more = [pa.Table.from_pylist(list(map(asdict, made_up)), get_schema(Example))] if split == TEST else []
            _write_batches(out / f"{split}.parquet", Example, chain(batches, more))
        _write_text(out / "train.txt", read_split(items, tables, TRAIN))
        if config.out_of_scope:
            batches = (frame.to_arrow() for split in (VALIDATION, TEST) for frame in read_split(outside, tables, split))
            _write_batches(out / OUT_OF_SCOPE_FILE, Example, batches)
        new = history.select_new(items)
        ledger.write(make_entries(new, tables, config))
        new_test_items = new.filter(pl.col("split") == TEST).join(history.first_intervals, "id", "anti")
        return {
            **{split: sizes[split] for split in (TRAIN, VALIDATION, TEST)},
            "new_test_items": len(new_test_items),
            "made_up": len(made_up),
            "groups": items["group"].n_unique(),
            **({"out_of_scope": len(outside)} if config.out_of_scope else {}),
            "dropped": rules,
            "skipped_templates": skipped,
            "redactions": redactions,
        }


def _store_pairs(folder: Path, pairs: PairStore, tables: WorkTables, config: Annotate) -> int:
    """Store the question-answer pairs of documents; return the number of skipped templates.

    The documents are read in the order of their ids, then the paraphrases of known questions follow.
    """
    fields: defaultdict[str, set[str]] = defaultdict(set)
    redactor, paraphrases, skipped = Redactor(config.redact, tables), Paraphrases(tables), 0
    files = sorted(folder.glob("*.parquet"))
    has_paraphrases = _has_paraphrases(files)
    for documents in make_batches(_read_documents(files, tables)):
        result = make_qa_pairs(documents, config.templates)
        for source, names in result.fields.items():
            fields[source] |= names
        skipped += result.skipped
        store_dropped(result.dropped, tables)
        if has_paraphrases:
            paraphrases.add_paraphrases(result.paraphrases)
            paraphrases.add_answers(result.pairs)
        paraphrase_ids = {document.id for document in result.paraphrases}
        pairs.add(_filter_pairs(result.pairs, redactor, tables, config, paraphrase_ids))
    check_templates(fields, config.templates)
    for batch in paraphrases.make_pairs() if has_paraphrases else ():
        pairs.add(_filter_pairs(batch, redactor, tables, config))
    store_dropped(paraphrases.drop_unanswered(), tables)
    return skipped


def _read_documents(files: Sequence[Path], tables: WorkTables) -> Iterator[Document]:
    """Yield the documents of a clean artifact, sorted by id. Most artifacts are sorted already."""
    names = [field.name for field in fields(Document)]
    ids = pl.concat(
        [pl.Series("id", [], pl.String), *(pl.read_parquet(path, columns=["id"], glob=False)["id"] for path in files)]
    )
    batches = (b for path in files for b in pq.ParquetFile(path).iter_batches(BATCH_ROWS, columns=names))
    if not ids.is_sorted():
        ranks = ids.arg_sort().arg_sort().to_numpy().astype(np.int64)
        batches = (
            b
            for table in tables.sort_by_rank(_add_ranks(batches, ranks), len(ids))
            for b in table.to_batches(BATCH_ROWS)
        )
    for batch in batches:
        for row in batch.select(names).to_pylist():
            yield Document(**row)


def _add_ranks(batches: Iterable[pa.RecordBatch], ranks: NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in batches:
        yield batch.append_column("rank", pa.array(ranks[start : start + len(batch)]))
        start += len(batch)


def _has_paraphrases(files: Sequence[Path]) -> bool:
    batches = (batch for path in files for batch in pq.ParquetFile(path).iter_batches(columns=["same_as"]))
    return any(pc.any(pc.not_equal(batch.column("same_as"), "")).as_py() for batch in batches)


def _filter_pairs(
    pairs: Sequence[QAPair],
    redactor: Redactor,
    tables: WorkTables,
    config: Annotate,
    unfinished: Container[str] = (),
) -> list[QAPair]:
    """Drop the pairs that are too long or of bad quality; return the others, redacted and cut."""
    dropped: list[DroppedRow] = []
    short = _drop_faulty(pairs, dropped, lambda p: _find_length_problem(p, config))
    redacted = [_cut_texts(p, config) for p in redactor.redact(short, unfinished)]
    good = _drop_faulty(redacted, dropped, _find_quality_problem)
    store_dropped(dropped, tables)
    return good


def _drop_faulty(
    pairs: Iterable[QAPair], dropped: list[DroppedRow], find_problem: Callable[[QAPair], tuple[str, str] | None]
) -> list[QAPair]:
    """Return the pairs without a problem; add the others to `dropped` with the rule and detail of the problem."""
    kept = []
    for pair in pairs:
        if problem := find_problem(pair):
            dropped.append(make_dropped(pair, *problem))
        else:
            kept.append(pair)
    return kept


def _find_length_problem(pair: QAPair, config: Annotate) -> tuple[str, str] | None:
    for name, text, most in (
        ("question", pair.question, config.max_question_chars),
        ("answer", pair.answer, config.max_answer_chars),
    ):
        if len(text) > most:
            return f"{name}_too_long", f"the {name} has {len(text)} characters, more than {most}"
    return None


def _cut_texts(pair: QAPair, config: Annotate) -> QAPair:
    """Cut the answer and context of a pair to their largest lengths.

    Cutting comes after redaction, because a card number that is cut in half would not be recognised as one.
    """
    context = truncate_text(pair.context, config.max_context_chars)
    return replace(pair, answer=take_sentences(pair.answer, config.max_answer_sentences), context=context)


def _find_quality_problem(pair: QAPair) -> tuple[str, str] | None:
    texts = f"{pair.question}\n{pair.answer}\n{pair.context}"
    if match := prompts.TURN_MARK.search(texts):
        return "prompt_marker", f"it holds {match[0]!r}, which has a meaning in prompts"
    return quality.find_broken_rule(pair.question, pair.answer)


def _write_batches(path: Path, kind: type[AnyRow], batches: Iterable[pa.RecordBatch | pa.Table]) -> None:
    with RowFile(path, get_schema(kind)) as file:
        for batch in batches:
            file.add(batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch]))
    if not file.row_count:
        write_rows(path, (), kind)  # with one empty row group, so that the bytes stay the same


def _write_text(path: Path, frames: Iterable[pl.DataFrame]) -> None:
    with path.open("w", encoding="utf-8") as text:
        for frame in frames:
            for question, answer, context in frame.select("question", "answer", "context").iter_rows():
                text.write(prompts.format_example(question, answer, context) + "\n")


def _check_sizes(sizes: Mapping[str, int], config: Annotate, out: Path, *, made_up: int | None) -> None:
    hint = "With grounding.enabled this is no error: the base model answers from the documents. "
    if not sizes[TRAIN] and made_up is not None:
        if not sizes[TEST]:
            raise LlmopsError(
                "The sources give no test item, and no indexed passage has a sentence of 6 to 40 words to ask about: "
                f"add sources. The dropped examples, with reasons: {out / 'dropped.parquet'}."
            )
        if sizes[TEST] < config.min_test_items:
            log.warning("annotate: with only %d test items, the figures of the answers say little", sizes[TEST])
        return
    if not sizes[TRAIN]:
        raise LlmopsError(
            f"No example is left to train on (validation {sizes[VALIDATION]}, test {sizes[TEST]}): lower annotate.test "
            f"({config.test}) or add sources. {hint}The dropped ones, with reasons: {out / 'dropped.parquet'}."
        )
    if sizes[TEST] < config.min_test_items:
        sources = f" from {', '.join(config.test_sources)}" if config.test_sources else ""
        raise LlmopsError(
            f"Only {sizes[TEST]} test items{sources}, but annotate.min_test_items is {config.min_test_items}: raise "
            f"annotate.test ({config.test}), add data, or lower min_test_items. {sizes[TRAIN]} examples would train. "
            f"{hint}The dropped ones, with reasons: {out / 'dropped.parquet'}."
        )
    if not sizes[VALIDATION]:
        log.warning("annotate: no validation items; raise annotate.validation (%s) or add data.", config.validation)

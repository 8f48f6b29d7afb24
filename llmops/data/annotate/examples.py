"""Turn question-answer pairs into examples.

Each example is in the split that earlier runs allow, and none is too close to a held-out one (see `drop_overlaps`).

Decisions need only numbers, some 40 bytes per pair. The texts stay in the temporary tables of the run.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from llmops.config import Annotate
from llmops.data.annotate.drop_overlaps import drop_contaminated, drop_trained_before
from llmops.data.annotate.qa_pairs import QAPair, drop_stored_pairs
from llmops.data.annotate.redact import Redactor
from llmops.data.annotate.split import SPLIT_ENUM, GroupedQuestion, assign_splits, hash_questions
from llmops.data.annotate.split_history import (
    TEST,
    TEXT_SEPARATOR,
    TRAIN,
    VALIDATION,
    Ledger,
    SplitEntry,
    SplitHistory,
    hash_text,
    make_compared_sql,
    make_shown_sql,
)
from llmops.data.text.normalization import hash_wording, normalize_text
from llmops.data.work_tables import WorkTables, make_batches
from llmops.frame.records import Document, Example, add_date, make_content_id

_EXAMPLE_COLUMNS = (
    "id",
    "question",
    "answer",
    "context",
    "group",
    "split",
    "source",
    "location",
    "position",
    "licence",
)
_ITEM_COLUMNS = ("row", "id", "wording", "group", "split")


class PairStore:
    """The pairs of a run: their texts in a table, and the numbers that decide on each."""

    def __init__(self, tables: WorkTables, config: Annotate) -> None:
        self._tables, self._config = tables, config
        self._numbers: list[pl.DataFrame] = []
        self._count = 0

    def add(self, pairs: Sequence[QAPair]) -> None:
        """Add pairs, in their order."""
        questions = [_make_grouped_question(p) for p in pairs]
        answers = pl.Series(
            "answer", [hash_text(normalize_text(p.answer, keep_closing=False)) for p in pairs], dtype=pl.UInt64
        )
        stored = self.store_texts(pairs, [one.group for one in questions], [one.wording for one in questions])
        numbers = hash_questions(questions, self._config).drop("wording", "group")
        self._numbers.append(pl.concat([stored, numbers, answers.to_frame()], how="horizontal"))

    def store_texts(self, pairs: Sequence[QAPair], groups: Sequence[str], wordings: Sequence[str]) -> pl.DataFrame:
        """Store the texts of pairs without adding them to the pairs to be split.

        Returns:
            Their `row`, `id`, `wording` and `group` as numbers.
        """
        ids = [make_content_id(p.context, p.question, p.answer) for p in pairs]
        rows = range(self._count, self._count + len(pairs))
        self._count += len(pairs)
        self._tables.add(
            "qa_pairs",
            [
                {
                    "row": row, "document": p.document.id, "source": p.document.source, "licence": p.document.licence,
                    "location": p.document.location, "position": p.document.position, "id": id_, "wording": wording,
                    "question": p.question, "answer": p.answer, "context": p.context, "group": group,
                    "question_values": p.values[0] if p.values else None,
                    "answer_values": p.values[1] if p.values else None,
                    "documents": p.documents or p.document.id,
                }
                for row, p, id_, group, wording in zip(rows, pairs, ids, groups, wordings, strict=True)
            ],
        )  # fmt: skip
        return pl.DataFrame(
            {
                "row": pl.Series(rows, dtype=pl.Int64),
                "id": pl.Series([int(id_, 16) for id_ in ids], dtype=pl.UInt64),
                "wording": pl.Series(map(hash_text, wordings), dtype=pl.UInt64),
                "group": pl.Series(map(hash_text, groups), dtype=pl.UInt64),
            }
        )

    @property
    def numbers(self) -> pl.DataFrame:
        """Return the numbers of all added pairs.

        They are `row`, `id`, `wording`, `group`, `fraction`, `from_test_source` and the hash of the `answer`.
        """
        if not self._numbers:
            self.add(())
        return pl.concat(self._numbers)


def split_items(
    pairs: PairStore, tables: WorkTables, config: Annotate, history: SplitHistory, ledger: Ledger
) -> pl.DataFrame:
    """Return the examples of a run, sorted by id. The other pairs are dropped, each with a rule.

    Returns:
        `row` in the table of pairs, `id`, `wording` and `group` as numbers, `split` and `interval`.
    """
    items = _keep_assigned(pairs.numbers, tables, config, history)
    items = drop_trained_before(items, tables, config, history, ledger)
    items = pl.concat([items, *_carry_over_tested(items, pairs, tables, config, history)])
    items = items.sort("id", "row")
    items = items.join(history.first_intervals, "id", "left", maintain_order="left").with_columns(
        pl.col("interval").fill_null(ledger.interval)
    )
    return drop_contaminated(items, tables, config, history)


def read_split(
    items: pl.DataFrame, tables: WorkTables, split: str, extra_columns: Sequence[str] = ()
) -> Iterator[pl.DataFrame]:
    """Yield the examples of one split of `split_items` in batches, sorted by id, with the fields of `Example`.

    `extra_columns` are SQL expressions on the table of pairs `p`.
    """
    chosen = items.filter(pl.col("split") == split).sort("id", "row").select("row", "split", "interval")
    chosen = chosen.with_columns(pl.col("split").cast(pl.String), pl.int_range(pl.len()).alias("rank"))
    columns = [f'{"chosen" if name == "split" else "p"}."{name}"' for name in _EXAMPLE_COLUMNS]
    columns += ["interval", "rank", *extra_columns]
    tables.replace("chosen", chosen.to_arrow())
    query = f"SELECT {', '.join(columns)} FROM qa_pairs p JOIN chosen USING (row)"
    for table in tables.read_ranked(query, len(chosen)):
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        yield frame


def make_entries(new: pl.DataFrame, tables: WorkTables, config: Annotate) -> Iterator[SplitEntry]:
    """Yield the ledger entries of new items."""
    extra_columns = (
        "p.documents",
        "p.wording",
        f"{make_compared_sql(config)} AS compared",
        f"{make_shown_sql(config)} AS shown",
        "p.question_values IS NOT NULL AS templated",
    )
    for split in (TRAIN, VALIDATION, TEST):
        for frame in read_split(new, tables, split, extra_columns):
            for row in frame.iter_rows(named=True):
                yield _make_entry(row)


def _keep_assigned(numbers: pl.DataFrame, tables: WorkTables, config: Annotate, history: SplitHistory) -> pl.DataFrame:
    """Return an item for each pair whose question is kept in a split, and drop the others.

    A question is kept in one group only: in two groups it could be in two splits at once.
    """
    questions = numbers.with_columns(assign_splits(numbers, config, history))
    kept = questions.drop_nulls("split")
    first = kept.group_by("wording", "answer").agg(pl.col("row").min().alias("twin"))
    groups = kept.unique("wording").select("wording", its_group="group")
    questions = questions.join(first, ["wording", "answer"], "left").join(groups, "wording", "left").sort("row")
    items = questions.filter(pl.col("twin") == pl.col("row")).select(_ITEM_COLUMNS)
    trained, tested, later = (
        some["wording"].implode() for some in (history.trained, history.tested, history.tested_later)
    )
    wording = pl.col("wording")
    reasons = (
        pl.when(pl.col("twin").is_not_null())
        .then(_make_reason("duplicate", "the same question and answer as in "))
        .when(pl.col("its_group") != pl.col("group"))
        .then(_make_reason("conflict", "the question is answered otherwise in another group, which has it"))
        .when(wording.is_in(trained))
        .then(_make_reason("trained_before", "its group is tested, but the question has been trained on"))
        .when(wording.is_in(tested) | wording.is_in(later))
        .then(_make_reason("held_out", "the question is tested, if not here, then on another day"))
        .when(pl.lit(config.split_by == "group") | pl.col("its_group").is_not_null())
        .then(_make_reason("held_out", "its group is tested, and its source is not in test_sources"))
        .otherwise(_make_reason("held_out", "a test source's only wording in its group: there is none to train on"))
    )
    others = questions.filter(pl.col("twin").is_null() | (pl.col("twin") != pl.col("row")))
    drop_stored_pairs(others.select("row", "twin", reasons.alias("reason")).unnest("reason"), tables)
    return items


def _carry_over_tested(
    items: pl.DataFrame, pairs: PairStore, tables: WorkTables, config: Annotate, history: SplitHistory
) -> Iterator[pl.DataFrame]:
    """Yield tested examples of earlier runs that nothing replaces in this run, redacted by today's rules."""
    tested = items.filter(pl.col("split") == TEST)
    unreplaced = history.find_unreplaced(tested, tables)
    redactor = Redactor(config.redact)
    known_ids = tested["id"]
    for entries in make_batches(history.read_tested_entries(unreplaced, tables)):
        redacted = redactor.redact([_make_pair(entry) for entry in entries])
        carried = pairs.store_texts(redacted, [p.group for p in redacted], [entry.wording for entry in entries])
        new = carried.filter(~pl.col("id").is_in(known_ids.implode())).unique("id", keep="last", maintain_order=True)
        known_ids = pl.concat([known_ids, new["id"]])
        yield new.with_columns(pl.lit(TEST, SPLIT_ENUM).alias("split")).select(_ITEM_COLUMNS)


def _make_reason(rule: str, detail: str) -> pl.Expr:
    return pl.struct(pl.lit(rule).alias("rule"), pl.lit(detail).alias("detail"))


def _make_grouped_question(pair: QAPair) -> GroupedQuestion:
    group = pair.group or make_content_id(normalize_text(pair.answer, keep_closing=False))
    return GroupedQuestion(hash_wording(pair.question, pair.context), group, pair.document.source)


def _make_entry(row: dict[str, Any]) -> SplitEntry:
    example = Example(**{name: row[name] for name in (*_EXAMPLE_COLUMNS, "interval")})
    shown = TEXT_SEPARATOR + row["shown"] if row["templated"] and example.split != TEST else ""
    return SplitEntry(
        run=0,
        interval=example.interval,
        id=example.id,
        wording=row["wording"],
        group=example.group,
        split=example.split,
        compared=row["compared"] + shown,
        example=example if example.split == TEST else None,
        documents=row["documents"],
    )


def _make_pair(entry: SplitEntry) -> QAPair:
    e = entry.example
    assert e
    position = add_date(e.position, entry.interval)
    document = Document(
        id=entry.id, source=e.source, location=e.location, position=position, licence=e.licence, group=entry.group
    )
    # The stored compared text stands for the question's values, so that `make_compared_sql` gives it again. If answers
    # are compared, too, a line end is added, which `drop_overlaps` ignores.
    values = (entry.compared, "")
    return QAPair(document, e.question, e.answer, e.context, entry.group, values, entry.documents)

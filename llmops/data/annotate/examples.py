"""Turn candidates into examples: each in the split that earlier runs allow, none too close to a held-out one.

Decisions need only numbers, some 40 bytes per candidate. The texts stay in the tables of the run (`work`).
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import polars as pl

from llmops.config import Annotate
from llmops.data.annotate.candidates import Candidate, drop_rows
from llmops.data.annotate.decontaminate import in_batches, overlaps_of, same_words
from llmops.data.annotate.past import SHOWN, TEST, TRAIN, VALIDATION, Entry, Ledger, Past, compared, key, shown_text
from llmops.data.annotate.redact import Redactor
from llmops.data.annotate.split import SPLIT, Claim, keyed, splits
from llmops.data.text.comparable import comparable, wording_id
from llmops.data.worktables import BATCH, WorkTables, batched
from llmops.frame.records import Document, Example, as_of, content_id

_COLUMNS = ("id", "question", "answer", "context", "group", "split", "source", "location", "position", "licence")
_ITEM = ("row", "id", "wording", "group", "split")
_FROM = {"row": "candidates", "number": "tested"}  #: key of an example → its table


class Candidates:
    """The candidates of a run: their texts in a table, and the numbers of each that decide on it."""

    def __init__(self, work: WorkTables, config: Annotate) -> None:
        self._work, self._config = work, config
        self._keys: list[pl.DataFrame] = []
        self._count = 0

    def add(self, made: Sequence[Candidate]) -> None:
        """Add candidates, in their order."""
        claims = [_claim(c) for c in made]
        answers = pl.Series("answer", [key(comparable(c.answer, closing=False)) for c in made], dtype=pl.UInt64)
        stored = self.store(made, [claim.group for claim in claims], [claim.wording for claim in claims])
        numbers = keyed(claims, self._config).drop("wording", "group")
        self._keys.append(pl.concat([stored, numbers, answers.to_frame()], how="horizontal"))

    def store(self, made: Sequence[Candidate], groups: Sequence[str], wordings: Sequence[str]) -> pl.DataFrame:
        """Store the texts of candidates; return their `row`, `id`, `wording` and `group` as numbers."""
        ids = [content_id(c.context, c.question, c.answer) for c in made]
        rows = range(self._count, self._count + len(made))
        self._count += len(made)
        self._work.add(
            "candidates",
            [
                {
                    "row": row, "document": c.document.id, "source": c.document.source, "licence": c.document.licence,
                    "location": c.document.location, "position": c.document.position, "id": id_, "wording": wording,
                    "question": c.question, "answer": c.answer, "context": c.context, "group": group,
                    "own_question": c.own[0] if c.own else None, "own_answer": c.own[1] if c.own else None,
                    "documents": c.documents or c.document.id,
                }
                for row, c, id_, group, wording in zip(rows, made, ids, groups, wordings, strict=True)
            ],
        )  # fmt: skip
        return pl.DataFrame(
            {
                "row": pl.Series(rows, dtype=pl.Int64),
                "id": pl.Series([int(id_, 16) for id_ in ids], dtype=pl.UInt64),
                "wording": pl.Series(map(key, wordings), dtype=pl.UInt64),
                "group": pl.Series(map(key, groups), dtype=pl.UInt64),
            }
        )

    @property
    def keys(self) -> pl.DataFrame:
        """Return `row`, `id`, `wording`, `group`, `fraction`, `testable` and `answer` of all candidates, as numbers."""
        if not self._keys:
            self.add(())
        return pl.concat(self._keys)


def split_items(made: Candidates, work: WorkTables, config: Annotate, past: Past, ledger: Ledger) -> pl.DataFrame:
    """Return the examples of a run, sorted by id. The other candidates are dropped, each with a rule.

    Returns:
        `row` in the table of candidates, `id`, `wording` and `group` as numbers, `split` and `interval`.
    """
    items = _admitted(_assigned(made.keys, work, config, past), work, config, past, ledger)
    items = pl.concat([items, *_carried(items, made, work, config, past)])
    items = items.sort("id", "row")
    items = items.join(past.since, "id", "left", maintain_order="left").with_columns(
        pl.col("interval").fill_null(ledger.interval)
    )
    return _decontaminated(items, work, config, past)


def examples(items: pl.DataFrame, work: WorkTables, split: str, more: str = "") -> Iterator[pl.DataFrame]:
    """Yield the examples of one split of `split_items` in batches, sorted by id, with the fields of `Example`.

    `more` are further columns of the table of candidates `c`, in SQL.
    """
    chosen = items.filter(pl.col("split") == split).sort("id", "row").select("row", "split", "interval")
    chosen = chosen.with_columns(pl.col("split").cast(pl.String), pl.int_range(pl.len()).alias("rank"))
    columns = ", ".join(f'{"chosen" if name == "split" else "c"}."{name}"' for name in _COLUMNS)
    work.replace("chosen", chosen.to_arrow())
    query = f"SELECT {columns}, interval, rank{more} FROM candidates c JOIN chosen USING (row)"
    for table in work.ranked(query, len(chosen)):
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        yield frame


def entries(new: pl.DataFrame, work: WorkTables, config: Annotate) -> Iterator[Entry]:
    """Yield the ledger entries of new items."""
    rendered = "c.own_question IS NOT NULL AS rendered"
    more = f", c.documents, c.wording, {compared(config)} AS compared, {shown_text(config)} AS shown, {rendered}"
    for split in (TRAIN, VALIDATION, TEST):
        for frame in examples(new, work, split, more):
            for row in frame.iter_rows(named=True):
                yield _entry(row)


def _assigned(keys: pl.DataFrame, work: WorkTables, config: Annotate, past: Past) -> pl.DataFrame:
    """Return an item for each candidate whose claim is upheld, and drop the others.

    A question is kept in one group only: in two groups it could be in two splits at once.
    """
    claims = keys.with_columns(splits(keys, config, past))
    upheld = claims.drop_nulls("split")
    first = upheld.group_by("wording", "answer").agg(pl.col("row").min().alias("twin"))
    groups = upheld.unique("wording").select("wording", its_group="group")
    claims = claims.join(first, ["wording", "answer"], "left").join(groups, "wording", "left").sort("row")
    items = claims.filter(pl.col("twin") == pl.col("row")).select(_ITEM)
    trained, tested, later = (some["wording"].implode() for some in (past.used, past.tested, past.later))
    wording = pl.col("wording")
    reasons = (
        pl.when(pl.col("twin").is_not_null())
        .then(_reason("duplicate", "the same question and answer as in "))
        .when(pl.col("its_group") != pl.col("group"))
        .then(_reason("conflict", "the question is answered otherwise in another group, which has it"))
        .when(wording.is_in(trained))
        .then(_reason("trained_before", "its group is tested, but the question has been trained on"))
        .when(wording.is_in(tested) | wording.is_in(later))
        .then(_reason("held_out", "the question is tested, if not here, then on another day"))
        .when(pl.lit(config.split_by == "group") | pl.col("its_group").is_not_null())
        .then(_reason("held_out", "its group is tested, and its source is not in test_sources"))
        .otherwise(_reason("held_out", "a test source's only wording in its group: there is none to train on"))
    )
    others = claims.filter(pl.col("twin").is_null() | (pl.col("twin") != pl.col("row")))
    drop_rows(others.select("row", "twin", reasons.alias("reason")).unnest("reason"), work)
    return items


def _admitted(items: pl.DataFrame, work: WorkTables, config: Annotate, past: Past, ledger: Ledger) -> pl.DataFrame:
    """Drop items that would be new in the test but are too close to an earlier training's texts; return the rest."""
    tested = items.filter(pl.col("split") == TEST)
    left = tested.join(past.tested, ["wording", "id"], "anti", maintain_order="left").select("row")
    refused: dict[int, str] = {}
    for texts in ledger.trained() if len(left) else ():
        made = _rendered(left, work, config)
        same = same_words(_texts(made["row"], work, config, shown=True), in_batches(texts))
        close = overlaps_of(partial(_texts, left["row"], work, config), in_batches(texts))
        for rows, hits in ((made["row"], same), (left["row"], close)):
            refused |= {rows[index]: shared for index, (_, shared) in hits.items()}
        left = left.filter(~pl.col("row").is_in(list(refused)))
    details = [f"shares {shared}, with what has been trained on, so it cannot be tested" for shared in refused.values()]
    return _without(items, list(refused), "trained_before", details, work)


def _carried(
    items: pl.DataFrame, made: Candidates, work: WorkTables, config: Annotate, past: Past
) -> Iterator[pl.DataFrame]:
    """Yield tested examples of earlier runs whose question no source asks in this run, redacted by today's rules."""
    tested = items.filter(pl.col("split") == TEST)
    old = past.left(tested, work)
    redactor = Redactor(config.redact)
    there = tested["id"]
    for some in batched(past.tested_entries(old, work)):
        found = redactor.redacted([_candidate(entry) for entry in some])
        carried = made.store(found, [c.group for c in found], [entry.wording for entry in some])
        new = carried.filter(~pl.col("id").is_in(there.implode())).unique("id", keep="last", maintain_order=True)
        there = pl.concat([there, new["id"]])
        yield new.with_columns(pl.lit(TEST, SPLIT).alias("split")).select(_ITEM)


def _decontaminated(items: pl.DataFrame, work: WorkTables, config: Annotate, past: Past) -> pl.DataFrame:
    """Drop the items that would give held-out ones away; return the rest.

    Validation loses items that are too close to the test of now, of earlier runs or of later intervals. Training loses
    these too, and items that are too close to validation.
    """
    now = items.filter(pl.col("split") == TEST)["id"]
    versions = past.versions.filter(~pl.col("id").is_in(now.implode()))
    for split, others in ((VALIDATION, (TEST,)), (TRAIN, (TEST, VALIDATION))):
        held = [items.filter(pl.col("split") == other).select("id", "row", "split") for other in others]
        names = pl.concat([*held, versions.with_columns(split=pl.lit(TEST, SPLIT))], how="diagonal")
        rows, made = items.filter(pl.col("split") == split).select("row"), _rendered(names, work, config)
        texts = chain(_said(names, work, config), _said(made, work, config, shown=True))
        close = overlaps_of(partial(_texts, rows["row"], work, config), texts)
        found = {rows["row"][index]: hit for index, hit in close.items()}
        rows = _rendered(rows, work, config)
        if len(rows):
            shown = _texts(rows["row"], work, config, shown=True)
            same = same_words(shown, _said(names, work, config, shown=True))
            found = {rows["row"][index]: hit for index, hit in same.items()} | found
        names, details = pl.concat([names, made]).select("split", "id"), []
        for other, shared in found.values():
            details.append("shares {}, with the {} item {:016x}".format(shared, *names.row(other)))
        items = _without(items, [*found], "contaminated", details, work)
    return items


def _rendered(some: pl.DataFrame, work: WorkTables, config: Annotate) -> pl.DataFrame:
    """Return the examples that a template made. Their compared text differs from the shown one.

    Each has its `row` among the candidates, or its `number` among the earlier tested ones.
    """
    for name in _FROM.keys() & set(some.columns):
        work.replace("these", some.select(name).drop_nulls().to_arrow())
        query = f"SELECT {name} FROM {_FROM[name]} c JOIN these USING ({name})"
        same = work.frame(f"{query} WHERE rtrim({_of(name, config)}, chr(10)) = rtrim({shown_text(config)}, chr(10))")
        some = some.join(same.cast({name: some[name].dtype}), name, "anti", maintain_order="left")
    return some


def _said(some: pl.DataFrame, work: WorkTables, config: Annotate, *, shown: bool = False) -> Iterator[pl.Series]:
    """Yield the texts of examples from `_rendered`: first of those with a row, then of those with a number."""
    for name in _FROM:
        yield from _texts(some[name].drop_nulls(), work, config, shown=shown)


def _texts(keys: pl.Series, work: WorkTables, config: Annotate, *, shown: bool = False) -> Iterator[pl.Series]:
    """Yield the texts of examples in the order of `keys`: the compared texts, or the shown ones if `shown`."""
    name = keys.name
    ranks = pl.DataFrame({name: keys, "rank": range(len(keys))}, {"rank": pl.Int64, name: keys.dtype})
    work.replace("ranks", ranks.to_arrow())
    text = shown_text(config) if shown else _of(name, config)
    for texts in work.ranked(f"SELECT {text} AS text, rank FROM {_FROM[name]} c JOIN ranks USING ({name})", len(keys)):
        for start in range(0, len(texts), BATCH):
            yield pl.Series("text", texts["text"][start : start + BATCH])


def _of(name: str, config: Annotate) -> str:
    return compared(config) if name == "row" else "c.compared"


def _reason(rule: str, detail: str) -> pl.Expr:
    return pl.struct(pl.lit(rule).alias("rule"), pl.lit(detail).alias("detail"))


def _without(items: pl.DataFrame, rows: list[int], rule: str, details: list[str], work: WorkTables) -> pl.DataFrame:
    columns = {"row": pl.Series(rows, dtype=pl.Int64), "detail": pl.Series(details, dtype=pl.String)}
    drop_rows(pl.DataFrame(columns).with_columns(rule=pl.lit(rule), twin=pl.lit(None, pl.Int64)), work)
    return items.filter(~pl.col("row").is_in(columns["row"].implode()))


def _claim(candidate: Candidate) -> Claim:
    group = candidate.group or content_id(comparable(candidate.answer, closing=False))
    return Claim(wording_id(candidate.question, candidate.context), group, candidate.document.source)


def _entry(row: dict[str, Any]) -> Entry:
    example = Example(**{name: row[name] for name in (*_COLUMNS, "interval")})
    return Entry(
        run=0,
        interval=example.interval,
        id=example.id,
        wording=row["wording"],
        group=example.group,
        split=example.split,
        compared=row["compared"] + (SHOWN + row["shown"] if row["rendered"] and example.split != TEST else ""),
        example=example if example.split == TEST else None,
        documents=row["documents"],
    )


def _candidate(entry: Entry) -> Candidate:
    e = entry.example
    assert e
    position = as_of(e.position, entry.interval)
    document = Document(
        id=entry.id, source=e.source, location=e.location, position=position, licence=e.licence, group=entry.group
    )
    return Candidate(document, e.question, e.answer, e.context, entry.group, (entry.compared, ""), entry.documents)

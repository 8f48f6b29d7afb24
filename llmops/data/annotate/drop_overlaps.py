"""Drop examples that are too close to others: new test items to trained texts, and training items to held-out ones.

An item is a pair of this run, with its `row` in the table of pairs, or a tested entry of an earlier run, with its
`number` in the table `tested`. Both kinds can be in one frame, which then has both columns; one of them is null.

Each item has a compared text and a shown one (see `make_compared_sql`). An item is templated if a template made it and
the two therefore differ: the row's values are compared, and readers are shown them among the template's words.
"""

from collections.abc import Iterator
from itertools import chain

import polars as pl

from llmops.config import Annotate
from llmops.data.annotate.decontaminate import find_overlaps, find_same_words, split_into_batches
from llmops.data.annotate.qa_pairs import drop_stored_pairs
from llmops.data.annotate.split import SPLIT_ENUM
from llmops.data.annotate.split_history import (
    TEST,
    TRAIN,
    VALIDATION,
    Ledger,
    SplitHistory,
    make_compared_sql,
    make_shown_sql,
)
from llmops.data.work_tables import BATCH_ROWS, WorkTables

_KEY_TABLES = {"row": "qa_pairs", "number": "tested"}  #: key column of an item → its table


def drop_trained_before(
    items: pl.DataFrame, tables: WorkTables, config: Annotate, history: SplitHistory, ledger: Ledger
) -> pl.DataFrame:
    """Drop items that would be new in the test but are too close to an earlier training's texts; return the rest."""
    tested = items.filter(pl.col("split") == TEST)
    remaining = tested.join(history.tested, ["wording", "id"], "anti", maintain_order="left").select("row")
    refused: dict[int, str] = {}
    for texts in ledger.read_trained_texts() if len(remaining) else ():
        templated = _select_templated(remaining, tables, config)
        same = find_same_words(_read_texts(templated["row"], tables, config, shown=True), split_into_batches(texts))
        close = find_overlaps(_read_texts(remaining["row"], tables, config), split_into_batches(texts))
        for rows, overlaps in ((templated["row"], same), (remaining["row"], close)):
            refused |= {rows[index]: overlap.shared for index, overlap in overlaps.items()}
        remaining = remaining.filter(~pl.col("row").is_in(list(refused)))
    details = [f"shares {shared}, with what has been trained on, so it cannot be tested" for shared in refused.values()]
    return _drop_items(items, list(refused), "trained_before", details, tables)


def drop_contaminated(items: pl.DataFrame, tables: WorkTables, config: Annotate, history: SplitHistory) -> pl.DataFrame:
    """Drop the items that would give held-out ones away; return the rest.

    Validation loses items that are too close to the test of now, of earlier runs or of later intervals. Training loses
    these too, and items that are too close to validation.

    Items are compared by their compared texts, which finds near duplicates. Templated items are also compared by their
    shown texts: a held-out one with the compared texts of all items, and an item to keep or drop with the shown texts
    of all held-out ones, where only the same words count.
    """
    tested_now = items.filter(pl.col("split") == TEST)["id"]
    tested_else = history.ever_tested.filter(~pl.col("id").is_in(tested_now.implode()))
    for split, others in ((VALIDATION, (TEST,)), (TRAIN, (TEST, VALIDATION))):
        held_out = pl.concat(
            [
                *(items.filter(pl.col("split") == other).select("id", "row", "split") for other in others),
                tested_else.with_columns(split=pl.lit(TEST, SPLIT_ENUM)),
            ],
            how="diagonal",
        )
        templated_held_out = _select_templated(held_out, tables, config)
        # `other` of an overlap counts the texts in this order: those of `held_out`, then those of `templated_held_out`,
        # each with its rows first, then its numbers. `names` has the same order.
        texts = chain(
            _read_all_texts(held_out, tables, config), _read_all_texts(templated_held_out, tables, config, shown=True)
        )
        names, details = pl.concat([held_out, templated_held_out]).select("split", "id"), []
        rows = items.filter(pl.col("split") == split).select("row")
        close = find_overlaps(_read_texts(rows["row"], tables, config), texts)
        found = {rows["row"][index]: overlap for index, overlap in close.items()}
        templated = _select_templated(rows, tables, config)
        if len(templated):
            shown = _read_texts(templated["row"], tables, config, shown=True)
            same = find_same_words(shown, _read_all_texts(held_out, tables, config, shown=True))
            found = {templated["row"][index]: overlap for index, overlap in same.items()} | found
        for overlap in found.values():
            details.append("shares {}, with the {} item {:016x}".format(overlap.shared, *names.row(overlap.other)))
        items = _drop_items(items, [*found], "contaminated", details, tables)
    return items


def _select_templated(items: pl.DataFrame, tables: WorkTables, config: Annotate) -> pl.DataFrame:
    """Return the items whose compared text differs from the shown one, apart from line ends, in the same order."""
    for key in _KEY_TABLES.keys() & set(items.columns):
        tables.replace("these", items.select(key).drop_nulls().to_arrow())
        query = f"SELECT {key} FROM {_KEY_TABLES[key]} p JOIN these USING ({key})"
        compared, shown = _get_compared_sql(key, config), make_shown_sql(config)
        same = tables.read_frame(f"{query} WHERE rtrim({compared}, chr(10)) = rtrim({shown}, chr(10))")
        items = items.join(same.cast({key: items[key].dtype}), key, "anti", maintain_order="left")
    return items


def _read_all_texts(
    items: pl.DataFrame, tables: WorkTables, config: Annotate, *, shown: bool = False
) -> Iterator[pl.Series]:
    """Yield the texts of items as `_read_texts` does: first of those with a row, then of those with a number."""
    for key in _KEY_TABLES:
        yield from _read_texts(items[key].drop_nulls(), tables, config, shown=shown)


def _read_texts(keys: pl.Series, tables: WorkTables, config: Annotate, *, shown: bool = False) -> Iterator[pl.Series]:
    """Yield the texts of items in the order of `keys`: the compared texts, or the shown ones if `shown`.

    `keys` is a series of rows or of numbers, as its name says.
    """
    key = keys.name
    ranks = pl.DataFrame({key: keys, "rank": range(len(keys))}, {"rank": pl.Int64, key: keys.dtype})
    tables.replace("ranks", ranks.to_arrow())
    text = make_shown_sql(config) if shown else _get_compared_sql(key, config)
    query = f"SELECT {text} AS text, rank FROM {_KEY_TABLES[key]} p JOIN ranks USING ({key})"
    for texts in tables.read_ranked(query, len(keys)):
        for start in range(0, len(texts), BATCH_ROWS):
            yield pl.Series("text", texts["text"][start : start + BATCH_ROWS])


def _get_compared_sql(key: str, config: Annotate) -> str:
    return make_compared_sql(config) if key == "row" else "p.compared"


def _drop_items(
    items: pl.DataFrame, rows: list[int], rule: str, details: list[str], tables: WorkTables
) -> pl.DataFrame:
    columns = {"row": pl.Series(rows, dtype=pl.Int64), "detail": pl.Series(details, dtype=pl.String)}
    drop_stored_pairs(pl.DataFrame(columns).with_columns(rule=pl.lit(rule), twin=pl.lit(None, pl.Int64)), tables)
    return items.filter(~pl.col("row").is_in(columns["row"].implode()))

"""Texts that belong to no label: they train nothing, but choose and measure the threshold of a classifier."""

from pathlib import Path

import polars as pl

from llmops.data.annotate.split import SPLIT_ENUM
from llmops.data.annotate.split_history import TEST, VALIDATION
from llmops.data.work_tables import WorkTables
from llmops.frame.errors import LlmopsError


def divide_by_scope(
    items: pl.DataFrame, tables: WorkTables, label: str, out: Path
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the items of `split_items` without those of the out-of-scope label, and these by themselves.

    Of the latter, those of the test measure the threshold, and all others choose it and get the split `validation`. If
    all are in the test, or none is, every second one measures it, by ids.

    Raises:
        LlmopsError: if no item has the label, because its name is wrong then.
    """
    if not label:
        return items, items.clear()
    quoted = label.replace("'", "''")
    rows = tables.read_frame(f"SELECT row FROM qa_pairs WHERE answer = '{quoted}'")["row"]
    is_outside = pl.col("row").is_in(rows.implode())
    outside = items.filter(is_outside)
    if not len(outside):
        raise LlmopsError(
            f"annotate.out_of_scope is {label!r}, but no example has this label: write it as in the sources, or leave "
            f"the setting out. The dropped examples, with reasons: {out / 'dropped.parquet'}."
        )
    measures = pl.col("split") == TEST
    if outside.select(measures.n_unique()).item() == 1:
        measures = pl.col("id") % 2 == 0
    split = pl.when(measures).then(pl.lit(TEST)).otherwise(pl.lit(VALIDATION)).cast(SPLIT_ENUM)
    return items.filter(~is_outside), outside.with_columns(split=split)

"""Files and slices cover every document once."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.clean.partitioning import Partitioning

IDS = st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=50)


@given(IDS, st.integers(1, 40), st.integers(1, 6))
def test_every_row_is_in_one_slice_of_one_file(ids: list[int], files: int, slices_per_file: int) -> None:
    chosen, rows = (
        Partitioning(1, files, slices_per_file),
        pl.DataFrame({"row": pl.Series(sorted(ids), dtype=pl.Int64)}),
    )
    tables = list(chosen.split_by_file(rows))
    found = [table[at] for file, table in enumerate(tables) for at in chosen.find_slices(file, table["row"])]
    assert len(tables) == files and len(found) == files * slices_per_file
    assert pl.concat(found).equals(rows) and pl.concat(tables).equals(rows)


def test_a_file_is_for_so_many_rows() -> None:
    assert [Partitioning.choose(9, rows, 100_000, 5).files for rows in (0, 1, 140_000, 160_000)] == [1, 1, 1, 2]

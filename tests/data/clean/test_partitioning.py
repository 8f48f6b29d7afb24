"""Parts, ranges, files and slices cover every document once; the number of reads grows as the parts do."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.clean.partitioning import Partitioning

IDS = st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=50).map(
    lambda ids: pl.Series(sorted(ids), dtype=pl.Int64)
)


@given(IDS, st.integers(1, 40), st.integers(1, 40), st.integers(1, 6), st.integers(1, 7))
def test_every_row_is_in_one_slice_of_one_file(
    ids: list[int], row_groups: int, files: int, slices_per_file: int, fan_out: int
) -> None:
    chosen, rows = Partitioning(row_groups, files, slices_per_file, fan_out), pl.Series(sorted(ids), dtype=pl.Int64)
    parts, ranges = range(chosen.part_count), range(chosen.range_count)
    assert [group for part in parts for group in chosen.get_row_groups(part)] == list(range(row_groups))
    assert [file for number in ranges for file in chosen.get_files(number)] == list(range(files))
    edges = chosen.find_range_edges(rows).tolist()
    found = []
    for number in ranges:
        some = rows[edges[number] : edges[number + 1]]
        found += [some[at] for file in chosen.get_files(number) for at in chosen.find_slices(file, some)]
    assert len(found) == files * slices_per_file and pl.concat(found).to_list() == rows.to_list()


def test_reads_grow_as_row_groups_do() -> None:
    """At 1 TB each of 54,000 row groups was opened for each of 27,000 files: 1.5 billion times."""
    for millions, most in ((1, 10), (25, 250), (100, 1024), (1_000, 1024), (2_700, 1024)):
        chosen = Partitioning.choose(millions * 20, millions * 1_000_000, 100_000, 5)
        assert chosen.part_count * chosen.range_count <= most * chosen.row_groups
    assert (chosen.part_count, chosen.range_count) == (5_400, 2_700)
    sizes = [Partitioning.choose(9, millions * 1_000_000, 100_000, 5).fan_out for millions in (26, 102, 103)]
    assert sizes == [1, 1, 2]

"""Parts, ranges, files and slices cover every document once; the number of reads grows as the parts do."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.clean.layout import Layout

IDS = st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=50).map(
    lambda ids: pl.Series(sorted(ids), dtype=pl.Int64)
)


@given(IDS, st.integers(1, 40), st.integers(1, 40), st.integers(1, 6), st.integers(1, 7))
def test_every_row_is_in_one_slice_of_one_file(ids: list[int], groups: int, files: int, slices: int, fan: int) -> None:
    layout, rows = Layout(groups, files, slices, fan), pl.Series(sorted(ids), dtype=pl.Int64)
    assert [group for part in range(layout.parts) for group in layout.groups_of(part)] == list(range(groups))
    assert [file for number in range(layout.ranges) for file in layout.files_of(number)] == list(range(files))
    edges = layout.cut(rows).tolist()
    found = []
    for number in range(layout.ranges):
        some = rows[edges[number] : edges[number + 1]]
        found += [some[at] for file in layout.files_of(number) for at in layout.slices_of(file, some)]
    assert len(found) == files * slices and pl.concat(found).to_list() == rows.to_list()


def test_reads_grow_as_row_groups_do() -> None:
    """At 1 TB each of 54,000 row groups was opened for each of 27,000 files: 1.5 billion times."""
    for millions, most in ((1, 10), (25, 250), (100, 1024), (1_000, 1024), (2_700, 1024)):
        layout = Layout.of(millions * 20, millions * 1_000_000, 100_000, 5)
        assert layout.parts * layout.ranges <= most * layout.groups
    assert (layout.parts, layout.ranges, layout.parts * layout.ranges) == (5_400, 2_700, 14_580_000)
    assert [Layout.of(9, millions * 1_000_000, 100_000, 5).fan for millions in (26, 102, 103)] == [1, 1, 2]

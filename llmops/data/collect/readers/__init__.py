"""One module per family of formats. Each reads one file, or one query, and yields what it found, in order.

A reader is a function `read(path: Path, origin: Origin) -> Iterator[Item]`. It yields a `Document` for what can be
used, a `Dropped` naming the exact position for what can not, and None for a row that the source's `where` leaves out.
One bad row never costs the good ones after it. It raises `OSError` where the file, or the rest of it, cannot be read at
all (`decode.Unreadable`), which quarantines the file, and `SourceError` where the configuration does not fit it. To add
a format: write such a function, name it in `kinds.READERS` and in `config.Source.kind`, and add what it does with bad
input to `tests/data/test_bad_input.py`.
"""

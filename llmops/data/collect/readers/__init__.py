"""The readers, one module per family of formats. Each reads one file or query and yields its items in order.

A reader is a function `read(path: Path, origin: Origin) -> Iterator[Item]`. It yields a `Document` for a usable row, a
`Dropped` with the exact position for an unusable one, and None for a row excluded by the source's `where`. One bad row
never costs the good rows after it. It raises `OSError` if the file, or the rest of it, cannot be read
(`decode.Unreadable`), which quarantines the file, and `SourceError` if the configuration does not fit. To add a format,
write such a function, name it in `kinds.READERS` and in `config.Source.kind`, and add its bad input to
`tests/data/test_bad_input.py`.
"""

"""The readers, one module per family of formats. Each reads one file or query and yields its items in order.

A reader is a function `read(path: Path, origin: Origin) -> Iterator[Item]`. It yields a `Document` for a usable row, a
`DroppedRow` with the exact position for an unusable one, and None for a row excluded by the source's `where`. A bad
row never prevents the good rows after it. The reader raises `OSError` (`decoding.UnreadableError`) if the file, or the
rest of it, cannot be read: the file is quarantined. It raises `SourceError` if the configuration does not fit the file.

To add a format, write such a function, name it in `kinds._READERS` and in `config.Source.kind`, and add its bad input
to `tests/data/test_bad_input.py`.
"""

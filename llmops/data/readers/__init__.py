"""One module per family of formats. Each reads one file, or one query, and yields what it found, in order.

A reader is a function `read(path: Path, origin: Origin) -> Iterator[Item]`. It yields a `Document` for what can be
used, a `Dropped` naming the exact position for what can not, and None for a row that the source's `where` leaves out.
One bad row never costs the good ones after it. To add a format: write such a function, and name it in
`collect.READERS` and in `config.Source.kind`.
"""

"""index: cleaned documents to passages that can be searched, free of personal data and secrets.

What is searched is what a company's documents say; what users say is in it only where a person has accepted their
correction. Whoever searches opens the artifact with `search.open_index`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmops.config import Annotate, Index
from llmops.data.index import database, vectors
from llmops.data.index.documents import redacted, refused
from llmops.data.index.files import PASSAGES
from llmops.data.index.passages import passages, size_of
from llmops.data.row_file import RowFile
from llmops.records import Document, Passage, schema, write_rows
from llmops.scans.prompt_marks import prompt_mark

log = logging.getLogger(__name__)

TOGETHER = 1_024  #: documents that are read at once

_REDACTED = Annotate()


def run(
    config: Index, *, clean: Path, out: Path, annotate: Annotate = _REDACTED, before: Sequence[Path] = ()
) -> Mapping[str, Any]:
    """Index the documents of a clean artifact.

    Writes `passages.parquet`, the same bytes for the same documents, `index.db` and, with a model, `vectors.npy`; a
    vector differs by 1e-6 at most with what is computed beside it.

    Args:
        config: its section.
        clean: the artifact.
        out: the folder to write to.
        annotate: says what is redacted.
        before: earlier indexes, whose vectors are taken over where the text is the same.

    Raises:
        ArtifactError: if the model's package is not installed.
        ChildFailed: if its process ends or hangs.
    """
    dropped, redactions, sources = Counter[str](), Counter[str](), Counter[str]()
    counts = Counter[str]()
    with RowFile(out / PASSAGES, schema(Passage)) as file:
        for documents in _documents(clean / "documents") if config.enabled else ():
            whys = [refused(document, config.leave_out) for document in documents]
            dropped.update(filter(None, whys))
            kept, found = redacted([d for d, why in zip(documents, whys, strict=True) if not why], annotate.redact)
            redactions += found
            for document in kept:
                made = passages(document, config.words)
                good = [passage for passage in made if not prompt_mark(f"{passage.headings}\n{passage.text}")]
                dropped["prompt_marker"] += len(made) - len(good)
                counts["documents"] += bool(good)
                counts["words"] += sum(size_of(passage.text) for passage in good)
                sources[document.source] += len(good)
                file.add(pa.Table.from_pylist([asdict(passage) for passage in good], schema(Passage)))
    if not file.rows:
        write_rows(out / PASSAGES, (), Passage)
    database.write(out)
    new = vectors.write(out, before) if config.model else 0
    log.info("index: %d passages of %d documents, %d of them embedded anew", file.rows, counts["documents"], new)
    return {
        "documents": counts["documents"],
        "passages": file.rows,
        "words": counts["words"],
        "sources": dict(sorted(sources.items())),
        "dropped": dict(sorted((+dropped).items())),
        "redactions": dict(sorted(redactions.items())),
        "embedded": new,
        "model": config.model,
    }


def _documents(folder: Path) -> Iterator[list[Document]]:
    names = [field.name for field in fields(Document)]
    for path in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(TOGETHER, columns=names):
            yield [Document(**row) for row in batch.to_pylist()]

"""index: cleaned documents to passages that can be searched, redacted like training examples.

`llmops.data.retrieval.search` searches the artifact.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, fields, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from llmops import prompts
from llmops.config import Annotate, Collect, Index, Source
from llmops.data.feedback.documents import LOCATION
from llmops.data.index import vectors
from llmops.data.index.passages import passages, size_of
from llmops.data.retrieval.files import write_passages
from llmops.frame import artifacts
from llmops.frame.code_version import code_version, library_version
from llmops.frame.errors import ArtifactError
from llmops.frame.records import Document, Passage, content_id, is_key
from llmops.scans.pii import redact_all

log = logging.getLogger(__name__)

TOGETHER = 1_024  #: documents that are read at once
LIBRARIES = ("tokenizers", "openvino")  #: that decide the vectors

_TEXTS = ("text", "question", "answer", "context", "location", "position")
#: kinds of sources that have neither rows nor turns
_UNSTRUCTURED = ("html", "pdf", "docx", "pptx", "epub", "markdown", "text", "feedback")
_REDACTED, _UNKNOWN = Annotate(), Collect()


def run(
    config: Index, *, clean: Path, out: Path, annotate: Annotate = _REDACTED, collect: Collect = _UNKNOWN
) -> Mapping[str, Any]:
    """Index the documents of a clean artifact.

    Writes `index.db` and, with a model, `vectors.npy`. Vectors of texts that an earlier artifact beside `out` has are
    copied from it.

    Args:
        config: its section.
        clean: the artifact.
        out: the folder to write to.
        annotate: says what is redacted.
        collect: says which sources are about single persons.

    Raises:
        ArtifactError: if the package of the vectors' model is not installed.
    """
    counts = Counter[str]()
    sources, dropped, redactions = Counter[str](), Counter[str](), Counter[str]()
    digest = hashlib.sha256()
    personal = {source.name for source in collect.sources if is_personal(source)}
    left_out = {*config.leave_out, *personal.difference(config.include)}

    def made() -> Iterator[Passage]:
        for documents in _documents(clean / "documents") if config.enabled else ():
            reasons = [refused(document, left_out) for document in documents]
            dropped.update(filter(None, reasons))
            kept = [document for document, reason in zip(documents, reasons, strict=True) if not reason]
            for document in _redacted(kept, annotate.redact, redactions):
                cut = passages(document, config.words)
                found = [one for one in cut if not any(map(prompts.MARKER.search, (one.title, one.headings, one.text)))]
                if len(found) < len(cut):
                    dropped["prompt_marker"] += len(cut) - len(found)
                counts.update(documents=1, passages=len(found), words=sum(size_of(one.text) for one in found))
                sources[document.source] += len(found)
                for passage in found:
                    digest.update(json.dumps(astuple(passage)).encode())
                    yield passage

    write_passages(out, made())
    made_with = _made_with(config.model)
    computed = vectors.write_vectors(out, _earlier(out, made_with)) if config.model else 0
    log.info("index: %d passages of %d documents, %d embedded", counts["passages"], counts["documents"], computed)
    return {
        **{name: counts[name] for name in ("documents", "passages", "words")},
        "sources": dict(sorted(sources.items())),
        "dropped": dict(sorted(dropped.items())),
        "redactions": dict(sorted(redactions.items())),
        "embedded": computed,
        "model": config.model,
        "made_with": made_with,
        "digest": digest.hexdigest()[:16],
    }


def is_personal(source: Source) -> bool:
    """Return whether a source may be about single persons: it has chats, e-mails, or rows without question and text."""
    return source.kind not in _UNSTRUCTURED and source.fields.keys().isdisjoint(("question", "text"))


def refused(document: Document, leave_out: Collection[str]) -> str:
    """Return why a document is not indexed; empty if it is.

    Of feedback only corrections that a person has accepted are indexed: everything else would be found as if the
    company said it.

    Args:
        document: any.
        leave_out: sources that are not indexed.
    """
    if document.source in leave_out:
        return "left_out"
    if document.location == LOCATION and is_key(document.position):
        row = json.loads(document.fields)
        if row.keys() >= {"event", "kind", "accepted"} and (row["kind"], row["accepted"]) != ("correction", "review"):
            return "said_by_users"
    return "" if document.answer or document.text else "nothing_but_a_question"


def _redacted(documents: Sequence[Document], entities: Sequence[str], counts: Counter[str]) -> Iterator[Document]:
    """Yield the documents with a mark for each entity. It is done before cutting: half a number is not recognised."""
    texts = sorted({getattr(document, name) for document in documents for name in _TEXTS})
    found = dict(zip(texts, redact_all(texts, entities), strict=True))
    for document in documents:
        new = {name: found[getattr(document, name)] for name in _TEXTS}
        for redacted in new.values():
            counts.update(redacted.counts)
        yield replace(document, **{name: redacted.text for name, redacted in new.items()})


def _documents(folder: Path) -> Iterator[list[Document]]:
    names = [field.name for field in fields(Document)]
    for path in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(TOGETHER, columns=names):
            yield [Document(**row) for row in batch.to_pylist()]


def _made_with(model: str) -> str:
    """Return a hash of everything that decides the vector of a text."""
    return content_id(model, code_version(vectors.__name__), *map(library_version, LIBRARIES))


def _earlier(out: Path, made_with: str) -> list[Path]:
    """Return the finished indexes beside `out` whose vectors were made in the same way, the newest first."""
    found: dict[Path, str] = {}
    for path in artifacts.finished(out.parent):
        try:
            record = artifacts.read_record(path)
        except ArtifactError:
            continue  # damaged: its vectors are computed again
        if record.metrics.get("made_with") == made_with:
            found[path] = record.finished
    return sorted(found, key=found.__getitem__, reverse=True)

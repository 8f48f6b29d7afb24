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
from llmops.data.index.contents_lists import is_table_of_contents, read_titles
from llmops.data.index.likeness import choose_likeness
from llmops.data.index.passages import count_words, split_document
from llmops.data.retrieval.file_store import write_passages
from llmops.frame import artifacts
from llmops.frame.code_version import compute_code_version, get_library_version
from llmops.frame.errors import ArtifactError
from llmops.frame.records import Document, Passage, is_row_key, make_content_id
from llmops.scans.pii import redact_texts

log = logging.getLogger(__name__)

READ_BATCH = 1_024  #: documents per step of reading
VECTOR_LIBRARIES = ("tokenizers", "openvino")  #: libraries whose version changes the vectors

_TEXT_FIELDS = ("text", "question", "answer", "context", "location", "position")
#: kinds of sources that have neither rows nor turns
_UNSTRUCTURED = (
    *("html", "pdf", "docx", "pptx", "odt", "odp", "rtf", "doc", "ppt", "epub"),
    *("markdown", "text", "feedback"),
)
_DEFAULT_ANNOTATE, _DEFAULT_COLLECT = Annotate(), Collect()


def run(
    config: Index,
    *,
    clean: Path,
    out: Path,
    annotate: Annotate = _DEFAULT_ANNOTATE,
    collect: Collect = _DEFAULT_COLLECT,
) -> Mapping[str, Any]:
    """Index the documents of a clean artifact.

    Write `index.db` and, with a model, `vectors.npy`. Known vectors are copied from an earlier artifact beside `out`.

    Args:
        config: the section `index`.
        clean: the artifact of the stage clean.
        out: the folder to write to.
        annotate: the section that names what is redacted.
        collect: the section that shows which sources are about single persons.

    Raises:
        ArtifactError: if the package of the vectors' model is not installed.
    """
    counts = Counter[str]()
    sources, dropped, redactions = Counter[str](), Counter[str](), Counter[str]()
    digest = hashlib.sha256()
    personal = {source.name for source in collect.sources if is_personal(source)}
    excluded = {*config.leave_out, *personal.difference(config.include)}
    titles = read_titles(clean / "documents") if config.enabled else frozenset[str]()

    def make_passages() -> Iterator[Passage]:
        for documents in _read_documents(clean / "documents") if config.enabled else ():
            reasons = [find_exclusion_reason(document, excluded) for document in documents]
            dropped.update(filter(None, reasons))
            included = [document for document, reason in zip(documents, reasons, strict=True) if not reason]
            for document in _redact_documents(included, annotate.redact, redactions):
                split = split_document(document, config.words)
                unfit = [find_unfit_reason(passage, titles) for passage in split]
                dropped.update(filter(None, unfit))
                clean_passages = [passage for passage, reason in zip(split, unfit, strict=True) if not reason]
                counts.update(
                    documents=1,
                    passages=len(clean_passages),
                    words=sum(count_words(passage.text) for passage in clean_passages),
                )
                sources[document.source] += len(clean_passages)
                for passage in clean_passages:
                    digest.update(json.dumps(astuple(passage)).encode())
                    yield passage

    write_passages(out, make_passages())
    vector_version = _hash_vector_code(config.model)
    computed = vectors.write_vectors(out, _find_earlier_indexes(out, vector_version)) if config.model else 0
    likeness = choose_likeness(out) if config.model else {}
    log.info("index: %d passages of %d documents, %d embedded", counts["passages"], counts["documents"], computed)
    return {
        **{name: counts[name] for name in ("documents", "passages", "words")},
        "sources": dict(sorted(sources.items())),
        "dropped": dict(sorted(dropped.items())),
        "redactions": dict(sorted(redactions.items())),
        "embedded": computed,
        "likeness": likeness,
        "model": config.model,
        "made_with": vector_version,
        "digest": digest.hexdigest()[:16],
    }


def is_personal(source: Source) -> bool:
    """Return whether a source may be about single persons: chats, e-mails, or rows without question and text."""
    return source.kind not in _UNSTRUCTURED and source.fields.keys().isdisjoint(("question", "text"))


def find_exclusion_reason(document: Document, leave_out: Collection[str]) -> str:
    """Return why a document is not indexed; empty if it is indexed.

    Feedback is only indexed if it is a correction that a reviewer has accepted. Other feedback would be quoted as if
    it were the company's word.

    Args:
        document: a cleaned document.
        leave_out: names of sources that are not indexed.
    """
    if document.source in leave_out:
        return "left_out"
    if document.location == LOCATION and is_row_key(document.position):
        row = json.loads(document.fields)
        if row.keys() >= {"event", "kind", "accepted"} and (row["kind"], row["accepted"]) != ("correction", "review"):
            return "said_by_users"
    return "" if document.answer or document.text else "nothing_but_a_question"


def find_unfit_reason(passage: Passage, titles: Collection[str]) -> str:
    """Return why a passage of an indexed document stays out; empty if it is indexed.

    Args:
        passage: a passage.
        titles: of all documents, see `read_titles`.
    """
    if any(map(prompts.TURN_MARK.search, (passage.title, passage.headings, passage.text))):
        return "prompt_marker"
    return "table_of_contents" if is_table_of_contents(passage.headings, passage.text, titles) else ""


def _redact_documents(
    documents: Sequence[Document], entities: Sequence[str], counts: Counter[str]
) -> Iterator[Document]:
    """Yield the documents with a marker in place of each entity.

    This is done before a document is split, because half a number is not recognised.
    """
    texts = sorted({getattr(document, name) for document in documents for name in _TEXT_FIELDS})
    redacted_texts = dict(zip(texts, redact_texts(texts, entities), strict=True))
    for document in documents:
        redacted_fields = {name: redacted_texts[getattr(document, name)] for name in _TEXT_FIELDS}
        for redacted in redacted_fields.values():
            counts.update(redacted.counts)
        yield replace(document, **{name: redacted.text for name, redacted in redacted_fields.items()})


def _read_documents(folder: Path) -> Iterator[list[Document]]:
    names = [field.name for field in fields(Document)]
    for path in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(READ_BATCH, columns=names):
            yield [Document(**row) for row in batch.to_pylist()]


def _hash_vector_code(model: str) -> str:
    """Return a hash of everything that determines the vector of a text: model, code and libraries."""
    return make_content_id(model, compute_code_version(vectors.__name__), *map(get_library_version, VECTOR_LIBRARIES))


def _find_earlier_indexes(out: Path, vector_version: str) -> list[Path]:
    """Return the finished indexes beside `out` with the same `vector_version`, the newest first."""
    finished_by_path: dict[Path, str] = {}
    for path in artifacts.list_finished(out.parent):
        try:
            record = artifacts.read_record(path)
        except ArtifactError:
            continue  # damaged: its vectors are computed again
        if record.metrics.get("made_with") == vector_version:
            finished_by_path[path] = record.finished
    return sorted(finished_by_path, key=finished_by_path.__getitem__, reverse=True)

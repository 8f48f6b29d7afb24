"""The vectors of passages: a flat file, whose rows are in the passages' order, and which is mapped into memory.

A passage's vector is that of its headings and its text; where a heading asks something, half the vector of that is
added: who asks the same in other words is nearer to it than to the answer. Headings that ask nothing are left at that,
since with them all passages of a section would be alike.

In 32 bits they take 1.5 GB a million passages. Two cores make about 200 a second; so those of texts that the last
index has are taken over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from llmops.artifacts import check_whole
from llmops.data.index.files import PASSAGES, VECTORS
from llmops.data.text.headings import BETWEEN, asks
from llmops.embedding.embedder import Embedder, Vectors
from llmops.embedding.weights import DIMENSIONS
from llmops.errors import ArtifactError

if TYPE_CHECKING:  # it runs in a process of its own: named here, its code counts as that of who asks it
    from llmops.embedding import worker as worker

TOGETHER = 4_096  #: passages that are read at once, and put in the order of their lengths
ASKED = 0.5  #: how much of the vector of what headings ask is added

_Said = tuple[str, str]  # headings and text


def write(folder: Path, before: Sequence[Path]) -> int:
    """Write the vectors of the passages of a folder; returns how many of them are new.

    Args:
        folder: of the index; it has its passages.
        before: of earlier ones, made with the same model; the newest first.
    """
    (known, theirs), new, start = _known(before), 0, 0
    number = pq.read_metadata(folder / PASSAGES).num_rows
    vectors = _open(folder / VECTORS, number)
    with closing(Embedder()) as embedder:
        for said in _said(folder):
            found = [known.get(_digest(one), -1) for one in said]
            todo = [at for at, row in enumerate(found) if row < 0]
            for at, row in enumerate(found):
                if row >= 0:
                    vectors[start + at] = theirs[row]
            if todo:
                vectors[[start + at for at in todo]] = _embedded(embedder, [said[at] for at in todo])
            new, start = new + len(todo), start + len(said)
    if number:
        vectors.flush()  # type: ignore[attr-defined]
    return new


def take(folder: Path, gone: Collection[int], left: int) -> None:
    """Write the file anew without some of its rows; nothing is done if it has as many as are to be left.

    Raises:
        ArtifactError: if it cannot be read, or has more or fewer rows than both together.
    """
    try:
        vectors = np.load(folder / VECTORS, mmap_mode="r")
        shape = (*vectors.shape, vectors.dtype)
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError(f"{folder / VECTORS} cannot be read: {error}") from None
    if shape == (left, DIMENSIONS, np.float32):
        return
    if shape != (left + len(gone), DIMENSIONS, np.float32):
        raise ArtifactError(f"{folder / VECTORS} has {len(vectors)} rows for {left + len(gone)} passages.")
    partial = folder / f".{VECTORS}.new"
    with open(partial, "wb") as handle:
        np.save(handle, np.delete(vectors, list(gone), axis=0))
    partial.replace(folder / VECTORS)


def _open(path: Path, number: int) -> Vectors:
    if number:
        mapped: Vectors = np.lib.format.open_memmap(path, "w+", np.float32, (number, DIMENSIONS))
        return mapped
    none = np.empty((0, DIMENSIONS), np.float32)  # of nothing no map can be made
    np.save(path, none)
    return none


def _embedded(embedder: Embedder, said: Sequence[_Said]) -> Vectors:
    vectors = embedder.embed_beginnings(["\n".join(filter(None, one)) for one in said])
    asked = ["\n".join(filter(asks, headings.split(BETWEEN))) for headings, _ in said]
    if questions := sorted({*asked} - {""}):
        at = {question: row for row, question in enumerate(questions)}
        rows = [row for row, question in enumerate(asked) if question]
        vectors[rows] += ASKED * embedder.embed_beginnings(questions)[[at[asked[row]] for row in rows]]
        vectors[rows] /= np.linalg.norm(vectors[rows], axis=1, keepdims=True)
    return vectors


def _said(folder: Path) -> Iterator[list[_Said]]:
    """What is embedded of the passages, some at a time."""
    for batch in pq.ParquetFile(folder / PASSAGES).iter_batches(TOGETHER, columns=["headings", "text"]):
        yield [(row["headings"], row["text"]) for row in batch.to_pylist()]


def _known(before: Sequence[Path]) -> tuple[dict[bytes, int], Vectors]:
    """Digest of what is embedded → its row in the vectors, of the newest index that is whole and has any."""
    for folder in before:
        try:
            check_whole(folder)
            vectors = np.load(folder / VECTORS, mmap_mode="r")
            digests = [_digest(one) for said in _said(folder) for one in said]
        except (OSError, ValueError, ArtifactError):
            continue  # damaged, gone meanwhile, or without vectors: what it had is made anew
        if digests:  # else an older one may have some
            return {digest: row for row, digest in enumerate(digests)}, vectors
    return {}, np.empty((0, DIMENSIONS), np.float32)


def _digest(said: _Said) -> bytes:
    return blake2b("\0".join(said).encode("utf-8", "surrogatepass"), digest_size=16).digest()

"""Examples as training and evaluation read them: rows of a `datasets.Dataset` that is mapped into memory.

A mapped file takes no memory of its own. The system reads its pages from the disk when they are asked for, and lets go
of them when memory is short, so examples that are larger than memory are read like few: by number, in the same seeded
order, and a resumed training goes on at the same place. (`IterableDataset`, which reads from front to back, would
shuffle within a buffer only and read again all that it had read before a break.) No cache is made, so there is none
that could be stale, or still hold what an erasure took out of an artifact.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, overload

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset

from llmops.errors import ArtifactError
from llmops.features.declarations import PARQUET, TRAINING_SERVICE, open_store
from llmops.features.tokenize import Tokens
from llmops.records import Example, schema

ASKED = 50_000  #: examples that Feast is asked for together: 400,000 at once take 470 MB, in such parts 210

TOGETHER = 1_000  #: rows that are made records together when all are gone through

Row = TypeVar("Row", Tokens, Example)


@dataclass(frozen=True, slots=True, eq=False)
class Rows(Sequence[Row], Generic[Row]):
    """The rows of a data set; one becomes a record when it is asked for."""

    dataset: Dataset  #: its columns are the fields of the record
    kind: Callable[..., Row]

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, len(self), TOGETHER):
            yield from self[start : start + TOGETHER]

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, int):
            return self.kind(**self.dataset[index])
        columns = self.dataset[index]
        return [self.kind(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def read_offline(features: Path, split: str) -> Rows[Tokens]:
    """The tokens of one split, in the order they were written; Feast's point-in-time retrieval has to know them all.

    Args:
        features: a features artifact.
        split: train, validation or test.

    Raises:
        ArtifactError: if the artifact holds no example of that split, or Feast does not know one of them.
    """
    path = mapped_path(features, split)
    if not (features / PARQUET).is_file():
        raise ArtifactError(
            f"{features} is no features artifact: it has no {PARQUET}; run `llmops run features` first."
        )
    rows = Dataset.from_file(str(path)) if path.is_file() else None
    if not rows:
        raise ArtifactError(f"{features} holds no example of the split {split!r}; look at its dropped.parquet.")
    _check_known(features, rows)
    return Rows(rows.remove_columns("event_timestamp").rename_column("input_id", "id"), Tokens)


def read_examples(path: Path) -> Rows[Example]:
    """The examples of one Parquet file of an annotate artifact, in file order.

    They are mapped from an Arrow copy on the disk of temporary files. It has no name, so it is gone with the process,
    however that ends, and no other process can be given these rows: give it the path.
    """
    columns = pa.schema([field.with_nullable(True) for field in schema(Example)])
    with tempfile.TemporaryFile() as copy:
        with pa.ipc.new_stream(copy, columns) as writer:
            for batch in pq.ParquetFile(path).iter_batches(columns=columns.names):
                writer.write_batch(batch.select(columns.names).cast(columns))
        copy.flush()
        return Rows(Dataset.from_file(f"/dev/fd/{copy.fileno()}"), Example)


def token_counts(examples: Sequence[Tokens]) -> list[int]:
    """How many tokens each example has; of mapped ones without reading them."""
    if isinstance(examples, Rows):
        counts: list[int] = pc.list_value_length(examples.dataset.data.column("token_ids")).to_pylist()
        return counts
    return [len(example.token_ids) for example in examples]


def mapped_path(features: Path, split: str) -> Path:
    """The Arrow file of a features artifact with the tokens of one split."""
    return features / f"{split}.arrow"


def _check_known(features: Path, rows: Dataset) -> None:
    """Make sure that Feast knows every row at its time."""
    store = open_store(features)
    service = store.get_feature_service(TRAINING_SERVICE)
    for part in rows.select_columns(["input_id", "event_timestamp"]).with_format("arrow").iter(ASKED):
        found = store.get_historical_features(part.to_pandas(), service).to_arrow()
        known = pc.is_in(part["input_id"], found["input_id"].filter(found["meta"].is_valid()).combine_chunks())
        if not pc.all(known).as_py():
            missing = part["input_id"][pc.index(known, False).as_py()].as_py()
            raise ArtifactError(
                f"Feast does not know {missing} of {features / PARQUET}; delete {features} and run features again."
            )

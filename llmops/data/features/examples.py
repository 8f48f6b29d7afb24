"""Examples for training and evaluation: rows of a memory-mapped `datasets.Dataset`.

A mapped file needs no memory of its own: the system reads its pages on demand and drops them when memory is short. So
even examples larger than memory are read by number, in the same seeded order, and a resumed training continues at the
same place. (`IterableDataset` shuffles only within a buffer, and would reread everything before the interruption.) No
cache is made that could be stale or keep erased examples.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, overload

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset

from llmops.data.features.declarations import PARQUET, TRAINING_SERVICE, open_store
from llmops.data.features.tokenize import Tokens
from llmops.frame.errors import ArtifactError
from llmops.frame.records import Example, get_schema

REQUEST_ROWS = 50_000  #: examples per request to Feast: 400,000 take 470 MB in one request, 210 MB in these

BATCH = 1_000  #: rows per conversion during iteration

Row = TypeVar("Row", Tokens, Example)


@dataclass(frozen=True, slots=True, eq=False)
class MappedRows(Sequence[Row], Generic[Row]):
    """The rows of a data set. A row is converted to a record on access."""

    dataset: Dataset  #: its columns are the record's fields
    record_type: Callable[..., Row]

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, len(self), BATCH):
            yield from self[start : start + BATCH]

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, int):
            return self.record_type(**self.dataset[index])
        columns = self.dataset[index]
        return [self.record_type(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def read_offline(features: Path, split: str) -> MappedRows[Tokens]:
    """Return the tokens of one split, in file order, after checking that Feast's point-in-time retrieval has them all.

    Raises:
        ArtifactError: if the artifact has no example of that split, or Feast lacks one.
    """
    path = get_mapped_path(features, split)
    if not (features / PARQUET).is_file():
        raise ArtifactError(
            f"{features} is no features artifact: it has no {PARQUET}; run `llmops run features` first."
        )
    rows = Dataset.from_file(str(path)) if path.is_file() else None
    if not rows:
        raise ArtifactError(f"{features} has no example of the split {split!r}; look at its dropped.parquet.")
    _check_known_to_feast(features, rows)
    return MappedRows(rows.remove_columns("event_timestamp").rename_column("input_id", "id"), Tokens)


def read_examples(path: Path) -> MappedRows[Example]:
    """Return the examples of a Parquet file of an annotate artifact, in file order.

    They are mapped from an Arrow copy in an unnamed temporary file, which disappears with the process. Other processes
    cannot use the rows: give them the path.
    """
    columns = pa.schema([field.with_nullable(True) for field in get_schema(Example)])
    with tempfile.TemporaryFile() as copy:
        with pa.ipc.new_stream(copy, columns) as writer:
            for batch in pq.ParquetFile(path).iter_batches(columns=columns.names):
                writer.write_batch(batch.select(columns.names).cast(columns))
        copy.flush()
        return MappedRows(Dataset.from_file(f"/dev/fd/{copy.fileno()}"), Example)


def count_tokens(examples: Sequence[Tokens]) -> list[int]:
    """Return the number of tokens of each example, without reading mapped ones."""
    if isinstance(examples, MappedRows):
        counts: list[int] = pc.list_value_length(examples.dataset.data.column("token_ids")).to_pylist()
        return counts
    return [len(example.token_ids) for example in examples]


def get_mapped_path(features: Path, split: str) -> Path:
    """Return the Arrow file of a features artifact with the tokens of one split."""
    return features / f"{split}.arrow"


def _check_known_to_feast(features: Path, rows: Dataset) -> None:
    store = open_store(features)
    service = store.get_feature_service(TRAINING_SERVICE)
    for part in rows.select_columns(["input_id", "event_timestamp"]).with_format("arrow").iter(REQUEST_ROWS):
        found = store.get_historical_features(part.to_pandas(), service).to_arrow()
        known = pc.is_in(part["input_id"], found["input_id"].filter(found["meta"].is_valid()).combine_chunks())
        if not pc.all(known).as_py():
            missing = part["input_id"][pc.index(known, False).as_py()].as_py()
            raise ArtifactError(
                f"Feast does not know {missing} of {features / PARQUET}; delete {features} and run features again."
            )

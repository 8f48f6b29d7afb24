"""The examples of a features artifact, as training reads them: Feast says which there are, Parquet has their tokens."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from llmops.errors import ArtifactError
from llmops.features.columns import TokenTable, read_columns
from llmops.features.declarations import TRAINING_SERVICE, open_store

PARQUET = "features.parquet"  #: the file of a features artifact that holds them


def read_offline(features: Path, split: str) -> TokenTable:
    """The examples of one split, through Feast's point-in-time retrieval, in the order they were written.

    Args:
        features: a features artifact.
        split: train, validation or test.

    Raises:
        ArtifactError: if the artifact holds no example of that split, or Feast does not know one of them.
    """
    path = features / PARQUET
    if not path.is_file():
        raise ArtifactError(
            f"{features} is no features artifact: it has no {PARQUET}; run `llmops run features` first."
        )
    rows = _rows(path, split, ["input_id", "event_timestamp", "token_ids", "prompt_tokens"])
    if not rows.num_rows:
        raise ArtifactError(f"{features} holds no example of the split {split!r}; look at its dropped.parquet.")
    store = open_store(features)
    entities = rows.select(["input_id", "event_timestamp"]).to_pandas()
    found = store.get_historical_features(entities, store.get_feature_service(TRAINING_SERVICE)).to_arrow()
    known = pc.is_in(rows["input_id"], found["input_id"].filter(found["meta"].is_valid()).combine_chunks())
    if not pc.all(known).as_py():
        missing = rows["input_id"][pc.index(known, False).as_py()].as_py()
        raise ArtifactError(f"Feast does not know {missing} of {path}; delete {features} and run features again.")
    return read_columns(rows)


def _rows(path: Path, split: str, columns: list[str]) -> pa.Table:
    """Rows of one split, in order; row groups of other splits are not read."""
    (file,) = ds.dataset(path).get_fragments()
    rows = file.subset(pc.field("split") == split).to_table(columns=[*columns, "split"])
    mine = pc.equal(rows["split"], split)
    return rows if pc.all(mine).as_py() else rows.filter(mine)

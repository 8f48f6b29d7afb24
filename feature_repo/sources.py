"""Sources: the Parquet file of one features artifact."""

import os

from feast import FileSource

training_tokens = FileSource(
    name="training_tokens",
    path=f"{os.environ['LLMOPS_FEATURES']}/features.parquet",
    timestamp_field="event_timestamp",
    description="Tokenised examples, written by the stage `features`; event_timestamp is the data interval's date.",
)

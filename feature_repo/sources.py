"""Sources: the Parquet file of a features artifact."""

from feast import FileSource

training_tokens = FileSource(
    name="training_tokens",
    path="features.parquet",  # beside feature_store.yaml, in the artifact
    timestamp_field="event_timestamp",
    description="Tokenised examples, written by the stage `features`; event_timestamp is the data interval's date.",
)

"""Entities: the keys of features."""

from feast import Entity, ValueType

example = Entity(
    name="example",
    join_keys=["input_id"],
    value_type=ValueType.STRING,
    description="One annotated example; `input_id` is the hash of its context, question and answer.",
)

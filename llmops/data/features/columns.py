"""Tokenised examples as Arrow columns, for Feast's Parquet file and for the memory-mapped files of training."""

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, time

import numpy as np
import pyarrow as pa

from llmops.data.features.tokenize import Tokens
from llmops.frame.records import Example

#: 32 bits are enough for every vocabulary, and take half the memory of Feast's usual Int64
TOKENS = pa.list_(pa.int32())
#: `features.parquet`, the source of Feast's view
VIEW_SCHEMA = pa.schema(
    [
        pa.field("input_id", pa.string(), nullable=False),
        pa.field("event_timestamp", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("token_ids", TOKENS, nullable=False),
        pa.field("attention_mask", TOKENS, nullable=False),
        pa.field("meta", pa.string(), nullable=False),
    ]
)
#: `{split}.arrow`, read by training; nullable like all columns of `datasets`, which would cast others
MAPPED_SCHEMA = pa.schema(
    [
        pa.field("input_id", pa.string()),
        pa.field("event_timestamp", pa.timestamp("us", "UTC")),
        pa.field("token_ids", TOKENS),
        pa.field("prompt_tokens", pa.int32()),
    ]
)
#: columns of `make_columns` that `{split}.arrow` has, in its order
MAPPED_COLUMNS = ["input_id", "event_timestamp", "trained_ids", "prompt_tokens"]


def make_columns(rows: Sequence[tuple[Example, Tokens, Tokens, bool]]) -> pa.Table:
    """Return the rows with all columns of both files.

    They are made of examples, their tokens, those for training, and True for each that was cut.
    """
    token_ids = pa.array([tokens.token_ids for _, tokens, *_ in rows], TOKENS)
    ones = pa.array(np.ones(len(token_ids.values), np.int32))
    times = pa.array([_get_time(example) for example, *_ in rows], VIEW_SCHEMA.field("event_timestamp").type)
    return pa.table(
        {
            "input_id": pa.array([example.id for example, *_ in rows], pa.string()),
            "event_timestamp": times,
            "token_ids": token_ids,
            "attention_mask": pa.ListArray.from_arrays(token_ids.offsets, ones),
            "meta": pa.array([_format_meta(example, tokens, cut) for example, tokens, _, cut in rows], pa.string()),
            "trained_ids": pa.array([trained.token_ids for *_, trained, _ in rows], TOKENS),
            "prompt_tokens": pa.array([trained.prompt_tokens for *_, trained, _ in rows], pa.int32()),
        }
    )


def _get_time(example: Example) -> datetime:
    day = date.fromisoformat(example.interval) if example.interval else date(1970, 1, 1)
    return datetime.combine(day, time(), UTC)


def _format_meta(example: Example, tokens: Tokens, cut: bool) -> str:
    meta = {
        "split": example.split,
        "source": example.source,
        "group": example.group,
        "prompt_tokens": tokens.prompt_tokens,
        **({"truncated": True} if cut else {}),
    }
    return json.dumps(meta, ensure_ascii=False, sort_keys=True)

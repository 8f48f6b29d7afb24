"""Tokenised examples as Arrow columns: how they are written, and how training gets them without a list per example."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from llmops.features.tokenize import Tokens
from llmops.records import Example

#: 32 bits hold every vocabulary, and take half of Feast's usual Int64 in memory.
TOKENS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    [
        pa.field("input_id", pa.string(), nullable=False),
        pa.field("event_timestamp", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("token_ids", TOKENS, nullable=False),
        pa.field("attention_mask", TOKENS, nullable=False),
        pa.field("meta", pa.string(), nullable=False),
    ]
)
#: What Feast's view is made from. The other two also stand in `meta`; training reads them without parsing it.
VIEW_COLUMNS = [name for name in SCHEMA.names if name not in ("split", "prompt_tokens")]


@dataclass(frozen=True, slots=True, eq=False)
class TokenTable(Sequence[Tokens]):
    """Examples in columns; one becomes `Tokens` when it is asked for."""

    ids: pa.Array
    token_ids: npt.NDArray[np.int32]  #: of all examples, end to end
    starts: npt.NDArray[np.int64]  #: where each begins in `token_ids`, and the end: one more than examples
    prompt_tokens: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Tokens: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tokens]: ...
    def __getitem__(self, index: int | slice) -> Tokens | list[Tokens]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        ids = self.token_ids[self.starts[at] : self.starts[at + 1]]
        return Tokens(self.ids[at].as_py(), ids.tolist(), int(self.prompt_tokens[at]))


def write_columns(rows: Sequence[tuple[Example, Tokens]]) -> pa.Table:
    """The rows of `features.parquet`."""
    token_ids = pa.array([tokens.token_ids for _, tokens in rows], TOKENS)
    ones = pa.array(np.ones(len(token_ids.values), np.int32))
    return pa.table(
        [
            pa.array([example.id for example, _ in rows], pa.string()),
            pa.array([_time(example) for example, _ in rows], SCHEMA.field("event_timestamp").type),
            pa.array([example.split for example, _ in rows], pa.string()),
            pa.array([tokens.prompt_tokens for _, tokens in rows], pa.int32()),
            token_ids,
            pa.ListArray.from_arrays(token_ids.offsets, ones),
            pa.array([_meta(example, tokens) for example, tokens in rows], pa.string()),
        ],
        schema=SCHEMA,
    )


def read_columns(table: pa.Table) -> TokenTable:
    """Examples from columns `input_id`, `token_ids` and `prompt_tokens`."""
    token_ids = table["token_ids"].combine_chunks()
    return TokenTable(
        table["input_id"].combine_chunks(),
        token_ids.values.to_numpy(),
        token_ids.offsets.to_numpy().astype(np.int64),
        table["prompt_tokens"].to_numpy(),
    )


def _time(example: Example) -> datetime:
    day = date.fromisoformat(example.interval) if example.interval else date(1970, 1, 1)
    return datetime.combine(day, time(), UTC)


def _meta(example: Example, tokens: Tokens) -> str:
    meta = {
        "split": example.split,
        "source": example.source,
        "group": example.group,
        "prompt_tokens": tokens.prompt_tokens,
    }
    return json.dumps(meta, ensure_ascii=False, sort_keys=True)

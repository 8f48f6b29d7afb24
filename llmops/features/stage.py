"""Tokenise examples and put them into Feast as the view `llm_training_features`: offline to train, online to serve.

Every features artifact is a feature store of its own: `features.parquet`, and what `feature_repo/` declares of it. Only
the online store is shared by all, with one table per base model, since token ids of one tokenizer mean nothing to
another. Training asks Feast which examples there were (`meta`, by key and time) and takes their arrays from the Parquet
file by key: sending the arrays through Feast's point-in-time join as well takes 1.8 times as long, and with 400,000
examples 2.6 GB of memory instead of 1.7 (`benchmarks/features.py` has both arms).

    python -m llmops run features
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from llmops.config import Features
from llmops.errors import ArtifactError
from llmops.features import declarations
from llmops.features.columns import SCHEMA, VIEW_COLUMNS, write_columns
from llmops.features.examples import PARQUET
from llmops.features.online import write_online
from llmops.features.tokenize import Tokens, tokenize_all
from llmops.prompts import training_ids
from llmops.records import Dropped, Example, base_path, content_id, write_rows

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
CHUNK = 1000  #: examples that are tokenised together
ROW_GROUP = 20_000  #: examples; at 200 tokens 32 MB in memory


def run(config: Features, *, annotate: Path, select: Path, out: Path) -> Mapping[str, Any]:
    """Tokenise all splits into `features.parquet`, declare them to Feast and write them to the online store.

    Examples that cannot be used go to `dropped.parquet` with the reason.

    Raises:
        ArtifactError: if no training example is left, or Feast refuses the declarations.
    """
    tokenizer = AutoTokenizer.from_pretrained(base_path(select))
    counts = _Counts()
    out.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(out / PARQUET, SCHEMA, compression="zstd") as writer:
        for split in SPLITS:  # a row group holds one split, so that reading another skips it
            waiting: list[pa.Table] = []
            for examples in _chunks(annotate / f"{split}.parquet"):
                waiting.append(write_columns(_usable(tokenizer, examples, config.max_tokens, counts)))
                if sum(table.num_rows for table in waiting) >= ROW_GROUP:
                    writer.write_table(pa.concat_tables(waiting).combine_chunks())
                    waiting.clear()
            if waiting:
                writer.write_table(pa.concat_tables(waiting).combine_chunks())
    write_rows(out / "dropped.parquet", counts.dropped, Dropped)
    if not counts.tokens["train"]:
        raise ArtifactError(
            f"No training example is left of {len(counts.ids) + len(counts.dropped)} in {annotate}: "
            f"{len(counts.dropped)} were dropped, see {out / 'dropped.parquet'}; raise features.max_tokens (now "
            f"{config.max_tokens})."
        )
    store = declarations.declare(config, project(config, tokenizer, select), out)
    batches = pq.ParquetFile(out / PARQUET).iter_batches(config.online_batch, columns=VIEW_COLUMNS)
    write_online(config, store, batches)
    log.info("wrote %d examples to the online store", len(counts.ids))
    return {
        "examples": len(counts.ids),
        "tokens": {split: counts.tokens[split] for split in SPLITS},
        "longest": counts.longest,
        "truncated": counts.truncated,
        "dropped": dict(Counter(d.rule for d in counts.dropped)),
    }


def project(config: Features, tokenizer: PreTrainedTokenizerBase, select: Path) -> str:
    """Feast's project: a name for what the tokens mean, so that those of two prompt formats or models never mix."""
    probe = json.dumps(training_ids(tokenizer, "question", "answer", "context"))
    return f"llmops_{content_id(select.name, str(config.max_tokens), declarations.repository_hash(config), probe)}"


@dataclass(slots=True)
class _Counts:
    """What has been seen so far."""

    ids: set[str] = field(default_factory=set)
    dropped: list[Dropped] = field(default_factory=list)
    tokens: Counter[str] = field(default_factory=Counter)
    longest: int = 0
    truncated: int = 0


def _chunks(path: Path) -> Iterator[list[Example]]:
    file = pq.ParquetFile(path)
    for done, batch in enumerate(file.iter_batches(CHUNK)):
        yield [Example(**row) for row in batch.to_pylist()]
        log.info("tokenised %d of %d examples of %s", done * CHUNK + len(batch), file.metadata.num_rows, path.stem)


def _usable(
    tokenizer: PreTrainedTokenizerBase, examples: list[Example], max_tokens: int, counts: _Counts
) -> list[tuple[Example, Tokens]]:
    rows = []
    for example, (tokens, cut) in zip(examples, tokenize_all(tokenizer, examples, max_tokens), strict=True):
        if tokens is None:
            what = f"question and answer alone are longer than features.max_tokens, {max_tokens}"
            counts.dropped.append(_drop(example, "too_long", what))
        elif example.id in counts.ids:
            counts.dropped.append(_drop(example, "duplicate", f"the id {example.id} is taken by another example"))
        else:
            rows.append((example, tokens))
            counts.ids.add(example.id)
            counts.tokens[example.split] += len(tokens.token_ids)
            counts.longest = max(counts.longest, len(tokens.token_ids))
            counts.truncated += cut
    return rows


def _drop(example: Example, rule: str, detail: str) -> Dropped:
    return Dropped(
        id=example.id,
        source=example.source,
        location=example.location,
        position=example.position,
        rule=rule,
        detail=detail,
        content=example.question,
    )

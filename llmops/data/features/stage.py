"""The stage features: tokenises examples and puts them into Feast's view `llm_training_features`.

Training reads the view offline, serving online. Every features artifact is a feature store: `features.parquet`, and the
declarations of `feature_repo/`. The online store is shared, with one table per base model, because token ids are
meaningless to another tokenizer. Training asks Feast which examples exist (`meta`, by key and time) and maps their
tokens from their split's Arrow file, uncompressed beside the Parquet file (`benchmarks/features.py` compares other
ways).

    python -m llmops run features
"""

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
from llmops.data.features import declarations
from llmops.data.features.columns import MAPPED_SCHEMA, VIEW_SCHEMA, make_columns
from llmops.data.features.declarations import PARQUET
from llmops.data.features.examples import get_mapped_path
from llmops.data.features.online import write_online
from llmops.data.features.tokenize import Tokens, tokenize_all
from llmops.frame.errors import ArtifactError
from llmops.frame.records import Dropped, Example, base_path, content_id, write_rows
from llmops.prompts import training_ids

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
CHUNK = 1000  #: examples tokenised together
ROW_GROUP = 20_000  #: examples per row group; with 200 tokens each 32 MB in memory


def run(config: Features, *, annotate: Path, select: Path, out: Path) -> Mapping[str, Any]:
    """Tokenise all splits into `features.parquet` and an Arrow file each, declare them to Feast, write them online.

    Unusable examples go to `dropped.parquet` with the reason.

    Raises:
        ArtifactError: if no training example is left, or Feast refuses the declarations.
    """
    tokenizer = AutoTokenizer.from_pretrained(base_path(select))
    counts = _Counts()
    out.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(out / PARQUET, VIEW_SCHEMA, compression="zstd") as feast:
        for split in SPLITS:
            with pa.ipc.new_stream(get_mapped_path(out, split), MAPPED_SCHEMA) as mapped:
                for rows in _row_groups(tokenizer, annotate / f"{split}.parquet", config.max_tokens, counts):
                    feast.write_table(rows.select(VIEW_SCHEMA.names).cast(VIEW_SCHEMA))
                    mapped.write_table(rows.select(MAPPED_SCHEMA.names))
    write_rows(out / "dropped.parquet", counts.dropped, Dropped)
    if not counts.tokens["train"]:
        raise ArtifactError(
            f"No training example is left of {len(counts.ids) + len(counts.dropped)} in {annotate}: "
            f"{len(counts.dropped)} were dropped, see {out / 'dropped.parquet'}; raise features.max_tokens (now "
            f"{config.max_tokens})."
        )
    store = declarations.declare(config, name_project(config, tokenizer, select), out)
    write_online(config, store, pq.ParquetFile(out / PARQUET).iter_batches(config.online_batch))
    log.info("wrote %d examples to the online store", len(counts.ids))
    return {
        "examples": len(counts.ids),
        "tokens": {split: counts.tokens[split] for split in SPLITS},
        "longest": counts.longest,
        "truncated": counts.truncated,
        "dropped": dict(Counter(d.rule for d in counts.dropped)),
    }


def name_project(config: Features, tokenizer: PreTrainedTokenizerBase, select: Path) -> str:
    """Return the name of Feast's project: one for each prompt format and model, so that their tokens never mix."""
    probe = json.dumps(training_ids(tokenizer, "question", "answer", "context"))
    return f"llmops_{content_id(select.name, str(config.max_tokens), declarations.hash_repository(config), probe)}"


@dataclass(slots=True)
class _Counts:
    ids: set[str] = field(default_factory=set)
    dropped: list[Dropped] = field(default_factory=list)
    tokens: Counter[str] = field(default_factory=Counter)
    longest: int = 0
    truncated: int = 0


def _row_groups(tokenizer: PreTrainedTokenizerBase, path: Path, max_tokens: int, counts: _Counts) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    for examples in _chunks(path):
        waiting.append(make_columns(_usable(tokenizer, examples, max_tokens, counts)))
        if sum(table.num_rows for table in waiting) >= ROW_GROUP:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting.clear()
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


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
            detail = f"question and answer alone are longer than features.max_tokens, {max_tokens}"
            counts.dropped.append(_drop(example, "too_long", detail))
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

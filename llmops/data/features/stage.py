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
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import AutoTokenizer

from llmops.config import Collect, Features, Grounding, Serving
from llmops.data.features import declarations
from llmops.data.features.columns import MAPPED_COLUMNS, MAPPED_SCHEMA, VIEW_SCHEMA, make_columns
from llmops.data.features.declarations import PARQUET
from llmops.data.features.examples import get_mapped_path, read_examples
from llmops.data.features.grounded_examples import MIN_ANSWER_SHARE, NOT_IN_PASSAGES, UNCHANGED, Retrieval, add_passages
from llmops.data.features.online import write_online
from llmops.data.features.tokenize import Tokens, tokenize_all, tokenize_labelled
from llmops.data.retrieval.example_passages import ExamplePassages
from llmops.data.retrieval.grounding import find_sources_with_contexts
from llmops.data.retrieval.search import open_index
from llmops.frame.artifacts import read_record
from llmops.frame.errors import ArtifactError
from llmops.frame.records import DroppedRow, Example, get_base_path, make_content_id, write_rows
from llmops.prompts import encode_example
from llmops.prompts.encoder import is_encoder, read_format

log = logging.getLogger(__name__)

_UNGROUNDED, _SERVING, _COLLECT = Grounding(), Serving(), Collect()

SPLITS = ("train", "validation", "test")
CHUNK_SIZE = 1000  #: examples tokenised together
Encode = Callable[[list[Example]], list[tuple[Tokens | None, bool]]]  #: see `tokenize_all`
_PROBE = ("question", "answer", "context")
ROW_GROUP_SIZE = 20_000  #: examples per row group; with 200 tokens each 32 MB in memory


def run(
    config: Features,
    *,
    annotate: Path,
    select: Path,
    out: Path,
    index: Path | None = None,
    grounding: Grounding = _UNGROUNDED,
    serving: Serving = _SERVING,
    collect: Collect = _COLLECT,
) -> Mapping[str, Any]:
    """Tokenise all splits into `features.parquet` and an Arrow file each, declare them to Feast, write them online.

    With an index, examples for training and validation have the passages that retrieval gives in their Arrow file; in
    Feast, and so online, they have their own contexts. Unusable examples go to `dropped.parquet` with the reason.

    Raises:
        ArtifactError: if no training example is left, or Feast refuses the declarations.
    """
    base = get_base_path(select)
    tokenizer = AutoTokenizer.from_pretrained(base)
    reader = read_format(base, config.max_tokens) if is_encoder(base) else None
    encode: Encode = partial(tokenize_all, tokenizer, max_tokens=config.max_tokens)
    unusable = "too_long", f"question and answer alone are longer than features.max_tokens, {config.max_tokens}"
    if reader:
        encode = partial(tokenize_labelled, reader)
        unusable = "new_label", "no training example has its label"
    counts = _Counts()
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        feast = stack.enter_context(pq.ParquetWriter(out / PARQUET, VIEW_SCHEMA, compression="zstd"))
        retrieval: Retrieval | None = None
        if index and not reader and read_record(index).metrics.get("passages"):
            own = stack.enter_context(closing(ExamplePassages(index, annotate)))
            retrieval = Retrieval(
                index=stack.enter_context(open_index(index)),
                own=own,
                test_documents={
                    one for item in read_examples(annotate / "test.parquet") for one in own.find_documents(item)
                },
                sent_sources=find_sources_with_contexts(collect),
                config=grounding,
                window=serving.max_context,
                fits=lambda one: (
                    len(encode_example(tokenizer, one.question, one.answer, one.context)[0]) <= config.max_tokens
                ),
            )
        for split in SPLITS:
            # The stage evaluate looks up the questions of the test itself.
            split_retrieval = retrieval if split != "test" else None
            chunks = _read_chunks(annotate / f"{split}.parquet")
            with pa.ipc.new_stream(get_mapped_path(out, split), MAPPED_SCHEMA) as mapped:
                for rows in _make_row_groups(encode, unusable, chunks, split_retrieval, counts):
                    feast.write_table(rows.select(VIEW_SCHEMA.names).cast(VIEW_SCHEMA))
                    mapped.write_table(rows.select(MAPPED_COLUMNS).rename_columns(MAPPED_SCHEMA.names))
    write_rows(out / "dropped.parquet", counts.dropped, DroppedRow)
    if not counts.tokens["train"]:
        raise ArtifactError(
            f"No training example is left of {len(counts.ids) + len(counts.dropped)} in {annotate}: "
            f"{len(counts.dropped)} were dropped, see {out / 'dropped.parquet'}; raise features.max_tokens (now "
            f"{config.max_tokens})."
        )
    probe = reader.encode([("text", "")]) if reader else encode_example(tokenizer, *_PROBE)
    store = declarations.declare(config, name_project(config, json.dumps(probe), select), out)
    write_online(config, store, pq.ParquetFile(out / PARQUET).iter_batches(config.online_batch))
    log.info("wrote %d examples to the online store", len(counts.ids))
    return {
        "examples": len(counts.ids),
        "tokens": {split: counts.tokens[split] for split in SPLITS},
        "longest": counts.longest,
        "truncated": counts.truncated,
        "dropped": dict(Counter(d.rule for d in counts.dropped)),
        **({"prompts": dict(counts.outcomes)} if retrieval else {}),
    }


def name_project(config: Features, probe: str, select: Path) -> str:
    """Return the name of Feast's project: one for each model and prompt format, so that their tokens never mix.

    `probe` is an example in this format.
    """
    return f"llmops_{make_content_id(select.name, str(config.max_tokens), declarations.hash_repository(config), probe)}"


@dataclass(slots=True)
class _Counts:
    ids: set[str] = field(default_factory=set)
    dropped: list[DroppedRow] = field(default_factory=list)
    tokens: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    longest: int = 0
    truncated: int = 0


def _make_row_groups(
    encode: Encode,
    unusable: tuple[str, str],
    chunks: Iterable[list[Example]],
    retrieval: Retrieval | None,
    counts: _Counts,
) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    for examples in chunks:
        waiting.append(make_columns(_tokenize_usable(encode, unusable, examples, retrieval, counts)))
        if sum(table.num_rows for table in waiting) >= ROW_GROUP_SIZE:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting.clear()
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def _read_chunks(path: Path) -> Iterator[list[Example]]:
    file = pq.ParquetFile(path)
    for done, batch in enumerate(file.iter_batches(CHUNK_SIZE)):
        yield [Example(**row) for row in batch.to_pylist()]
        log.info("tokenised %d of %d examples of %s", done * CHUNK_SIZE + len(batch), file.metadata.num_rows, path.stem)


def _tokenize_usable(
    encode: Encode,
    unusable: tuple[str, str],
    examples: list[Example],
    retrieval: Retrieval | None,
    counts: _Counts,
) -> list[tuple[Example, Tokens, Tokens, bool]]:
    """Return the examples with their tokens, those for training, and True for each that was cut.

    Without retrieval all tokens are for training.

    `unusable` is the rule and the detail of an example that cannot be encoded.
    """
    rows = list[tuple[Example, Tokens, Tokens, bool]]()
    added = [*add_passages(examples, retrieval)] if retrieval else [(example, UNCHANGED) for example in examples]
    plain_tokens = encode(examples)
    trained = encode([prompt for prompt, _ in added]) if retrieval else plain_tokens
    for example, (_, outcome), (plain, _), (tokens, cut) in zip(examples, added, plain_tokens, trained, strict=True):
        if plain is None or tokens is None:
            counts.dropped.append(_make_dropped(example, *unusable))
        elif example.id in counts.ids:
            counts.dropped.append(
                _make_dropped(example, "duplicate", f"the id {example.id} is taken by another example")
            )
        elif outcome == NOT_IN_PASSAGES:
            detail = (
                f"the passages that fit into its prompt have less than {MIN_ANSWER_SHARE:.0%} of its answer's words"
            )
            counts.dropped.append(_make_dropped(example, outcome, detail))
        else:
            rows.append((example, plain, tokens, cut))
            counts.ids.add(example.id)
            if retrieval:
                counts.outcomes[outcome] += 1
            counts.tokens[example.split] += len(tokens.token_ids)
            counts.longest = max(counts.longest, len(tokens.token_ids))
            counts.truncated += cut
    return rows


def _make_dropped(example: Example, rule: str, detail: str) -> DroppedRow:
    return DroppedRow(
        id=example.id,
        source=example.source,
        location=example.location,
        position=example.position,
        rule=rule,
        detail=detail,
        content=example.question,
    )

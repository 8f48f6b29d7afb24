"""Put tokens into Feast as the view `llm_training_features`, and read them back: offline to train, online to serve.

Every features artifact is a feature store of its own: `features.parquet`, the registry of what `feature_repo/`
declares, and a `feature_store.yaml` with which `feast -c <artifact> …` works. Only the online store is shared by all
artifacts, with one table per base model, since token ids of one tokenizer mean nothing to another.

    python -m llmops run features
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore
from transformers import AutoTokenizer

from llmops import artifacts
from llmops.config import Features
from llmops.errors import ArtifactError
from llmops.features.tokenize import Tokens, tokenize
from llmops.model.select import base_path
from llmops.records import Dropped, Example, read_rows, write_rows, write_table

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
SPLITS = ("train", "validation", "test")
VIEW = "llm_training_features"
SERVICE = "llm_training"
PARQUET = "features.parquet"
SCHEMA = pa.schema(
    [
        pa.field("input_id", pa.string(), nullable=False),
        pa.field("event_timestamp", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("token_ids", pa.list_(pa.int64()), nullable=False),
        pa.field("attention_mask", pa.list_(pa.int64()), nullable=False),
        pa.field("meta", pa.string(), nullable=False),
    ]
)


def run(config: Features, *, annotate: Path, select: Path, out: Path) -> Mapping[str, Any]:
    """Tokenise all splits into `features.parquet`, declare them to Feast and write them to the online store.

    Examples that cannot be used go to `dropped.parquet` with the reason.

    Raises:
        ArtifactError: if no training example is left, or Feast refuses the declarations.
    """
    tokenizer = AutoTokenizer.from_pretrained(base_path(select))
    examples = [e for split in SPLITS for e in read_rows(annotate / f"{split}.parquet", Example)]
    rows: dict[str, dict[str, Any]] = {}
    dropped: list[Dropped] = []
    tokens_per_split: Counter[str] = Counter({split: 0 for split in SPLITS})
    truncated = 0
    for done, example in enumerate(examples, 1):
        tokens, cut = tokenize(tokenizer, example, config.max_tokens)
        if tokens is None:
            what = f"question and answer alone are longer than features.max_tokens, {config.max_tokens}"
            dropped.append(_drop(example, "too_long", what))
        elif example.id in rows:
            dropped.append(_drop(example, "duplicate", f"the id {example.id} is taken by another example"))
        else:
            rows[example.id] = _row(example, tokens)
            tokens_per_split[example.split] += len(tokens.token_ids)
            truncated += cut
        if done % 1000 == 0 or done == len(examples):
            log.info("tokenised %d of %d examples", done, len(examples))
    if not tokens_per_split["train"]:
        raise ArtifactError(
            f"No training example is left of {len(examples)} in {annotate}: {len(dropped)} were dropped, see "
            f"{out / 'dropped.parquet'}; raise features.max_tokens (now {config.max_tokens})."
        )
    write_table(out / PARQUET, pa.Table.from_pylist(list(rows.values()), schema=SCHEMA))
    write_rows(out / "dropped.parquet", dropped, Dropped)
    _declare(config, select.name, out)
    _materialize(config, out, [row["event_timestamp"] for row in rows.values()])
    return {
        "examples": len(rows),
        "tokens": dict(tokens_per_split),
        "longest": max(len(row["token_ids"]) for row in rows.values()),
        "truncated": truncated,
        "dropped": dict(Counter(d.rule for d in dropped)),
    }


def read_offline(features: Path, split: str) -> list[Tokens]:
    """The examples of one split, through Feast's point-in-time retrieval, in the order they were written.

    Args:
        features: a features artifact.
        split: train, validation or test.

    Raises:
        ArtifactError: if the artifact holds no example of that split.
    """
    index = pq.read_table(_parquet(features), columns=["input_id", "event_timestamp", "meta"]).to_pylist()
    wanted = [row for row in index if json.loads(row["meta"])["split"] == split]
    if not wanted:
        raise ArtifactError(f"{features} holds no example of the split {split!r}; look at its dropped.parquet.")
    store = FeatureStore(repo_path=str(features))
    entities = pd.DataFrame([{k: row[k] for k in ("input_id", "event_timestamp")} for row in wanted])
    found = store.get_historical_features(entity_df=entities, features=store.get_feature_service(SERVICE))
    by_id = {row["input_id"]: row for row in found.to_arrow().to_pylist()}
    return [_tokens(row["input_id"], by_id[row["input_id"]]) for row in wanted]


def read_online(features: Path, ids: Sequence[str]) -> list[Tokens | None]:
    """The tokens of some examples from the online store, in the order of `ids`; None for an unknown id.

    Args:
        features: a features artifact made with the base model whose tokens are wanted.
        ids: values of `input_id`.
    """
    return OnlineTokens(features).read(ids)


class OnlineTokens:
    """An open connection to the online store, for a caller that reads often (opening costs a second)."""

    def __init__(self, features: Path) -> None:
        """Open the store of a features artifact.

        Raises:
            ArtifactError: if there is no such artifact.
        """
        _parquet(features)
        self._store = FeatureStore(repo_path=str(features))

    def read(self, ids: Sequence[str]) -> list[Tokens | None]:
        """See `read_online`."""
        if not ids:
            return []
        columns = self._store.get_online_features(
            features=[f"{VIEW}:token_ids", f"{VIEW}:meta"], entity_rows=[{"input_id": i} for i in ids]
        ).to_dict()
        found = zip(columns["input_id"], columns["token_ids"], columns["meta"], strict=True)
        return [_tokens(i, {"token_ids": ids, "meta": meta}) if meta else None for i, ids, meta in found]


def _row(example: Example, tokens: Tokens) -> dict[str, Any]:
    meta = {
        "split": example.split,
        "source": example.source,
        "group": example.group,
        "prompt_tokens": tokens.prompt_tokens,
    }
    day = date.fromisoformat(example.interval) if example.interval else date(1970, 1, 1)
    return {
        "input_id": example.id,
        "event_timestamp": datetime.combine(day, time(), UTC),
        "token_ids": tokens.token_ids,
        "attention_mask": [1] * len(tokens.token_ids),
        "meta": json.dumps(meta, ensure_ascii=False, sort_keys=True),
    }


def _tokens(input_id: str, features: Mapping[str, Any]) -> Tokens:
    prompt = int(json.loads(features["meta"])["prompt_tokens"])
    return Tokens(input_id, [int(i) for i in features["token_ids"]], prompt)


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


def _declare(config: Features, base: str, out: Path) -> None:
    """Apply the declarations with Feast's own command line: its imports of them would stay in this process."""
    config.store.mkdir(parents=True, exist_ok=True)
    where = {
        "LLMOPS_FEATURES": str(out.absolute()),
        "LLMOPS_FEAST": str(config.store.absolute()),
        "LLMOPS_TOKENIZER": base,
    }
    repo = ROOT / config.repo
    template = (repo / "feature_store.yaml").read_text(encoding="utf-8")
    lines = [line for line in template.splitlines(keepends=True) if not line.startswith("#")]
    (out / "feature_store.yaml").write_text(Template("".join(lines)).safe_substitute(where), encoding="utf-8")
    command = [sys.executable, "-m", "feast.cli.cli", "-c", str(repo), "apply"]
    with artifacts.locked(config.store / "online"):
        done = subprocess.run(command, env={**os.environ, **where}, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise ArtifactError(f"Feast refuses the declarations in {repo}: {''.join(reason)}")
    log.info("declared %s to Feast", VIEW)


def _materialize(config: Features, out: Path, timestamps: Iterable[datetime]) -> None:
    """Copy the artifact's rows to the online store, a batch at a time."""
    times = sorted(set(timestamps))
    store = FeatureStore(repo_path=str(out))
    store.config.materialization_config.online_write_batch_size = config.online_batch
    # Feast prints its progress, and standard output belongs to the command line; SQLite gives up on a second writer
    # after five seconds, hence the lock.
    with artifacts.locked(config.store / "online"), redirect_stdout(sys.stderr):
        store.materialize(times[0] - timedelta(days=1), times[-1] + timedelta(days=1), feature_views=[VIEW])
    log.info("wrote %s to the online store in %s", VIEW, config.store)


def _parquet(features: Path) -> Path:
    path = features / PARQUET
    if not path.is_file():
        raise ArtifactError(
            f"{features} is no features artifact: it has no {PARQUET}; run `llmops run features` first."
        )
    return path

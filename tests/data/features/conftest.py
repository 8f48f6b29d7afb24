"""Small inputs of the features stage: a word-level tokenizer and examples."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmops.config import Features
from llmops.data.features.stage import run
from llmops.frame.records import Example, write_rows

WORDS = ("a", "b", "c", "Question", "Answer", "Context", "[", "]", "#")


def make_tokenizer(words: tuple[str, ...]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(("<unk>", "<eos>", *words))}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>")


def select(folder: Path, words: tuple[str, ...] = WORDS) -> Path:
    make_tokenizer(words).save_pretrained(folder / "base")
    (folder / "selection.json").write_text(json.dumps({"model": "tiny", "path": "base"}))
    return folder


def annotate(folder: Path, **splits: list[Example]) -> Path:
    for split in ("train", "validation", "test"):
        write_rows(folder / f"{split}.parquet", splits.get(split, []), Example)
    return folder


def example(number: int, split: str = "train", **changes: Any) -> Example:
    fields = {
        "id": f"id{number}", "question": "a b", "answer": "c " * (number % 50 + 1), "group": f"group {number}",
        "split": split, "source": "faq", "location": "faq.csv", "position": f"row {number}", "interval": "2026-01-31",
    }  # fmt: skip
    return Example(**{**fields, **changes})


def artifact(
    home: Path, key: str = "fedcba9876543210", count: int = 8, words: tuple[str, ...] = WORDS, **config: Any
) -> tuple[Features, Path]:
    """Make a features artifact of `count` training examples id0, id1, …; return its configuration and its path."""
    out = home / "artifacts" / "features" / key
    train = [example(n) for n in range(count)]
    settings = Features(store=home / "feast", **config)
    base = select(home / "artifacts" / "select" / words[0], words)
    run(settings, annotate=annotate(home / "annotate", train=train), select=base, out=out)
    return settings, out


@pytest.fixture(scope="session")
def make() -> Any:
    return SimpleNamespace(select=select, annotate=annotate, example=example, artifact=artifact, WORDS=WORDS)

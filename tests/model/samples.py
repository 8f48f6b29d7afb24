"""Models, examples, records and hyperparameters that tests of training share."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llmops.config import Train
from llmops.data.features.tokenize import Tokens
from llmops.frame.records import Example
from llmops.model.base.catalog import CatalogueEntry
from llmops.model.training.qlora import Hyperparameters, load_trainable_model

HYPERPARAMETERS = Hyperparameters(learning_rate=5e-3, rank=4, batch=4)
SHAPE: dict[str, Any] = dict(
    vocab_size=600, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0
)


def make_causal_model(family: str, **shape: Any) -> Any:
    """Return a small random model of a family, in float32: `llama`, `phi3`, `qwen2`, `mistral`, `mixtral`, `gpt2`."""
    torch.manual_seed(0)
    heads = {} if family == "gpt2" else {"num_key_value_heads": 2}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**SHAPE, **heads, **shape}))


def write_random_adapter(base: Path, config: Train, out: Path) -> Path:
    """Write an adapter whose every weight changes something; return `out`."""
    model = load_trainable_model(str(base), config, HYPERPARAMETERS)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.05
    model.save_pretrained(out)
    return out


def make_tokens(count: int, seed: int = 3) -> list[Tokens]:
    """Return rows of random tokens in seven lengths; the second half of each is the answer."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(20, 400, (8 + 3 * (i % 7),), generator=generator).tolist() for i in range(count)]
    return [Tokens(f"{seed}-{i}", row, len(row) // 2) for i, row in enumerate(rows)]


def make_example(number: int, split: str = "validation", **changed: str) -> Example:
    """Return a question with its answer; every two of them share a topic."""
    values = {
        "id": f"{number:016x}", "question": f"Question {number}?", "answer": f"Answer {number}.",
        "group": f"topic {number // 2}", "split": split, "source": "faq", "location": "faq.csv",
        "position": f"row {number}",
    }  # fmt: skip
    return Example(**{**values, **changed})


def make_entry(model: str, parameters: float, **changed: Any) -> CatalogueEntry:
    """Return a row of a catalogue; `parameters` are billions."""
    row: dict[str, Any] = {
        "licence": "apache-2.0", "embedding": 0.1, "context": 2048, "languages": ("en",), "gated": False, "layers": 24,
        "kv": 256,
    }  # fmt: skip
    return CatalogueEntry(model=model, parameters=parameters, **{**row, **changed})

"""Models, examples, records and hyperparameters that tests of training share."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

from llmops.config import Train
from llmops.data.features.tokenize import Tokens
from llmops.frame.records import Example
from llmops.model.base.catalog import CatalogueEntry
from llmops.model.training.qlora import Hyperparameters, load_trainable_model

HYPERPARAMETERS = Hyperparameters(learning_rate=5e-3, rank=4, batch=4)
SHAPE: dict[str, Any] = dict(
    vocab_size=600, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0
)


#: label → words of which a text with it has one; the other words of a text say nothing
LABEL_WORDS = {
    "lost card": ("stolen", "gone", "missing"),
    "转账": ("send", "transfer", "wire"),
    "refund": ("back", "return", "shop"),
}
KINDS_OF_ROBERTA = ("roberta", "xlm-roberta", "camembert")
FILLERS = ("please", "my", "the", "today", "help", "with", "it", "now")


def make_encoder(folder: Path, kind: str = "bert") -> Path:
    """Write a small random encoder and a tokenizer of whole words, which reads 16 tokens; return `folder`."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *FILLERS, *(word for some in LABEL_WORDS.values() for word in some)]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks).save_pretrained(folder)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": len(words), "max_position_embeddings": 16, "pad_token_id": 0}
    if kind == "distilbert":
        sizes |= {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4}
    else:
        sizes |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    if kind in KINDS_OF_ROBERTA:
        sizes["max_position_embeddings"] += 1  # which it counts from behind the padding token's number
    if kind == "deberta-v2":
        sizes |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
    if kind == "modernbert":
        sizes |= {"cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3}
    AutoModel.from_config(AutoConfig.for_model(kind, **sizes)).save_pretrained(folder)
    return folder


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

"""A tiny model whose heads are as wide as vLLM needs them."""

from pathlib import Path
from typing import Any

WINDOW = 512


def make_wide_base(folder: Path, tokenizer: Any, seed: int = 0) -> Path:
    """Write a Llama of two narrow layers with random weights and its tokenizer; return `folder`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=WINDOW,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

"""Answer prompts greedily, in batches, with a model that torch runs; stages use `inference`."""

from collections.abc import Collection, Sequence

import torch
from transformers import PreTrainedTokenizerBase

from llmops import prompts
from llmops.model.base.load import Model


@torch.inference_mode()
def generate(
    model: Model, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Sequence[int]], max_new_tokens: int
) -> list[list[int]]:
    """Answer a batch of prompts, as token ids, greedily; return the token ids of each answer without its end token."""
    width = max(len(r) for r in requests)
    pad, end_ids = int(tokenizer.pad_token_id), prompts.find_end_ids(tokenizer)
    stored_ends = model.generation_config.eos_token_id
    end_ids |= set(stored_ends) if isinstance(stored_ends, list) else {stored_ends} - {None}
    ids = torch.tensor([[pad] * (width - len(r)) + list(r) for r in requests], device=model.device)
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in requests], device=model.device)
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        pad_token_id=pad,
        eos_token_id=sorted(end_ids),
        stop_strings=prompts.get_stop_strings(tokenizer) or None,
        tokenizer=tokenizer,
    )
    return [cut_at_end(row, end_ids) for row in output[:, width:].tolist()]


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return the text of an answer, without special tokens and without the string that ends it."""
    text = str(tokenizer.decode(list(ids), skip_special_tokens=True))
    for end in prompts.get_stop_strings(tokenizer):
        text = text.split(end)[0]
    return text.strip()


def cut_at_end(ids: list[int], end_ids: Collection[int]) -> list[int]:
    """Return the tokens before the first that ends an answer."""
    for n, token in enumerate(ids):
        if token in end_ids:
            return ids[:n]
    return ids

"""A servable folder made ready to answer: model, tokenizer, and what ends an answer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from llmops import prompts
from llmops.errors import ArtifactError
from llmops.model.base.load import load_servable
from serving.engines.transformers.batch import Batch
from serving.engines.transformers.fused import fuse
from serving.engines.transformers.packed import FEW, pack


@dataclass(frozen=True, slots=True)
class Servable:
    """What a running batch needs of a model."""

    batch: Batch
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    window: int  #: most tokens of a request, prompt and answer together
    ends: frozenset[int]  #: tokens that end an answer
    stops: tuple[str, ...]  #: strings that end an answer
    repetition_penalty: float  #: that the model's generation configuration asks for; 1: none


def open_servable(folder: Path, slots: int, max_context: int) -> Servable:
    """Load a servable folder and warm it up.

    Args:
        folder: the servable.
        slots: most requests at a time.
        max_context: most tokens of one; fewer if the model takes fewer.

    Raises:
        ArtifactError: if the model's architecture cannot be run so.
    """
    model, tokenizer = load_servable(folder)
    if isinstance(model, PeftModel):
        model = model.get_base_model()  # the adapter's layers are in it by now
    window = min(max_context, _limit(model.config))
    batch = _batch(model, slots, window)
    for n in range(min(slots, FEW)):  # kernels are made at first use, for each number of rows
        batch.forward([(slot, 0, [3]) for slot in range(n + 1)])
    generation = model.generation_config
    ends = generation.eos_token_id if isinstance(generation.eos_token_id, list) else [generation.eos_token_id]
    return Servable(
        batch=batch,
        tokenizer=tokenizer,
        device=model.device,
        window=window,
        ends=frozenset(n for n in (*ends, *prompts.end_ids(tokenizer)) if n is not None),
        stops=tuple(prompts.stop_strings(tokenizer)),
        repetition_penalty=float(generation.repetition_penalty or 1.0),
    )


@torch.inference_mode()
def _batch(model: Any, slots: int, window: int) -> Batch:
    """A `Batch` that was seen to answer as the model itself does."""
    ids = list(range(3, 35))[:window]  # of tokens that every vocabulary has
    right = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1].float()
    try:
        fuse(model, slots)
        pack(model, slots)
        batch = Batch(model, slots, window)
        for start, end in pairwise((0, 20, 31, 32)):  # in pieces, so that later ones see earlier ones
            ours = batch.forward([(slots - 1, start, ids[start:end])])[0]
    except Exception as error:
        raise _unfit(model, f"{type(error).__name__}: {error}") from error
    # Rounding differs in the last bits, 0.01 of the deviation; wrong attention gives another answer altogether.
    apart = float((ours - right).std() / right.std())
    if not apart < 0.2:
        raise _unfit(model, f"its logits are off by {apart:.2f} of their deviation")
    return batch


def _unfit(model: Any, why: str) -> ArtifactError:
    return ArtifactError(
        f"The engine `transformers` cannot run {type(model).__name__} for many requests at once ({why}). "
        "Serve this model with the engine `vllm`."
    )


def _limit(config: Any) -> int:
    """Most tokens that a model takes with one set of rotary frequencies.

    Some models (Phi-3 with 128k, for one) change theirs once a text is longer than that, for all requests of a batch.
    """
    scaling = getattr(config, "rope_parameters", None) or {}
    limit = int(config.max_position_embeddings)
    if scaling.get("rope_type") in ("longrope", "dynamic"):
        limit = min(limit, int(scaling.get("original_max_position_embeddings") or limit))
    return limit

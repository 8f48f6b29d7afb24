"""What a servable folder says of how its model is asked and where its answers end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from llmops import prompts


@dataclass(frozen=True, slots=True)
class Folder:
    """A servable folder without its weights."""

    tokenizer: PreTrainedTokenizerBase
    window: int  #: most tokens of a request, prompt and answer together
    ends: frozenset[int]  #: tokens that end an answer
    stops: tuple[str, ...]  #: strings that end an answer
    repetition_penalty: float  #: that the model's generation configuration asks for; 1: none


def read_folder(path: Path, max_context: int | None = None) -> Folder:
    """Read a servable folder; nothing of torch is needed.

    Args:
        path: the folder.
        max_context: most tokens of a request; fewer if the model takes fewer, or if nothing is said.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(path))
    config = AutoConfig.from_pretrained(str(path)).get_text_config()
    limit, file = _limit(config), path / "generation_config.json"
    generation = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    ends = generation.get("eos_token_id", getattr(config, "eos_token_id", None))
    return Folder(
        tokenizer=tokenizer,
        window=min(max_context or limit, limit),
        ends=frozenset(n for n in (*_listed(ends), *prompts.end_ids(tokenizer)) if n is not None),
        stops=tuple(prompts.stop_strings(tokenizer)),
        repetition_penalty=float(generation.get("repetition_penalty") or 1.0),
    )


def _listed(ends: Any) -> list[int | None]:
    return ends if isinstance(ends, list) else [ends]


def _limit(config: Any) -> int:
    """Most tokens that a model takes with one set of rotary frequencies.

    Some models (Phi-3 with 128k, for one) change theirs once a text is longer than that, for all requests of a batch.
    """
    scaling = getattr(config, "rope_parameters", None) or {}
    limit = int(config.max_position_embeddings)
    if scaling.get("rope_type") in ("longrope", "dynamic"):
        limit = min(limit, int(scaling.get("original_max_position_embeddings") or limit))
    return limit

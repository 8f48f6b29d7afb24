"""The tokenizer, the context and the ends of answers of a servable folder, read without weights and without torch.

A folder with a GGUF file is read without transformers, too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from llmops import prompts
from llmops.model.gguf.tokenizer import GgufTokenizer
from llmops.model.gguf.worker import is_gguf

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class ServableFolder:
    """A servable folder without its weights."""

    tokenizer: PreTrainedTokenizerBase
    window: int  #: most tokens of a request, prompt and answer together
    end_ids: frozenset[int]  #: tokens that end an answer
    stop_strings: tuple[str, ...]  #: strings that end an answer
    repetition_penalty: float  #: that the model's generation configuration asks for; 1: none


def read_folder(path: Path, max_context: int | None = None) -> ServableFolder:
    """Read a servable folder; a request may have `max_context` tokens, or fewer if the model takes fewer."""
    config: Any
    if is_gguf(path):
        tokenizer = cast("PreTrainedTokenizerBase", GgufTokenizer(path))
        config = SimpleNamespace(**json.loads((path / "config.json").read_text(encoding="utf-8")))
    else:
        from transformers import AutoConfig, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(path))
        config = AutoConfig.from_pretrained(str(path)).get_text_config()
    limit, file = _find_context_limit(config), path / "generation_config.json"
    generation = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    stored_ends = generation.get("eos_token_id", getattr(config, "eos_token_id", None))
    end_ids = stored_ends if isinstance(stored_ends, list) else [stored_ends]
    return ServableFolder(
        tokenizer=tokenizer,
        window=min(max_context or limit, limit),
        end_ids=frozenset(n for n in (*end_ids, *prompts.find_end_ids(tokenizer)) if n is not None),
        stop_strings=tuple(prompts.get_stop_strings(tokenizer)),
        repetition_penalty=float(generation.get("repetition_penalty") or 1.0),
    )


def _find_context_limit(config: Any) -> int:
    """Return the number of tokens that a model takes with one set of rotary frequencies.

    For longer texts some models (such as Phi-3 with 128k) change the frequencies of all requests of a batch.
    """
    scaling = getattr(config, "rope_parameters", None) or {}
    limit = int(config.max_position_embeddings)
    if scaling.get("rope_type") in ("longrope", "dynamic"):
        limit = min(limit, int(scaling.get("original_max_position_embeddings") or limit))
    return limit

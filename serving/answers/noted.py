"""What a request asks for, in its event: noted before anything may refuse it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import Request

from serving.admission.dependencies import parts
from serving.answers.schemas import Sampling
from serving.engines.base import Prompt

MOST_NAME = 200  #: characters of a model's name, which may be none of ours


def note_settings(
    request: Request,
    sampling: Sampling,
    *,
    model: str,
    max_tokens: int,
    n: int = 1,
    stream: bool = False,
    logprobs: int | None = None,
    ignore_eos: bool = False,
) -> None:
    """Note the settings that a caller gave; of stop strings only how many, since they are the caller's words.

    Args:
        request: the HTTP request.
        sampling: what the caller sent.
        model: that was asked for.
        max_tokens: longest answer.
        n: answers to each prompt.
        stream: whether they are to come piece by piece.
        logprobs, ignore_eos: see `EngineRequest`.
    """
    stop = [sampling.stop] if isinstance(sampling.stop, str) else sampling.stop
    given: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "choice.count": n if n > 1 else None,
        "stream": stream or None,
        "stop_sequences": len(stop) if stop else None,
    }
    settings = {f"gen_ai.request.{name}": value for name, value in given.items() if value is not None}
    if logprobs is not None:
        settings["llmops.request.logprobs"] = logprobs
    if ignore_eos:
        settings["llmops.request.ignore_eos"] = True
    request.state.event.update(
        {"gen_ai.request.model": model[:MOST_NAME], "gen_ai.request.max_tokens": max_tokens, **settings},
    )


def note_prompts(request: Request, prompts: Sequence[Prompt]) -> None:
    """Note the digests of what is asked."""
    digests = parts(request).digests
    request.state.event["llmops.prompt.digest"] = one_or_all([digests.prompt(prompt) for prompt in prompts])


def one_or_all(values: list[str]) -> str | list[str]:
    """A field of an event that has one value, as a rule."""
    return values[0] if len(values) == 1 else values

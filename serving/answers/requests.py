"""From a caller's request to an engine's, within the configured limits, and with its settings in the event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import Request

from llmops.config import Serving
from serving.admission.dependencies import get_parts
from serving.answers.schemas import Sampling
from serving.engines.base import Chat, EngineRequest, Prompt, Question, Text
from serving.errors import PromptRefused

#: Smaller temperatures count as 0: the likeliest token is almost certain, and logits would overflow.
MIN_TEMPERATURE = 1e-4


def make_engine_request(
    prompt: Prompt, max_new_tokens: int, sampling: Sampling, limits: Serving, key: str, schema: str = ""
) -> EngineRequest:
    """Return the request to an engine for one answer, of at most `limits.max_new_tokens`.

    Without a temperature it is greedy. `key` is the prefix of the caller's key. With a `schema`, the answer follows it.

    Raises:
        PromptRefused: if the prompt is empty or too long.
    """
    limited = _list_limited_parts(prompt)
    for name, part, unit in limited:
        if len(part) > limits.max_prompt_chars:
            raise PromptRefused(f"The {name} has {len(part)} {unit}; at most {limits.max_prompt_chars} are allowed.")
    name, part, _ = limited[0]
    if not part or (isinstance(part, str) and not part.strip()):
        raise PromptRefused(f"The {name} is empty.")
    stop = (sampling.stop,) if isinstance(sampling.stop, str) else tuple(sampling.stop or ())
    temperature = sampling.temperature or 0.0
    temperature = temperature if temperature >= MIN_TEMPERATURE and sampling.top_p != 0 else 0.0
    tokens = min(max_new_tokens, limits.max_new_tokens)
    return EngineRequest(prompt, tokens, temperature, sampling.top_p or 1.0, sampling.seed, stop, schema, key)


def repeat_request(request: EngineRequest, n: int) -> list[EngineRequest]:
    """Return a request `n` times. If it has a seed, each copy gets its own seed; the first copy keeps it."""
    return [request if request.seed is None else replace(request, seed=request.seed ^ i) for i in range(n)]


def record_settings(
    request: Request,
    sampling: Sampling,
    *,
    model: str,
    max_tokens: int,
    n: int = 1,
    stream: bool = False,
    conversation: str | None = None,
) -> None:
    """Put the caller's settings into the event, before anything may refuse them. Count stop strings only."""
    stop = [sampling.stop] if isinstance(sampling.stop, str) else sampling.stop
    values: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "choice.count": n if n > 1 else None,
        "stream": stream or None,
        "stop_sequences": len(stop) if stop else None,
    }
    settings = {f"gen_ai.request.{name}": value for name, value in values.items() if value is not None}
    if conversation:
        settings["gen_ai.conversation.id"] = conversation
    request.state.event.update(
        {"gen_ai.request.model": model, "gen_ai.request.max_tokens": max_tokens, **settings},
    )


def record_prompts(request: Request, prompts: Sequence[Prompt]) -> None:
    """Put the digests of the prompts into the event."""
    digests = get_parts(request).digests
    request.state.event["llmops.prompt.digest"] = unwrap_single([digests.digest_prompt(prompt) for prompt in prompts])


def unwrap_single(values: list[str]) -> str | list[str]:
    """Return the only value, or the list if there are several."""
    return values[0] if len(values) == 1 else values


def _list_limited_parts(prompt: Prompt) -> list[tuple[str, Sequence[object], str]]:
    """Return name, content and unit of the parts of a prompt whose length is limited. The first must not be empty."""
    match prompt:
        case Question():
            return [("prompt", prompt.text, "characters"), ("context", prompt.context, "characters")]
        case Chat():
            return [("conversation", "".join(message.content for message in prompt.messages), "characters")]
        case Text():
            return [("prompt", prompt.text, "characters")]
    return [("prompt", prompt.ids, "tokens")]

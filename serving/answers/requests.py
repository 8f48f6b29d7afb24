"""From a caller's request to an engine's, within the limits of the configuration, and its settings in the event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import Request

from llmops.config import Serving
from serving.admission.dependencies import parts
from serving.answers.schemas import Sampling
from serving.engines.base import Chat, EngineRequest, Prompt, Question, Text
from serving.errors import PromptRefused

#: Below it a temperature counts as 0: the likeliest token is all but certain, and logits overflow soon.
LEAST_TEMPERATURE = 1e-4


def engine_request(prompt: Prompt, max_new_tokens: int, sampling: Sampling, limits: Serving) -> EngineRequest:
    """Return the request to an engine for one answer; without a temperature it is greedy.

    Raises:
        PromptRefused: if the prompt is empty or too long, or more tokens are asked for than are given.
    """
    measured = _measured(prompt)
    for what, part, unit in measured:
        if len(part) > limits.max_prompt_chars:
            raise PromptRefused(f"The {what} has {len(part)} {unit}; at most {limits.max_prompt_chars} are taken.")
    what, part, _ = measured[0]
    if not part or (isinstance(part, str) and not part.strip()):
        raise PromptRefused(f"The {what} is empty.")
    if max_new_tokens > limits.max_new_tokens:
        raise PromptRefused(f"{max_new_tokens} new tokens are asked for; at most {limits.max_new_tokens} are given.")
    stop = (sampling.stop,) if isinstance(sampling.stop, str) else tuple(sampling.stop or ())
    temperature = sampling.temperature or 0.0
    temperature = temperature if temperature >= LEAST_TEMPERATURE else 0.0
    return EngineRequest(prompt, max_new_tokens, temperature, sampling.top_p or 1.0, sampling.seed, stop)


def copies(request: EngineRequest, n: int) -> list[EngineRequest]:
    """Return a request `n` times. Where a seed is given each gets its own, the first one the given one."""
    return [request if request.seed is None else replace(request, seed=request.seed ^ i) for i in range(n)]


def note_settings(
    request: Request, sampling: Sampling, *, model: str, max_tokens: int, n: int = 1, stream: bool = False
) -> None:
    """Put the caller's settings into the event, before anything may refuse them; of stop strings only how many."""
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
    request.state.event.update(
        {"gen_ai.request.model": model, "gen_ai.request.max_tokens": max_tokens, **settings},
    )


def note_prompts(request: Request, prompts: Sequence[Prompt]) -> None:
    """Put the digests of the prompts into the event."""
    digests = parts(request).digests
    request.state.event["llmops.prompt.digest"] = one_or_all([digests.prompt(prompt) for prompt in prompts])


def one_or_all(values: list[str]) -> str | list[str]:
    """Return the value of an event's field that has one value, as a rule."""
    return values[0] if len(values) == 1 else values


def _measured(prompt: Prompt) -> list[tuple[str, Sequence[object], str]]:
    """Return the parts of a prompt whose length is limited: name, content, unit. The first must not be empty."""
    match prompt:
        case Question():
            return [("prompt", prompt.text, "characters"), ("context", prompt.context, "characters")]
        case Chat():
            return [("conversation", "".join(message.content for message in prompt.messages), "characters")]
        case Text():
            return [("prompt", prompt.text, "characters")]
    return [("prompt", prompt.ids, "tokens")]

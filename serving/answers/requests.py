"""From what a caller sends to what an engine gets, within the limits of the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llmops.config import Serving
from serving.answers.schemas import Sampling
from serving.engines.base import Chat, EngineRequest, Prompt, Question, Text
from serving.errors import PromptRefused

#: Below it a temperature counts as 0: the likeliest token is all but certain, and logits overflow soon.
LEAST_TEMPERATURE = 1e-4


def engine_request(prompt: Prompt, max_new_tokens: int, sampling: Sampling, limits: Serving) -> EngineRequest:
    """The request to an engine for one answer.

    Args:
        prompt: what is to be answered.
        max_new_tokens: longest answer.
        sampling: what the caller sent; without a temperature the answer is greedy.
        limits: of the configuration.

    Raises:
        PromptRefused: if the prompt is empty or too long, or more tokens are asked for than are given.
    """
    parts = _measured(prompt)
    for what, part, unit in parts:
        if len(part) > limits.max_prompt_chars:
            raise PromptRefused(f"The {what} has {len(part)} {unit}; at most {limits.max_prompt_chars} are taken.")
    what, part, _ = parts[0]
    if not part or (isinstance(part, str) and not part.strip()):
        raise PromptRefused(f"The {what} is empty.")
    if max_new_tokens > limits.max_new_tokens:
        raise PromptRefused(f"{max_new_tokens} new tokens are asked for; at most {limits.max_new_tokens} are given.")
    stop = (sampling.stop,) if isinstance(sampling.stop, str) else tuple(sampling.stop or ())
    temperature = sampling.temperature or 0.0
    temperature = temperature if temperature >= LEAST_TEMPERATURE else 0.0
    return EngineRequest(prompt, max_new_tokens, temperature, sampling.top_p or 1.0, sampling.seed, stop)


def copies(request: EngineRequest, n: int) -> list[EngineRequest]:
    """A request `n` times, for `n` answers. Where a seed is given each gets its own, the first one the given one."""
    return [request if request.seed is None else replace(request, seed=request.seed ^ i) for i in range(n)]


def _measured(prompt: Prompt) -> list[tuple[str, Sequence[object], str]]:
    """The parts of a prompt whose length is limited: name, content, unit. The first one must not be empty."""
    match prompt:
        case Question():
            return [("prompt", prompt.text, "characters"), ("context", prompt.context, "characters")]
        case Chat():
            return [("conversation", "".join(message.content for message in prompt.messages), "characters")]
        case Text():
            return [("prompt", prompt.text, "characters")]
    return [("prompt", prompt.ids, "tokens")]

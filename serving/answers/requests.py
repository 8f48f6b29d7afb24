"""From what a caller sends to what an engine gets, within the limits of the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llmops.config import Serving
from serving.answers.schemas import Sampling
from serving.engines.base import Calls, Chat, EngineRequest, Prompt, Question, Text
from serving.errors import PromptRefused

#: Below it a temperature counts as 0: the likeliest token is all but certain, and logits overflow soon.
LEAST_TEMPERATURE = 1e-4


def engine_request(
    prompt: Prompt,
    max_new_tokens: int,
    sampling: Sampling,
    limits: Serving,
    *,
    fill: bool = False,
    schema: str = "",
    logprobs: int | None = None,
    calls: Calls | None = None,
    ignore_eos: bool = False,
) -> EngineRequest:
    """The request to an engine for one answer.

    Args:
        prompt: what is to be answered.
        max_new_tokens: longest answer; more than the configuration gives is not refused, as an answer cut there says
            so by its finish reason. Nor is it then if the model's context has no room for so many.
        sampling: what the caller sent; without a temperature the answer is greedy.
        limits: of the configuration.
        fill: whether the caller said nothing of a longest answer, so that what the context has room for will do.
        schema: that the answer is to follow, if any.
        logprobs, calls: see `EngineRequest`.
        ignore_eos: see `EngineRequest`.

    Raises:
        PromptRefused: if the prompt is empty or too long, or the answer would have to end and must not.
    """
    parts = _measured(prompt)
    for what, part, unit in parts:
        if len(part) > limits.max_prompt_chars:
            raise PromptRefused(f"The {what} has {len(part)} {unit}; at most {limits.max_prompt_chars} are taken.")
    what, part, _ = parts[0]
    if not part or (isinstance(part, str) and not part.strip()):
        raise PromptRefused(f"The {what} is empty.")
    stop = (sampling.stop,) if isinstance(sampling.stop, str) else tuple(sampling.stop or ())
    temperature = sampling.temperature or 0.0
    if temperature < LEAST_TEMPERATURE or sampling.top_p == 0:
        temperature = 0.0
    tokens, fill = min(max_new_tokens, limits.max_new_tokens), fill or max_new_tokens > limits.max_new_tokens
    if schema and ignore_eos:
        raise PromptRefused("An answer after a response_format ends where its JSON does: leave ignore_eos out.")
    top_p = sampling.top_p or 1.0
    return EngineRequest(
        prompt, tokens, temperature, top_p, sampling.seed, stop, schema, logprobs, calls, ignore_eos, fill
    )


def copies(request: EngineRequest, n: int) -> list[EngineRequest]:
    """A request `n` times, for `n` answers. Where a seed is given each gets its own, the first one the given one."""
    return [request if request.seed is None else replace(request, seed=request.seed ^ i) for i in range(n)]


def _measured(prompt: Prompt) -> list[tuple[str, Sequence[object], str]]:
    """The parts of a prompt whose length is limited: name, content, unit. The first one must not be empty."""
    match prompt:
        case Question():
            return [("prompt", prompt.text, "characters"), ("context", prompt.context, "characters")]
        case Chat():
            said = "".join(message.said for message in prompt.messages)
            return [
                ("conversation", said, "characters"),
                ("conversation with its tools", said + prompt.tools, "characters"),
            ]
        case Text():
            return [("prompt", prompt.text, "characters")]
    return [("prompt", prompt.ids, "tokens")]

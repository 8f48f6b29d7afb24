"""Token ids of the prompt of a request."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from llmops import prompts
from llmops.errors import ArtifactError
from llmops.grounding.context import fewer, joined
from serving.engines.base import Chat, EngineRequest, Message, Question, Text, TokenIds, passages_of
from serving.errors import NotOffered, PromptRefused, PromptTooLong


def fitted(
    tokenizer: PreTrainedTokenizerBase, request: EngineRequest, max_context: int
) -> tuple[list[int], EngineRequest]:
    """The token ids of a prompt, and its request as it was fitted to the model's context: with as many of its passages
    as there is room for beside the answer, and for no longer an answer, if fewer tokens will do. Half of the context is
    the answer's then, if it may be so long.

    Raises:
        PromptRefused: see `ids_of`.
    """
    prompt, left = request.prompt, passages_of(request.prompt)
    tokens = min(request.max_new_tokens, max_context // 2) if request.fill else request.max_new_tokens
    while left and isinstance(prompt, Question | Chat):
        request = replace(request, prompt=replace(prompt, passages=left))
        try:
            ids = ids_of(tokenizer, replace(request, max_new_tokens=tokens), max_context)
        except PromptTooLong:
            left = fewer(left)
        else:
            return ids, replace(request, max_new_tokens=min(request.max_new_tokens, max_context - len(ids)))
    return _fitted(tokenizer, request, max_context)


def _fitted(
    tokenizer: PreTrainedTokenizerBase, request: EngineRequest, max_context: int
) -> tuple[list[int], EngineRequest]:
    if not request.fill:
        return ids_of(tokenizer, request, max_context), request
    ids = ids_of(tokenizer, replace(request, max_new_tokens=1), max_context)
    return ids, replace(request, max_new_tokens=min(request.max_new_tokens, max_context - len(ids)))


def ids_of(tokenizer: PreTrainedTokenizerBase, request: EngineRequest, max_context: int) -> list[int]:
    """The token ids of a prompt.

    Raises:
        PromptTooLong: if it does not fit into `max_context` tokens together with its answer.
        PromptRefused: if it is empty, has tokens that the model does not know or that control it, is a chat and the
            model knows none, or is refused by its chat template.
    """
    ids = _ids(tokenizer, request)
    if not ids:
        raise PromptRefused("The prompt has no tokens.")
    if len(ids) + request.max_new_tokens > max_context:
        raise PromptTooLong(
            f"The prompt has {len(ids)} tokens and the answer may take {request.max_new_tokens}; together the model "
            f"takes {max_context}."
        )
    if not 0 <= min(ids) <= max(ids) < len(tokenizer):
        raise PromptRefused(f"The prompt has token ids outside of the model's vocabulary, 0 to {len(tokenizer) - 1}.")
    return ids


def _ids(tokenizer: PreTrainedTokenizerBase, request: EngineRequest) -> list[int]:
    prompt = request.prompt
    if isinstance(prompt, Question):
        try:
            return prompts.prompt_ids(tokenizer, prompt.text, prompt.context or joined(prompt.passages))
        except ArtifactError as error:  # marks like those of a turn, which the model's chat template changes
            raise PromptRefused(str(error)) from error
    if isinstance(prompt, Text):
        return prompts.text_ids(tokenizer, prompt.text)
    if isinstance(prompt, TokenIds):
        return _token_ids(tokenizer, prompt)
    if not tokenizer.chat_template:
        raise PromptRefused("This model has no chat template; ask it a question or give it text to go on with.")
    if prompt.knows_tools and not prompts.knows_tools(tokenizer):
        raise NotOffered(
            "The chat template of this model knows no tools: leave tools and messages about them out, and ask for the "
            "arguments as JSON with response_format."
        )
    messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
    try:
        if prompt.knows_tools:
            turns = [_turn(message) for message in prompt.messages]
            return prompts.tool_chat_ids(tokenizer, turns, json.loads(prompt.tools or "[]"))
        return prompts.chat_ids(tokenizer, messages, joined(prompt.passages))
    except Exception as error:  # templates refuse what they do not know, a system message say, in words of their own
        raise PromptRefused(f"The model's chat template refuses these messages: {error}") from error


def _turn(message: Message) -> dict[str, Any]:
    """A turn as chat templates take it, with the arguments of calls as objects."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.calls:
        turn["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.loads(call.arguments)},
            }
            for call in message.calls
        ]
    if message.call:
        turn |= {"tool_call_id": message.call.id, "name": message.call.name}
    return turn


def _token_ids(tokenizer: PreTrainedTokenizerBase, prompt: TokenIds) -> list[int]:
    """The ids of a prompt; what begins every text may begin a caller's, too."""
    before = prompts.text_ids(tokenizer, "")
    said = prompt.ids[len(before) :] if list(prompt.ids[: len(before)]) == before else prompt.ids
    if not prompt.stored and (forged := prompts.control_ids(tokenizer) & set(said)):
        raise PromptRefused(f"The prompt has the token id {min(forged)}, which controls the model; send text instead.")
    return list(prompt.ids)

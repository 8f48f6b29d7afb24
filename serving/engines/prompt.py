"""Token ids of the prompt of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmops import prompts
from llmops.frame.errors import ArtifactError
from serving.engines.base import EngineRequest, Prompt, Question, Text, TokenIds
from serving.errors import PromptRefused, PromptTooLong

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_prompt(tokenizer: PreTrainedTokenizerBase, request: EngineRequest, max_context: int) -> list[int]:
    """Return the token ids of a prompt.

    Raises:
        PromptTooLong: if the prompt and its answer do not fit into `max_context` tokens.
        PromptRefused: if the prompt is empty, has unknown or control tokens, is a chat for a model without chats, or
            is refused by the model's chat template.
    """
    ids = _encode(tokenizer, request.prompt)
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


def _encode(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    if isinstance(prompt, Question):
        try:
            return prompts.encode_question(tokenizer, prompt.text, prompt.context)
        except ArtifactError as error:  # the text holds marks of a turn, which the model's chat template would change
            raise PromptRefused(str(error)) from error
    if isinstance(prompt, Text):
        return prompts.encode_text(tokenizer, prompt.text)
    if isinstance(prompt, TokenIds):
        return _check_token_ids(tokenizer, prompt)
    if not tokenizer.chat_template:
        raise PromptRefused("This model has no chat template; ask it a question or give it a text to continue.")
    messages = [{"role": m.role, "content": m.content, "context": m.context} for m in prompt.messages]
    try:
        return prompts.encode_chat(tokenizer, messages)
    except Exception as error:  # a template may refuse anything, such as a system message, with any exception
        raise PromptRefused(f"The model's chat template refuses these messages: {error}") from error


def _check_token_ids(tokenizer: PreTrainedTokenizerBase, prompt: TokenIds) -> list[int]:
    """Return the ids of a prompt. Refuse a caller's control tokens, except the ones that begin every text."""
    start = prompts.encode_text(tokenizer, "")
    text_ids = prompt.ids[len(start) :] if list(prompt.ids[: len(start)]) == start else prompt.ids
    if not prompt.stored and (forged := prompts.list_control_ids(tokenizer) & set(text_ids)):
        raise PromptRefused(f"The prompt has the token id {min(forged)}, which controls the model; send text instead.")
    return list(prompt.ids)

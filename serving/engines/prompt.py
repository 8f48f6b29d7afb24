"""Token ids of the prompt of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmops import prompts
from llmops.errors import ArtifactError
from serving.engines.base import EngineRequest, Question, Text, TokenIds
from serving.errors import PromptRefused, PromptTooLong

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def ids_of(tokenizer: PreTrainedTokenizerBase, request: EngineRequest, max_context: int) -> list[int]:
    """Return the token ids of a prompt.

    Raises:
        PromptTooLong: if the prompt and its answer do not fit into `max_context` tokens.
        PromptRefused: if the prompt is empty, has unknown or control tokens, is a chat for a model without chats, or
            is refused by the model's chat template.
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
            return prompts.prompt_ids(tokenizer, prompt.text, prompt.context)
        except ArtifactError as error:  # marks like those of a turn, which the model's chat template changes
            raise PromptRefused(str(error)) from error
    if isinstance(prompt, Text):
        return prompts.text_ids(tokenizer, prompt.text)
    if isinstance(prompt, TokenIds):
        return _token_ids(tokenizer, prompt)
    if not tokenizer.chat_template:
        raise PromptRefused("This model has no chat template; ask it a question or give it text to go on with.")
    messages = [{"role": m.role, "content": m.content, "context": m.context} for m in prompt.messages]
    try:
        return prompts.chat_ids(tokenizer, messages)
    except Exception as error:  # templates refuse what they do not know, a system message say, in words of their own
        raise PromptRefused(f"The model's chat template refuses these messages: {error}") from error


def _token_ids(tokenizer: PreTrainedTokenizerBase, prompt: TokenIds) -> list[int]:
    """Return the ids of a prompt. Control tokens are refused, except those that begin every text."""
    before = prompts.text_ids(tokenizer, "")
    said = prompt.ids[len(before) :] if list(prompt.ids[: len(before)]) == before else prompt.ids
    if not prompt.stored and (forged := prompts.control_ids(tokenizer) & set(said)):
        raise PromptRefused(f"The prompt has the token id {min(forged)}, which controls the model; send text instead.")
    return list(prompt.ids)

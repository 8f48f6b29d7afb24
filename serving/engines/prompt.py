"""Token ids of the prompt of a request."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from llmops import prompts
from serving.engines.base import Chat, EngineRequest, Question, Text
from serving.errors import PromptRefused, PromptTooLong


def ids_of(tokenizer: PreTrainedTokenizerBase, request: EngineRequest, max_context: int) -> list[int]:
    """The token ids of a prompt.

    Raises:
        PromptTooLong: if it does not fit into `max_context` tokens together with its answer.
        PromptRefused: if it is empty, has tokens that the model does not know, or is a chat and the model knows none.
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
        return prompts.prompt_ids(tokenizer, prompt.text, prompt.context)
    if isinstance(prompt, Text):
        return list(tokenizer(prompt.text)["input_ids"])
    if not isinstance(prompt, Chat):
        return list(prompt.ids)
    if not tokenizer.chat_template:
        raise PromptRefused("This model has no chat template; ask it a question or give it text to go on with.")
    messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
    try:
        return prompts.chat_ids(tokenizer, messages)
    except Exception as error:  # templates refuse what they do not know, a system message say, in words of their own
        raise PromptRefused(f"The model's chat template refuses these messages: {error}") from error

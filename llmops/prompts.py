"""The one prompt format. The annotated text is what `annotated()` prints; nothing else knows it.

Training, evaluation and serving all go through `prompt_ids()` and `training_ids()`, so that a model is never asked in
another form than the one it was taught. A model with a chat template gets the same content as a user's and an
assistant's turn; one without gets the annotated text itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END = "####"  #: ends an example in the annotated text, and generation for models without a chat template


def annotated(question: str, answer: str, context: str = "") -> str:
    """The annotated text of one example."""
    return f"{_request(question, context)}\n[Answer] {answer}\n{END}"


def prompt_ids(tokenizer: PreTrainedTokenizerBase, question: str, context: str = "") -> list[int]:
    """Token ids of the request, up to where the answer begins."""
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": _request(question, context)}]
        return chat_ids(tokenizer, messages)
    return list(tokenizer(f"{_request(question, context)}\n[Answer]", add_special_tokens=True)["input_ids"])


def chat_ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> list[int]:
    """Token ids of a conversation, up to where the next assistant turn begins."""
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    return cast(list[int], ids)


def answer_ids(tokenizer: PreTrainedTokenizerBase, answer: str) -> list[int]:
    """Token ids of the answer and of what ends it: the tokens that loss counts on."""
    if tokenizer.chat_template:
        return [
            *tokenizer(answer, add_special_tokens=False)["input_ids"],
            tokenizer.convert_tokens_to_ids(tokenizer.eos_token),
        ]
    return list(tokenizer(f" {answer}\n{END}", add_special_tokens=False)["input_ids"])


def training_ids(
    tokenizer: PreTrainedTokenizerBase, question: str, answer: str, context: str = ""
) -> tuple[list[int], int]:
    """Token ids of a whole example, and how many of them are the prompt (no loss on those)."""
    prompt = prompt_ids(tokenizer, question, context)
    return prompt + answer_ids(tokenizer, answer), len(prompt)


def stop_strings(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What ends an answer besides the end-of-sequence token."""
    return [] if tokenizer.chat_template else [END]


def _request(question: str, context: str) -> str:
    return (f"[Context] {context}\n" if context else "") + f"[Question] {question}"

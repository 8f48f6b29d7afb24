"""The one prompt format. The annotated text is what `annotated()` prints; nothing else knows it.

Training, evaluation and serving all go through `prompt_ids()` and `training_ids()`, so that a model is never asked in
another form than the one it was taught. A model with a chat template gets the same content as a user's and an
assistant's turn; one without gets the annotated text itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END = "####"  #: ends an example in the annotated text, and generation for models without a chat template


def annotated(question: str, answer: str, context: str = "") -> str:
    """The annotated text of one example."""
    return f"{_request(question, context)}\n[Answer] {answer}\n{END}"


def prompt_ids(tokenizer: PreTrainedTokenizerBase, question: str, context: str = "") -> list[int]:
    """Token ids of the request, up to where the answer begins."""
    return _prompts(tokenizer, [_request(question, context)])[0]


def chat_ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> list[int]:
    """Token ids of a conversation, up to where the next assistant turn begins.

    What a user says is a question in the one format: a conversation of one question is `prompt_ids` of it.
    """
    turns = [{**m, "content": _request(m["content"], "")} if m["role"] == "user" else m for m in messages]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
    return cast(list[int], ids)


def answer_ids(tokenizer: PreTrainedTokenizerBase, answer: str) -> list[int]:
    """Token ids of the answer and of what ends it: the tokens that loss counts on."""
    return _answers(tokenizer, [answer])[0]


def training_ids(
    tokenizer: PreTrainedTokenizerBase, question: str, answer: str, context: str = ""
) -> tuple[list[int], int]:
    """Token ids of a whole example, and how many of them are the prompt (no loss on those)."""
    return all_training_ids(tokenizer, [(question, answer, context)])[0]


def all_training_ids(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[tuple[str, str, str]]
) -> list[tuple[list[int], int]]:
    """`training_ids` of many (question, answer, context) at once: a fast tokenizer spreads them over the cores."""
    if not examples:
        return []
    prompts = _prompts(tokenizer, [_request(question, context) for question, _, context in examples])
    answers = _answers(tokenizer, [answer for _, answer, _ in examples])
    return [(prompt + answer, len(prompt)) for prompt, answer in zip(prompts, answers, strict=True)]


def stop_strings(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What ends an answer besides the end-of-sequence token."""
    return [] if tokenizer.chat_template else [END]


def _request(question: str, context: str) -> str:
    return (f"[Context] {context}\n" if context else "") + f"[Question] {question}"


def _prompts(tokenizer: PreTrainedTokenizerBase, requests: Sequence[str]) -> list[list[int]]:
    if tokenizer.chat_template:
        turns = [[{"role": "user", "content": request}] for request in requests]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
        return cast(list[list[int]], ids)
    texts = [f"{request}\n[Answer]" for request in requests]
    return cast(list[list[int]], tokenizer(texts, add_special_tokens=True)["input_ids"])


def _answers(tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]) -> list[list[int]]:
    if tokenizer.chat_template:
        end = cast(int, tokenizer.convert_tokens_to_ids(tokenizer.eos_token))
        return [[*ids, end] for ids in tokenizer(list(answers), add_special_tokens=False)["input_ids"]]
    texts = [f" {answer}\n{END}" for answer in answers]
    return cast(list[list[int]], tokenizer(texts, add_special_tokens=False)["input_ids"])

"""The prompt format, in one place. `annotated()` returns the annotated text.

Training, evaluation and serving all use `prompt_ids()` and `training_ids()`, so a model is asked in the form that it
was trained on. A model with a chat template gets the content as turns of a user and an assistant; one without gets the
annotated text. Only the template writes control tokens: the same characters in a question, a context or an answer are
plain text, and an `ArtifactError` if the template changes them. The template's clock is fixed (`clock`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from llmops.prompts.clock import without_clock as without_clock
from llmops.prompts.control_tokens import encoder_of
from llmops.prompts.render import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END = "####"  #: ends an example in the annotated text, and generation for models without a chat template
#: Texts that end or fake a turn: marks of the annotated text, and control tokens of chat templates.
MARKER = re.compile(rf"\[(?:Context|Question|Answer)\]|{END}|<\|\w+\|>")

_MARK = "(what is said here)"  # placeholder that locates a turn's text in a rendered template


def annotated(question: str, answer: str, context: str = "") -> str:
    """Return the annotated text of one example."""
    return f"{_request(question, context)}\n[Answer] {answer}\n{END}"


def prompt_ids(tokenizer: PreTrainedTokenizerBase, question: str, context: str = "") -> list[int]:
    """Return the token ids of the request, up to the start of the answer."""
    return _prompts(tokenizer, [_request(question, context)])[0]


def chat_ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> list[int]:
    """Return the token ids of a conversation, up to the start of the next assistant turn.

    User turns are questions in the one format: a conversation of one question equals its `prompt_ids`. A message's
    `context` is the question's.
    """
    said = [(m["role"], m["content"], m.get("context", "")) for m in messages]
    turns = [{"role": r, "content": _request(text, context) if r == "user" else text} for r, text, context in said]
    return encoder_of(tokenizer).conversations(tokenizer, [turns])[0]


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a text that the model continues, after the tokenizer's prefix of every text."""
    return _texts(tokenizer, [text], begin=True)[0]


def answer_ids(tokenizer: PreTrainedTokenizerBase, answer: str) -> list[int]:
    """Return the token ids of the answer and its end: the tokens with loss."""
    return _answers(tokenizer, [answer])[0]


def training_ids(
    tokenizer: PreTrainedTokenizerBase, question: str, answer: str, context: str = ""
) -> tuple[list[int], int]:
    """Return the token ids of an example, and the length of its prompt (the tokens without loss)."""
    return all_training_ids(tokenizer, [(question, answer, context)])[0]


def all_training_ids(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[tuple[str, str, str]]
) -> list[tuple[list[int], int]]:
    """Return `training_ids` of many (question, answer, context) at once: a fast tokenizer uses all cores."""
    if not examples:
        return []
    prompts = _prompts(tokenizer, [_request(question, context) for question, _, context in examples])
    answers = _answers(tokenizer, [answer for _, answer, _ in examples])
    return [(prompt + answer, len(prompt)) for prompt, answer in zip(prompts, answers, strict=True)]


def stop_strings(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return strings that end an answer, besides the tokens of `end_ids`."""
    return [] if tokenizer.chat_template else [END]


def end_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the tokens that end an answer: end of turn, end of sequence, and padding."""
    ids = (_end_of_turn(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    return {n for n in ids if n is not None}


def control_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the tokens that only a chat template, or the tokenizer itself, may write."""
    return set(encoder_of(tokenizer).names)


def system_prompt(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text that the chat template puts before the user's turn; empty without template."""
    if not tokenizer.chat_template:
        return ""
    return render(tokenizer, [[{"role": "user", "content": _MARK}]], ask=False)[0].split(_MARK)[0]


def _request(question: str, context: str) -> str:
    return (f"[Context] {context}\n" if context else "") + f"[Question] {question}"


def _prompts(tokenizer: PreTrainedTokenizerBase, requests: Sequence[str]) -> list[list[int]]:
    if tokenizer.chat_template:
        turns = [[{"role": "user", "content": request}] for request in requests]
        return encoder_of(tokenizer).conversations(tokenizer, turns)
    return _texts(tokenizer, [f"{request}\n[Answer]" for request in requests], begin=True)


def _answers(tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]) -> list[list[int]]:
    if tokenizer.chat_template:
        end = _end_of_turn(tokenizer)
        return [[*ids, end] for ids in _texts(tokenizer, answers)]
    return _texts(tokenizer, [f" {answer}\n{END}" for answer in answers])


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the first control token that the chat template writes after an answer, else the end of a sequence.

    Often both are the same. Phi-3 ends a turn with `<|end|>` and only a whole conversation with its end-of-sequence
    token. Trained on the latter alone, it would never learn to end a turn.
    """
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}]
        _, _, after = render(tokenizer, [turns], ask=False)[0].partition(_MARK)
        if (end := encoder_of(tokenizer).first(after)) is not None:
            return end
    return cast(int, tokenizer.convert_tokens_to_ids(tokenizer.eos_token))


def _texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], begin: bool = False) -> list[list[int]]:
    """Return the token ids of texts without control tokens. With `begin`, add the tokenizer's own around each text."""
    return encoder_of(tokenizer).ids(texts, tokenizer.backend_tokenizer if begin else None)

"""The prompt format, in one place. `format_example()` returns the annotated text.

Training, evaluation and serving use `encode_question()` and `encode_example()`, so a model gets questions in the form
that it was trained on. A model with a chat template gets the content as turns of a user and an assistant. One without
gets the annotated text. Only the template writes control tokens: the same characters in a question, a context or an
answer are plain text, and an `ArtifactError` if the template changes them. The template's clock is fixed (`clock`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from llmops.prompts.clock import fix_clock as fix_clock
from llmops.prompts.control_tokens import get_encoder
from llmops.prompts.render import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_MARK = "####"  #: ends an example in the annotated text, and generation for models without a chat template
#: Texts that end or fake a turn: marks of the annotated text, and control tokens of chat templates.
TURN_MARK = re.compile(rf"\[(?:Context|Question|Answer)\]|{END_MARK}|<\|\w+\|>")

_PLACEHOLDER = "(what is said here)"  # locates a turn's text in a rendered template


def format_example(question: str, answer: str, context: str = "") -> str:
    """Return the annotated text of one example."""
    return f"{_format_request(question, context)}\n[Answer] {answer}\n{END_MARK}"


def encode_question(tokenizer: PreTrainedTokenizerBase, question: str, context: str = "") -> list[int]:
    """Return the token ids of the request, up to the start of the answer."""
    return _encode_requests(tokenizer, [_format_request(question, context)])[0]


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> list[int]:
    """Return the token ids of a conversation, up to the start of the next assistant turn.

    User turns have the format of questions: a conversation of one question has the ids of `encode_question`. The key
    `context` of a message is the context of its question. A message of the role `tools`, which tells the functions, is
    put before the first user turn. Results of functions, of the role `tool`, are a user turn, together with a user's
    message after them. So every chat template takes them, and a template's own system prompt stays.
    """
    return get_encoder(tokenizer).encode_conversations(tokenizer, [_make_turns(messages)])[0]


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a text that the model continues, after the tokenizer's prefix of every text."""
    return _encode_texts(tokenizer, [text], begin=True)[0]


def encode_answer(tokenizer: PreTrainedTokenizerBase, answer: str) -> list[int]:
    """Return the token ids of the answer and its end: the tokens with loss."""
    return _encode_answers(tokenizer, [answer])[0]


def encode_example(
    tokenizer: PreTrainedTokenizerBase, question: str, answer: str, context: str = ""
) -> tuple[list[int], int]:
    """Return the token ids of an example, and the length of its prompt (the tokens without loss)."""
    return encode_examples(tokenizer, [(question, answer, context)])[0]


def encode_examples(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[tuple[str, str, str]]
) -> list[tuple[list[int], int]]:
    """Return the result of `encode_example` for many (question, answer, context), computed on all cores."""
    if not examples:
        return []
    prompts = _encode_requests(tokenizer, [_format_request(question, context) for question, _, context in examples])
    answers = _encode_answers(tokenizer, [answer for _, answer, _ in examples])
    return [(prompt + answer, len(prompt)) for prompt, answer in zip(prompts, answers, strict=True)]


def get_stop_strings(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return strings that end an answer, besides the tokens of `find_end_ids`."""
    return [] if tokenizer.chat_template else [END_MARK]


def find_end_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the tokens that end an answer: end of turn, end of sequence, and padding."""
    ids = (_find_end_of_turn(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    return {n for n in ids if n is not None}


def list_control_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the tokens that only a chat template, or the tokenizer itself, may write."""
    return set(get_encoder(tokenizer).names)


def render_system_prompt(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text that the chat template puts before the user's turn; empty without template."""
    if not tokenizer.chat_template:
        return ""
    return render(tokenizer, [[{"role": "user", "content": _PLACEHOLDER}]], ask=False)[0].split(_PLACEHOLDER)[0]


def _format_request(question: str, context: str) -> str:
    return (f"[Context] {context}\n" if context else "") + f"[Question] {question}"


def _make_turns(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    turns: list[dict[str, str]] = []
    functions, after_result = "", False
    for message in messages:
        role, text = message["role"], message["content"]
        if role == "tools":
            functions = f"{text}\n\n"
            continue
        if role == "user":
            text, functions = functions + _format_request(text, message.get("context", "")), ""
        if after_result and role in ("user", "tool"):
            turns[-1]["content"] += f"\n{text}"
        else:
            turns.append({"role": "user" if role == "tool" else role, "content": text})
            after_result = role == "tool"
    return [*turns, {"role": "user", "content": functions.rstrip()}] if functions else turns


def _encode_requests(tokenizer: PreTrainedTokenizerBase, requests: Sequence[str]) -> list[list[int]]:
    if tokenizer.chat_template:
        turns = [[{"role": "user", "content": request}] for request in requests]
        return get_encoder(tokenizer).encode_conversations(tokenizer, turns)
    return _encode_texts(tokenizer, [f"{request}\n[Answer]" for request in requests], begin=True)


def _encode_answers(tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]) -> list[list[int]]:
    if tokenizer.chat_template:
        end = _find_end_of_turn(tokenizer)
        return [[*ids, end] for ids in _encode_texts(tokenizer, answers)]
    return _encode_texts(tokenizer, [f" {answer}\n{END_MARK}" for answer in answers])


def _find_end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the first control token that the chat template writes after an answer, else the end of a sequence.

    Often both are the same. Phi-3 ends a turn with `<|end|>` and only a whole conversation with its end-of-sequence
    token. Trained on the latter alone, it would never learn to end a turn.
    """
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _PLACEHOLDER}]
        _, _, after = render(tokenizer, [turns], ask=False)[0].partition(_PLACEHOLDER)
        if (end := get_encoder(tokenizer).find_first(after)) is not None:
            return end
    return cast(int, tokenizer.convert_tokens_to_ids(tokenizer.eos_token))


def _encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], begin: bool = False) -> list[list[int]]:
    """Return the token ids of texts without control tokens. With `begin`, add the tokenizer's own around each text."""
    return get_encoder(tokenizer).encode(texts, tokenizer.backend_tokenizer if begin else None)

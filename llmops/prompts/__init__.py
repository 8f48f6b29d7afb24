"""The one prompt format. The annotated text is what `annotated()` prints; nothing else knows it.

Training, evaluation and serving all go through `prompt_ids()` and `training_ids()`, so that a model is never asked in
another form than the one it was taught. A model with a chat template gets the same content as a user's and an
assistant's turn; one without gets the annotated text itself. Only what the template writes itself becomes a control
token; the same characters in a question, a context or an answer are text, and refused with an `ArtifactError` if the
template changes them. The template's clock stands still (`clock`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from llmops.prompts.clock import without_clock as without_clock
from llmops.prompts.control_tokens import encoder_of
from llmops.prompts.render import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END = "####"  #: ends an example in the annotated text, and generation for models without a chat template

_MARK = "(what is said here)"  # finds the place of a turn's text in a rendered template


def annotated(question: str, answer: str, context: str = "") -> str:
    """The annotated text of one example."""
    return f"{_request(question, context)}\n[Answer] {answer}\n{END}"


def prompt_ids(tokenizer: PreTrainedTokenizerBase, question: str, context: str = "") -> list[int]:
    """Token ids of the request, up to where the answer begins."""
    return _prompts(tokenizer, [_request(question, context)])[0]


def chat_ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> list[int]:
    """Token ids of a conversation, up to where the next assistant turn begins.

    What a user says is a question in the one format: a conversation of one question is `prompt_ids` of it, and a
    message's `context` is the question's.
    """
    said = [(m["role"], m["content"], m.get("context", "")) for m in messages]
    turns = [{"role": r, "content": _request(text, context) if r == "user" else text} for r, text, context in said]
    return encoder_of(tokenizer).conversations(tokenizer, [turns])[0]


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text that the model goes on with, after what the tokenizer puts before every text."""
    return _texts(tokenizer, [text], begin=True)[0]


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
    """What ends an answer besides the tokens of `end_ids`."""
    return [] if tokenizer.chat_template else [END]


def end_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end an answer: of its turn, of a sequence, and the padding."""
    ids = (_end_of_turn(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    return {n for n in ids if n is not None}


def control_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that only a chat template, or the tokenizer by itself, may write."""
    return set(encoder_of(tokenizer).names)


def system_prompt(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the chat template puts before the user's turn by itself, if there is a template and it does."""
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
    """The first control token that the chat template writes after an answer, else the end of a sequence.

    They are often the same. Phi-3 ends a turn with `<|end|>`, and only a whole conversation with its end-of-sequence
    token: trained on the latter alone, it would never learn to end a turn.
    """
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}]
        _, _, after = render(tokenizer, [turns], ask=False)[0].partition(_MARK)
        if (end := encoder_of(tokenizer).first(after)) is not None:
            return end
    return cast(int, tokenizer.convert_tokens_to_ids(tokenizer.eos_token))


def _texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], begin: bool = False) -> list[list[int]]:
    """Token ids of texts without any control token, but, with `begin`, those that the tokenizer adds to every text."""
    return encoder_of(tokenizer).ids(texts, tokenizer.backend_tokenizer if begin else None)

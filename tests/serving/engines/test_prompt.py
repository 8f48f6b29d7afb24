"""Prompts are fitted to the model's context: passages give way, and the question does not."""

from __future__ import annotations

from typing import Any

import pytest

from llmops import prompts
from serving.engines.base import Chat, EngineRequest, Message, Question, passages_of
from serving.engines.prompt import fitted
from serving.errors import PromptTooLong

PASSAGES = tuple(f"Heading {n}: " + "delivery takes three to five days. " * 8 for n in range(3))
ASKED = "How long does delivery take?"


@pytest.mark.parametrize("prompt", [Question(ASKED), Chat((Message("user", ASKED),))])
def test_passages_are_dropped_from_the_end_until_all_fits(tokenizer: Any, prompt: Any) -> None:
    request = EngineRequest(Question(ASKED, passages=PASSAGES) if isinstance(prompt, Question) else prompt, 10)
    if isinstance(prompt, Chat):
        request = EngineRequest(Chat(prompt.messages, passages=PASSAGES), 10)
    whole = prompts.prompt_ids(tokenizer, ASKED, "\n".join(PASSAGES))
    alone = prompts.prompt_ids(tokenizer, ASKED)
    kept: list[tuple[str, ...]] = []
    for room in range(len(whole) + 10, len(alone) + 30, -7):
        ids, made = fitted(tokenizer, request, room)
        left = passages_of(made.prompt)
        assert len(ids) + 10 <= room and ids == prompts.prompt_ids(tokenizer, ASKED, "\n".join(left))
        kept.append(left)
    assert kept[0] == PASSAGES and PASSAGES[:2] in kept and PASSAGES[:1] in kept
    assert len(kept[-1]) == 1 and kept[-1][0] != PASSAGES[0] and PASSAGES[0].startswith(kept[-1][0])
    assert [len("".join(one)) for one in kept] == sorted((len("".join(one)) for one in kept), reverse=True)


def test_a_question_that_is_too_long_by_itself_is_told_so(tokenizer: Any) -> None:
    with pytest.raises(PromptTooLong):
        fitted(tokenizer, EngineRequest(Question(ASKED * 20, passages=PASSAGES), 10), 60)


def test_passages_leave_an_answer_that_may_be_shorter_all_that_it_may_have_or_half_of_the_room(tokenizer: Any) -> None:
    whole = prompts.prompt_ids(tokenizer, ASKED, "\n".join(PASSAGES))
    ids, made = fitted(tokenizer, EngineRequest(Question(ASKED, passages=PASSAGES), 20, fill=True), len(whole) + 5)
    assert made.max_new_tokens == 20 and passages_of(made.prompt) == PASSAGES[:2]
    ids, made = fitted(tokenizer, EngineRequest(Question(ASKED, passages=PASSAGES), 500, fill=True), len(whole) + 5)
    assert passages_of(made.prompt) == PASSAGES[:1] and made.max_new_tokens == len(whole) + 5 - len(ids)
    assert made.max_new_tokens >= (len(whole) + 5) // 2

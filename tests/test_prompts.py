"""Training, evaluation and serving must ask a model in the same form, token for token."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest

from llmops import prompts
from llmops.features.tokenize import tokenize
from llmops.model.base import answering, generate
from llmops.records import Example
from serving.engines.base import EngineRequest, Question
from serving.engines.prompt import ids_of

QUESTION, ANSWER, CONTEXT = "How long can I return it?", "You have 30 days.", "Returns policy, section 2"


def example() -> Example:
    return Example(
        id="1", question=QUESTION, answer=ANSWER, context=CONTEXT, group="g", split="train", source="s",
        location="l", position="p",
    )  # fmt: skip


@pytest.fixture(params=["chat", "plain"])
def any_tokenizer(request: pytest.FixtureRequest, tokenizer: Any) -> Any:
    if request.param == "chat":
        return tokenizer
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    return plain


def test_training_evaluation_and_serving_render_the_same_ids(any_tokenizer: Any) -> None:
    trained, _ = tokenize(any_tokenizer, example(), 512)
    assert trained
    asked: list[list[int]] = []

    def record(requests: Any, _longest: int, _batch: int) -> list[list[int]]:
        asked.extend(list(r) for r in requests)
        return [[] for _ in requests]

    model: Any = SimpleNamespace(tokenizer=any_tokenizer, generate=record)
    answering.answer(model, [(QUESTION, CONTEXT)], 8)  # evaluation's way
    served = ids_of(any_tokenizer, EngineRequest(Question(QUESTION, CONTEXT), 8), 512)  # the engine's way
    assert asked == [served] == [trained.token_ids[: trained.prompt_tokens]]


def test_plain_text_is_the_annotated_text(any_tokenizer: Any) -> None:
    ids, prompt = prompts.training_ids(any_tokenizer, QUESTION, ANSWER, CONTEXT)
    if any_tokenizer.chat_template:
        assert any_tokenizer.decode(ids[prompt:]) == ANSWER + any_tokenizer.eos_token
    else:
        assert any_tokenizer.decode(ids) == prompts.annotated(QUESTION, ANSWER, CONTEXT)


def test_answer_text_comes_back_whole(any_tokenizer: Any) -> None:
    assert generate.decode(any_tokenizer, prompts.answer_ids(any_tokenizer, ANSWER)) == ANSWER


def test_in_a_conversation_each_question_is_asked_as_it_was_taught(tokenizer: Any) -> None:
    turns = [("system", "Be kind."), ("user", QUESTION), ("assistant", ANSWER), ("user", "And then?")]
    text = tokenizer.decode(prompts.chat_ids(tokenizer, [{"role": role, "content": text} for role, text in turns]))
    places = [text.index(part) for part in ("Be kind.", f"[Question] {QUESTION}", ANSWER, "[Question] And then?")]
    assert places == sorted(places) and "[Question] You have" not in text

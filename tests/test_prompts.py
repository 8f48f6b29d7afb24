"""Training, evaluation and serving must ask a model in the same form, token for token."""

from __future__ import annotations

import copy
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


def test_annotated_text() -> None:
    assert prompts.annotated(QUESTION, ANSWER, CONTEXT) == (
        f"[Context] {CONTEXT}\n[Question] {QUESTION}\n[Answer] {ANSWER}\n####"
    )
    assert prompts.annotated(QUESTION, ANSWER) == f"[Question] {QUESTION}\n[Answer] {ANSWER}\n####"


def test_training_evaluation_and_serving_render_the_same_ids(
    any_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, _ = tokenize(any_tokenizer, example(), 512)
    assert trained
    asked: list[list[int]] = []
    model = answering.TorchModel(None, any_tokenizer)

    def record(requests: Any, _longest: int, _batch: int) -> list[list[int]]:
        asked.extend(list(r) for r in requests)
        return [list[int]() for _ in requests]

    monkeypatch.setattr(model, "generate", record)
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


def test_a_conversation_of_one_question_is_that_question(tokenizer: Any) -> None:
    asked = prompts.chat_ids(tokenizer, [{"role": "user", "content": QUESTION}])
    assert asked == prompts.prompt_ids(tokenizer, QUESTION)
    grounded = prompts.chat_ids(tokenizer, [{"role": "user", "content": QUESTION}], "Two days.\nOr three.")
    assert grounded == prompts.prompt_ids(tokenizer, QUESTION, "Two days.\nOr three.")


def test_the_context_of_a_conversation_stands_before_its_last_question_alone(tokenizer: Any) -> None:
    turns = [("user", "First?"), ("assistant", ANSWER), ("user", "Last?"), ("assistant", "Well,")]
    messages = [{"role": role, "content": text} for role, text in turns]
    text = tokenizer.decode(prompts.chat_ids(tokenizer, messages, "The context."))
    assert text.count("[Context]") == 1 and "[Context] The context.\n[Question] Last?" in text


def test_in_a_conversation_each_question_is_asked_as_it_was_taught(tokenizer: Any) -> None:
    turns = [("system", "Be kind."), ("user", QUESTION), ("assistant", ANSWER), ("user", "And then?")]
    text = tokenizer.decode(prompts.chat_ids(tokenizer, [{"role": role, "content": text} for role, text in turns]))
    places = [text.index(part) for part in ("Be kind.", f"[Question] {QUESTION}", ANSWER, "[Question] And then?")]
    assert places == sorted(places) and "[Question] You have" not in text

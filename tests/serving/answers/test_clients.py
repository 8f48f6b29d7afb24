"""What clients send, unchanged, to a process of the app that serves a tiny GGUF model: nothing here is a stand-in."""

from __future__ import annotations

import json
from typing import Any, Literal

import openai
import pydantic
import pytest
from langchain_openai import ChatOpenAI

HELLO: Any = [{"role": "user", "content": "Who are you?"}]
ROOM: Any = {"max_tokens": 400, "temperature": 1, "seed": 1}  # a random model likes white space


class Person(pydantic.BaseModel):
    """Somebody."""

    kind: Literal["a bird", 'a "cat"', "é🙂"]


def chat(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": "support-bot", "messages": HELLO, **more})


def test_openais_client_parses_an_answer_that_follows_a_class(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(model="support-bot", messages=HELLO, response_format=Person, **ROOM)
    assert isinstance(answer.choices[0].message.parsed, Person)
    with client.chat.completions.stream(model="support-bot", messages=HELLO, response_format=Person, **ROOM) as stream:
        parsed = stream.get_final_completion().choices[0].message.parsed
    assert parsed == answer.choices[0].message.parsed
    for other in chat(client, response_format=openai_format(Person), n=3, **ROOM).choices:
        assert Person.model_validate_json(other.message.content)


def openai_format(kind: type[pydantic.BaseModel]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": kind.model_json_schema(), "strict": True}}


def test_any_json_object_can_be_asked_for_and_what_is_cut_says_so(client: openai.OpenAI) -> None:
    (choice,) = chat(client, response_format={"type": "json_object"}, max_tokens=3).choices
    assert choice.finish_reason == "length"
    assert choice.message.content.startswith("{")
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model="support-bot", messages=HELLO, response_format=Person, max_tokens=2)


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "string", "pattern": "^a$"}, "pattern"),
        ({"type": "object", "properties": {"a": {"oneOf": [{}]}}}, "schema.a: oneOf"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "response_format"),
        ({"enum": ["x" * 20_000]}, "characters"),
    ],
)
def test_a_schema_that_is_not_kept_to_is_refused_while_others_are_answered(
    client: openai.OpenAI, schema: dict[str, Any], named: str
) -> None:
    with chat(client, stream=True, **ROOM) as other:
        next(other)
        with pytest.raises(openai.BadRequestError, match=named):
            chat(client, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
        assert [chunk.choices[0].finish_reason for chunk in other][-1] in ("stop", "length")


def test_deep_and_large_schemas_stall_nobody(client: openai.OpenAI) -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(300):
        deep = {"type": "array", "items": deep}
    for bad in (deep, {"enum": ["x" * 2 * 10**6]}):
        with pytest.raises(openai.APIStatusError) as refusal:
            chat(client, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": bad}})
        assert refusal.value.status_code in (400, 413)
    assert chat(client, max_tokens=2).choices


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"top_logprobs": 2},
        {"top_logprobs": 2, "logprobs": 1},
    ],
)
def test_what_is_not_done_is_refused_and_named(client: openai.OpenAI, more: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError, match=next(iter(more))):
        chat(client, **more)


def test_without_a_longest_answer_it_takes_what_the_context_has_left(client: openai.OpenAI) -> None:
    long = [{"role": "user", "content": "word " * 30}]
    for more in ({}, {"max_tokens": 10_000}):
        answer = chat(client, messages=long, temperature=1, seed=3, **more)
        assert answer.usage.total_tokens <= 512
    with pytest.raises(openai.BadRequestError) as refusal:
        chat(client, messages=[{"role": "user", "content": "a " * 80}], max_tokens=450)
    assert refusal.value.code == "context_length_exceeded"
    whole = client.completions.create(model="support-bot", prompt="a " * 90, temperature=1, seed=3)
    assert whole.usage and whole.usage.completion_tokens <= 16


def test_an_answer_after_a_class_cannot_go_on_for_ever(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="ignore_eos"):
        chat(client, response_format=openai_format(Person), extra_body={"ignore_eos": True})
    answer = chat(client, extra_body={"ignore_eos": True}, max_tokens=30)
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 30)


def test_langchain_gets_what_it_asks_for(served: dict[str, str]) -> None:
    model = ChatOpenAI(**served, model="support-bot", max_retries=0, **ROOM)  # type: ignore[arg-type]
    assert isinstance(model.with_structured_output(Person).invoke("Who?"), Person)
    assert model.with_structured_output(Person.model_json_schema(), method="json_schema").invoke("Who?")["kind"]
    chunks = list(model.with_structured_output(Person).stream("Who?"))
    assert isinstance(chunks[-1], Person)
    with pytest.raises(openai.BadRequestError, match="tools"):
        model.with_structured_output(Person, method="function_calling").invoke("Who?")


def test_litellm_gets_what_it_asks_for(served: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would fetch one when imported
    import litellm

    common = {"model": "openai/support-bot", "api_base": served["base_url"], "api_key": served["api_key"]}
    ask = {**common, "messages": HELLO, "max_retries": 0, **ROOM}
    answer = litellm.completion(**ask, response_format=openai_format(Person))
    assert Person.model_validate(json.loads(answer.choices[0].message.content))
    chunks = litellm.completion(**ask, response_format=openai_format(Person), stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer.choices[0].message.content
    with pytest.raises(litellm.BadRequestError, match="pattern"):
        litellm.completion(**ask, response_format=schema_with_a_pattern())
    with pytest.raises(litellm.BadRequestError, match="tools"):
        litellm.completion(**ask, tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])


def schema_with_a_pattern() -> dict[str, Any]:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "b"}}, "required": ["a"]}
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}

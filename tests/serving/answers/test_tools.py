"""Tools in requests and answers, by OpenAI's client and LangChain's; the engine says what it was asked to, no vLLM."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI

from serving.answers.structured import MOST_DEPTH, schema_text
from serving.answers.tools import MOST_TOOLS, Tool, calls_schema
from serving.engines.base import EngineRequest
from serving.engines.echo import EchoEngine, EchoRow
from serving.engines.stepping import Job
from serving.engines.tool_calls import Heard, json_calls

SECRET = "hf_" + "aB3dE" * 6
ASK: Any = [{"role": "user", "content": "Where is order 7?"}]


def tool(name: str = "where_is", **parameters: Any) -> Any:
    return {"type": "function", "function": {"name": name, "description": "Finds it.", **parameters}}


ORDER: Any = tool(parameters={"type": "object", "properties": {"order": {"type": "integer"}}, "required": ["order"]})
CALL: Any = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


class Calling(EchoEngine):
    """Calls what the test has put into `script`, and else says what an `EchoEngine` says."""

    tools = structured = True

    def __init__(self) -> None:
        super().__init__()
        self.script = '{"name": "where_is", "arguments": {"order": 7}}'
        self.asked: list[EngineRequest] = []

    def _begin(self, job: Job) -> EchoRow:
        self.asked.append(job.request)
        row = super()._begin(job)
        if job.request.calls:
            row.words = ["I", "look.", self.script]
            heard = Heard(self._read, job.request.calls.most, "{")
            push = job.stream.push

            def told(chunk: Any) -> None:
                text, calls, reason = heard.feed(chunk.text, chunk.finish_reason)
                push(type(chunk)(text, chunk.input_tokens, chunk.output_tokens, reason, (), calls))

            job.stream.push = told  # type: ignore[method-assign]
        return row

    @staticmethod
    def _read(answer: str) -> Any:
        text, begin, calls = answer.partition("{")
        return text, json_calls(begin + calls, {"where_is", "other"})[1]


@pytest.fixture
def engine() -> Calling:
    return Calling()


@pytest.fixture
def served(site: Any, engine: Calling) -> Iterator[dict[str, str]]:
    site.config = site.config.model_copy(
        update={"serving": site.config.serving.model_copy(update={"max_prompt_chars": 2000, "max_new_tokens": 100})}
    )
    with site.live(lambda version: site.engines.setdefault(version.name, engine)) as url:
        yield {"base_url": f"{url}/v1", "api_key": site.keys["user"]}


@pytest.fixture
def client(served: dict[str, str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(**served, max_retries=0) as client:
        yield client


def chat(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": "support-bot", "messages": ASK, "tools": [ORDER], **more})


# --- answers


def test_a_call_is_answered_and_its_result_gets_an_answer(client: openai.OpenAI, engine: Calling, site: Any) -> None:
    (choice,) = chat(client).choices
    assert choice.finish_reason == "tool_calls" and choice.message.content == "I look. "
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name, json.loads(call.function.arguments)) == (
        "function",
        "where_is",
        {"order": 7},
    )
    result = {"role": "tool", "tool_call_id": call.id, "content": "At the depot."}
    for back in (choice.message, choice.message.model_dump(), choice.message.to_dict()):
        answer = chat(client, messages=[*ASK, back, result], tool_choice="none").choices[0]
        assert (answer.message.content, answer.finish_reason) == ("At the depot.", "stop")
        assert answer.message.tool_calls is None
    _, said, found = engine.asked[-1].prompt.messages  # type: ignore[union-attr]
    assert said.calls[0].arguments == '{"order": 7}' and found.call == said.calls[0]
    first, *_ = site.events()
    assert first["gen_ai.response.finish_reasons"] == ["tool_calls"]


def test_a_stream_tells_text_then_calls_then_why_it_ends(client: openai.OpenAI, engine: Calling) -> None:
    engine.script = "".join(f'{{"name":"where_is","arguments":{{"order":{n}}}}}' for n in (7, 8))
    *chunks, last = chat(client, stream=True, stream_options={"include_usage": True})
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas) == "I look. "
    (calls,) = [delta.tool_calls for delta in deltas if delta.tool_calls]
    assert [(c.index, json.loads(c.function.arguments)) for c in calls] == [(0, {"order": 7}), (1, {"order": 8})]
    assert len({call.id for call in calls}) == 2 and deltas[0].role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "tool_calls"]
    assert last.usage.completion_tokens == 3
    with client.chat.completions.stream(model="support-bot", messages=ASK, tools=[ORDER], n=2) as stream:
        whole = stream.get_final_completion()
    assert [len(choice.message.tool_calls or ()) for choice in whole.choices] == [2, 2]
    assert len(chat(client, parallel_tool_calls=False).choices[0].message.tool_calls) == 1


def test_langchain_calls_what_is_bound(served: dict[str, str], engine: Calling) -> None:
    from langchain_core.tools import tool as as_tool

    @as_tool
    def where_is(order: int) -> str:
        """Where an order is."""
        return f"Order {order} is at the depot."

    for choice in (None, "any", "where_is", "auto"):
        model = ChatOpenAI(**served, model="support-bot", max_retries=0).bind_tools([where_is], tool_choice=choice)  # type: ignore[arg-type]
        said = model.invoke("Where is order 7?")
        assert [(call["name"], call["args"]) for call in said.tool_calls] == [("where_is", {"order": 7})]
        assert bool(engine.asked[-1].schema) == (choice in ("any", "where_is"))
    whole: Any = None
    for chunk in model.stream("Where is order 7?"):
        whole = chunk if whole is None else whole + chunk
    assert whole.tool_calls[0]["args"] == {"order": 7}
    result = where_is.invoke(said.tool_calls[0])
    assert isinstance(result, ToolMessage)
    assert model.invoke([HumanMessage("Where?"), said, result]).tool_calls
    assert engine.asked[-1].prompt.messages[-1].content == "Order 7 is at the depot."  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "arguments",
    [
        {"order": SECRET},
        {"order": {"a": [1, {"b": SECRET}]}},
        {"order": {SECRET: 1}},
        {"order": "\n" + SECRET},
        {"payment": 4111111111111111},
    ],
)
def test_the_guard_sees_what_is_called(client: openai.OpenAI, engine: Calling, site: Any, arguments: Any) -> None:
    call = json.dumps({"name": "where_is", "arguments": arguments})
    engine.script = call.replace("a", "\\u0061")
    engine.script = engine.script.replace("n\\u0061me", "name").replace("\\u0061rguments", "arguments")
    for choice in (chat(client).choices[0], chat(client, stream=True)):
        said = (
            [c.choices[0].model_dump_json() for c in choice]
            if not hasattr(choice, "index")
            else [choice.model_dump_json()]
        )
        assert "content_filter" in said[-1] and not any("where_is" in one or SECRET[-6:] in one for one in said)
    assert {event["llmops.guard.verdict"] for event in site.events()} == {"cut"}
    engine.script = call
    known: Any = [*ASK, {"role": "user", "content": f"It is {SECRET}, paid with 4111 1111 1111 1111."}]
    assert chat(client, messages=known).choices[0].finish_reason == "tool_calls"


# --- requests


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"tools": [ORDER, ORDER]}, "tools: two have the same name"),
        ({"tools": [tool("a b")]}, "tools.0.function.name"),
        ({"tools": [tool("f" * 65)]}, "tools.0.function.name"),
        ({"tools": [tool(f"f{n}") for n in range(MOST_TOOLS + 1)]}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [tool(parameters={"type": "string"})]}, "tools.0.function.parameters: must be of the type object"),
        ({"tools": [tool(parameters={"a": "x" * 2000})]}, "conversation with its tools has"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice: names none of tools"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"tool_choice": "required", "tools": [tool(parameters={"properties": {"a": {"pattern": "b"}}})]},
         "where_is, parameters.schema.a: pattern"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"extra_body": {"ignore_eos": True}}, "ignore_eos"),
        ({"messages": [*ASK, {"role": "tool", "content": "x"}]}, "tool_call_id"),
        ({"messages": [*ASK, {"role": "tool", "content": "x", "tool_call_id": "c"}]}, "turn 1 is of no call"),
        ({"messages": [{"role": "user", "content": "x", "tool_call_id": "c"}]}, "tool_call_id"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}, "assistant"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_tools_is_named(client: openai.OpenAI, more: dict[str, Any], named: str) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        chat(client, **more)
    assert named in refusal.value.message
    assert "literal[" not in refusal.value.message and "NamedTool" not in refusal.value.message
    assert chat(client).choices


@pytest.mark.parametrize("arguments", ["", "[]", "{", '{"a": NaN}', '{"a": ' + "[" * 60 + "]" * 60 + "}", "[" * 9000])
def test_arguments_that_are_no_object_are_refused(client: openai.OpenAI, arguments: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    with pytest.raises(openai.BadRequestError, match="arguments"):
        chat(client, messages=[*ASK, {"role": "assistant", "content": None, "tool_calls": [call]}])


def test_deep_parameters_are_refused(client: openai.OpenAI) -> None:
    deep: Any = {}
    for _ in range(50):
        deep = {"a": deep}
    with pytest.raises(openai.BadRequestError, match="parameters: is nested"):
        chat(client, tools=[tool(parameters=deep)])


def test_what_engines_do_not_keep_to_may_be_shown(client: openai.OpenAI, engine: Calling) -> None:
    odd = tool(strict=True, parameters={"type": "object", "properties": {"a": {"type": "string", "pattern": "^b$"}}})
    assert chat(client, tools=[odd, tool("other")]).choices[0].finish_reason == "tool_calls"
    shown = json.loads(engine.asked[-1].prompt.tools)  # type: ignore[union-attr]
    assert shown[0]["function"]["parameters"]["properties"]["a"]["pattern"] == "^b$"
    assert shown[1]["function"]["parameters"] == {"type": "object", "properties": {}}


def test_other_engines_refuse_tools_and_messages_about_them(site: Any, client: openai.OpenAI, engine: Calling) -> None:
    engine.tools = False
    about = [*ASK, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c", "content": "x"}]
    for more in ({}, {"tool_choice": "none"}, {"tool_choice": "required"}, {"stream": True},
                 {"messages": about, "tools": []}):  # fmt: skip
        with pytest.raises(openai.BadRequestError, match="leave tools .* out.*response_format"):
            chat(client, **more)
    assert {event["error.type"] for event in site.events()} == {"prompt_refused"}


# --- schemas of calls


def schema(*tools: Any, most: int = 2) -> Any:
    return json.loads(calls_schema([Tool.model_validate(one) for one in tools], most))


def test_the_schema_of_calls_has_each_tools_own_definitions() -> None:
    import jsonschema

    node = {"properties": {"next": {"$ref": "#"}, "kind": {"$ref": "#/$defs/kind"}, "$ref": {"type": "null"}},
            "$defs": {"kind": {"enum": ["a"]}}}  # fmt: skip
    other = {
        "$ref": "#/definitions/kind",
        "definitions": {"kind": {"type": "object", "properties": {"b": {"enum": [1]}}}},
    }
    whole = schema(tool("node", parameters=node), tool("other", parameters=other), tool("none"))
    jsonschema.Draft202012Validator.check_schema(whole)
    fits = jsonschema.Draft202012Validator(whole).is_valid
    for name, good, bad in (
        ("node", {"next": {"kind": "a"}, "$ref": None}, {"next": {"kind": "b"}}),
        ("other", {"b": 1}, {"b": 2}),
        ("none", {}, {"a": 1}),
    ):
        assert fits([{"name": name, "arguments": good}]) and not fits([{"name": name, "arguments": bad}])
    assert (
        not fits([])
        and not fits([{"name": "none", "arguments": {}}] * 3)
        and not fits([{"name": "x", "arguments": {}}])
    )


@pytest.mark.parametrize(
    "parameters",
    [
        {"anyOf": [{"type": "string"}]},
        {"anyOf": [{"type": "object"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"anyOf": [{"enum": [1]}]}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": ["object", "null"]}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {}}},
        {"allOf": [{"type": "string"}]},
    ],
)
def test_what_is_not_sure_to_be_an_object_cannot_be_asked_for(parameters: Any) -> None:
    with pytest.raises(ValueError, match="cannot ask for where_is, parameters.schema: must be of the type object"):
        schema(tool(parameters=parameters))


def test_objects_by_many_ways_can_be_asked_for() -> None:
    definitions: dict[str, Any] = {
        f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + k}"} for k in (1, 2)]} for n in range(20)
    }
    last = {"d20": {"type": "object"}, "d21": {"allOf": [{"properties": {"a": {"$ref": "#"}}}]}}
    assert schema(tool(parameters={"$ref": "#/$defs/d0", "$defs": {**definitions, **last}}))


def test_long_parameters_are_refused_before_all_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from serving.answers import tools

    read: list[Any] = []

    def reading(one: Any) -> str:
        read.append(one)
        return schema_text(one)

    monkeypatch.setattr(tools, "schema_text", reading)
    many: list[Any] = [[{"const": n} for n in range(490)], [{}] * 3900]
    for ways in many:
        read.clear()
        takes = {"properties": {"a": {"anyOf": ways}}}
        with pytest.raises(ValueError, match="up to f[1-9] they take too many characters"):
            schema(*[tool(f"f{n}", parameters=takes) for n in range(26)])
        assert len(read) < 6


def test_what_all_tools_take_together_is_bounded() -> None:
    fields = {"properties": {f"a{n}": {"type": "integer"} for n in range(40)}}
    assert schema(tool(parameters=fields))
    with pytest.raises(ValueError, match="any of these tools, name one: .*properties"):
        schema(*[tool(f"f{n}", parameters=fields) for n in range(3)])
    assert len(schema(*[tool(f"f{n}") for n in range(MOST_TOOLS)])["items"]["anyOf"]) == MOST_TOOLS
    deep: Any = {}
    for _ in range(MOST_DEPTH + 1):
        deep = {"properties": {"a": deep}}
    with pytest.raises(ValueError, match="cannot ask for where_is, parameters.*deep"):
        schema(tool(parameters=deep))

"""`response_format`: answers that follow a JSON schema, by OpenVINO on a tiny random model and by official clients."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import openai
import pydantic
import pytest
from langchain_openai import ChatOpenAI

from llmops.model.gguf import grammars, worker
from llmops.model.gguf.write import write_folder
from serving.answers.structured import MOST_CHARS, MOST_DEPTH, MOST_PROPERTIES, ResponseFormat, clean_schema
from serving.engines.base import EngineRequest, Question
from serving.engines.openvino import OpenvinoEngine
from serving.errors import PromptRefused

HELLO: Any = [{"role": "user", "content": "Who are you?"}]
ROOM: Any = {"max_tokens": 400, "temperature": 1, "seed": 1}  # a random model writes much white space


class Pet(pydantic.BaseModel):
    """A pet."""

    kind: Literal["a bird", 'a "cat"', "é🙂"]


class Card(pydantic.BaseModel):
    """A card whose number the prompt does not have."""

    number: Literal["4111 1111 1111 1111"]


#: schemas that only the engine refuses → a part of its reason
NOT_COMPILED = {
    '{"type":"banana"}': "banana",
    '{"type":"integer","minimum":5,"maximum":3}': "minimum greater than maximum",
    '{"$ref":"#/$defs/x"}': "$defs",
    '{"enum":[]}': "",
    '{"properties":3,"type":"object"}': "properties must be an object",
    '{"type":"object","properties":{"a\\"":{}},"required":["a\\""]}': "",
    "no JSON": "",
}


@pytest.fixture(scope="module")
def folder(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gguf") / "servable"
    write_folder(tiny_base, out, "f16")
    return out


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[OpenvinoEngine]:
    engine = OpenvinoEngine(folder, 64, 4)
    engine.load()
    yield engine
    engine.close()


def asked(schema: str, tokens: int = 400, seed: int = 1, **more: Any) -> EngineRequest:
    return EngineRequest(Question("Who?"), tokens, 1.0, seed=seed, schema=schema, **more)


@pytest.mark.anyio
async def test_answers_follow_their_schema_and_change_no_other_answer(engine: OpenvinoEngine) -> None:
    plain, schema = EngineRequest(Question("Who?"), 30), clean_schema(Pet.model_json_schema())
    alone = await engine.generate(plain).collect()
    requests = [asked(schema, seed=seed) for seed in range(5)]
    first, *answers, last = await asyncio.gather(*[engine.generate(one).collect() for one in (plain, *requests, plain)])
    assert first == last == alone
    assert all(answer.finish_reason == "stop" and Pet.model_validate_json(answer.text) for answer in answers)
    pieces = [chunk.text async for chunk in engine.generate(requests[0])]
    assert len(pieces) > 2 and "".join(pieces) == answers[0].text
    cut = await engine.generate(asked(schema, 3)).collect()
    assert (cut.finish_reason, cut.output_tokens) == ("length", 3)


@pytest.mark.anyio
async def test_a_schema_that_is_not_compiled_is_refused_alone(engine: OpenvinoEngine) -> None:
    plain = EngineRequest(Question("Who?"), 40)
    alone = await engine.generate(plain).collect()
    other = engine.generate(plain)
    for bad, reason in NOT_COMPILED.items():
        with pytest.raises(PromptRefused, match="response_format: the engine does not take this schema") as refusal:
            await engine.generate(asked(bad)).collect()
        assert reason in str(refusal.value) and ".cc" not in str(refusal.value)
    assert await other.collect() == alone and engine.stats().alive


def test_schemas_have_room_until_the_pipeline_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    from openvino_genai import GenerationStatus

    opened: list[int] = []
    handle = SimpleNamespace(get_status=lambda: GenerationStatus.FINISHED, can_read=lambda: False)
    pipeline = SimpleNamespace(get_tokenizer=object, add_request=lambda *given: handle, step=lambda: None)
    monkeypatch.setattr(grammars, "_open_constant", lambda tokenizer: SimpleNamespace(generate=lambda *given: None))
    monkeypatch.setattr(grammars, "ROOM", 60)
    requests = worker.Requests(lambda: opened.append(1) or cast("Any", pipeline))  # type: ignore[func-returns-value]
    for number in range(8):
        requests.handle_message(number, [60, 61], {"max_new_tokens": 2}, json.dumps({"enum": [f"value {number}"]}))
        requests.free_schemas()
    assert len(opened) == 1  # the requests run
    assert [output.error for output in requests.step().values() if output.error] == ["GrammarsFull: "] * 3
    requests.free_schemas()
    requests.handle_message(9, [60, 61], {"max_new_tokens": 2}, '{"enum": ["value 7"]}')
    assert len(opened) == 2 and [output.error for output in requests.step().values()] == [""]


def nested(depth: int) -> dict[str, Any]:
    return {"type": "array", "items": nested(depth - 1)} if depth else {"type": "string"}


def with_properties(n: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"a{i}": {} for i in range(n)}}


REF = {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}


@pytest.mark.parametrize(
    ("schema", "left"),
    [
        ({}, {}),
        ({"title": "x", "description": "y" * 10**5, "const": None}, {"const": None}),
        ({"$defs": {"a": {"type": "null", "default": 1}}, **REF}, {"$defs": {"a": {"type": "null"}}, **REF}),
        ({"type": "array", "minItems": 1}, {"type": "array", "minItems": 1, "items": {}}),
        ({"type": "object", "additionalProperties": {"title": "x"}}, {"type": "object", "additionalProperties": {}}),
        (nested(MOST_DEPTH), nested(MOST_DEPTH)),
        (with_properties(MOST_PROPERTIES), with_properties(MOST_PROPERTIES)),
    ],
)
def test_a_schema_that_engines_enforce_is_left_as_it_is_without_descriptions(schema: Any, left: Any) -> None:
    assert json.loads(clean_schema(schema)) == left


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "object", "properties": {"a": {"type": "string", "pattern": "b"}}}, "properties.a.pattern is not"),
        ({"anyOf": [{}, {"type": "string", "maxLength": 5}]}, "anyOf.1.maxLength is not supported"),
        ({"items": {"oneOf": [{}]}, "type": "array"}, "items.oneOf is not supported"),
        ({"type": "string", "anyOf": [{}]}, "anyOf is not supported beside type"),
        ({"type": "number", "minimum": 0}, "minimum is only supported for the type integer"),
        ({"type": "integer", "minimum": 0.5}, "minimum must be a whole number"),
        ({"type": "array", "maxItems": 101}, "maxItems must be a whole number, 0 to 100"),
        ({"type": "array", "maxItems": True}, "maxItems"),
        ({"type": "object", "properties": {"a": {}}, "required": ["b"]}, "required must name properties"),
        ({"type": "object", "required": [[]], "properties": 3}, "required"),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": True}, "must be false beside properties"),
        ({"enum": [{"a": 1}]}, "enum is only supported"),
        ({"type": "string", "format": "regex"}, "format must be one of"),
        ({"const": "\ud800"}, "surrogates"),
        ({"const": float("nan")}, "JSON"),
        (nested(MOST_DEPTH + 1), "deep"),
        (nested(400), "deep"),
        (with_properties(MOST_PROPERTIES + 1), "101 properties"),
        ({"anyOf": [{"type": "array", "minItems": 1}] * 21}, "21 minItems"),
        ({"enum": ["x" * MOST_CHARS]}, "characters"),
    ],
)
def test_a_schema_that_engines_do_not_enforce_or_compile_slowly_is_refused(schema: Any, reason: str) -> None:
    with pytest.raises(pydantic.ValidationError) as refusal:
        ResponseFormat.model_validate({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert reason in str(refusal.value)


# --- official clients, unchanged


@pytest.fixture(scope="module")
def served(new_site: Any, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    site = new_site(tmp_path_factory.mktemp("site"), max_new_tokens=400).release()
    with site.live(lambda version: site.engines.setdefault(version.name, OpenvinoEngine(folder, 64, 4))) as url:
        yield {"base_url": f"{url}/v1", "api_key": site.keys["user"]}


@pytest.fixture
def client(served: dict[str, str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(**served, max_retries=0) as client:  # type: ignore[arg-type]
        yield client


def chat(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": "support-bot", "messages": HELLO, **more})


def formatted(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, "strict": True}}


def test_openais_client_parses_answers_whole_and_streamed(client: openai.OpenAI) -> None:
    common: Any = {"model": "support-bot", "messages": HELLO, "response_format": Pet}
    answer = client.chat.completions.parse(**common, **ROOM)
    assert isinstance(answer.choices[0].message.parsed, Pet)
    with client.chat.completions.stream(**common, **ROOM) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == answer.choices[0].message.parsed
    for choice in chat(client, response_format=formatted(Pet.model_json_schema()), n=3, **ROOM).choices:
        assert Pet.model_validate_json(choice.message.content)
    (choice,) = chat(client, response_format={"type": "json_object"}, max_tokens=3).choices
    assert choice.finish_reason == "length" and choice.message.content.startswith("{")
    with pytest.raises(openai.BadRequestError, match="ground"):
        chat(client, response_format={"type": "json_object"}, extra_body={"ground": True})
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**common, max_tokens=2)
    with pytest.raises(openai.ContentFilterFinishReasonError):  # the guard ends the JSON before it is complete
        client.chat.completions.parse(**{**common, "response_format": Card}, **ROOM)


@pytest.mark.parametrize(
    ("format", "param"),
    [
        (formatted({"type": "string", "pattern": "a"}), "response_format.json_schema.schema"),
        (formatted({"type": "banana"}), None),
        ({"type": "json_schema"}, "response_format"),
        ({"type": "grammar"}, "response_format.type"),
        ({"type": "text", "json_schema": {"name": "x"}}, "response_format"),
    ],
)
def test_a_format_that_is_not_followed_is_refused_and_others_are_answered(
    client: openai.OpenAI, format: Any, param: str | None
) -> None:
    with chat(client, stream=True, **ROOM) as other:
        next(other)
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match="response_format") as refusal:
                chat(client, response_format=format, stream=stream)
            assert refusal.value.param == param
        assert [chunk.choices[0].finish_reason for chunk in other][-1] in ("stop", "length")


def test_langchain_gets_objects(served: dict[str, str]) -> None:
    model = ChatOpenAI(**served, model="support-bot", max_retries=0, **ROOM)  # type: ignore[arg-type]
    structured = model.with_structured_output(Pet)
    assert isinstance(structured.invoke("Who?"), Pet)
    assert isinstance(list(structured.stream("Who?"))[-1], Pet)
    assert model.with_structured_output(Pet.model_json_schema(), method="json_schema").invoke("Who?")["kind"]
    with pytest.raises(openai.BadRequestError, match="tools"):
        model.with_structured_output(Pet, method="function_calling").invoke("Who?")


def test_litellm_chats_streams_and_gets_json(served: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would fetch one when it is imported
    litellm = pytest.importorskip("litellm", reason="litellm, 83 MB, is not in the test group; pip install litellm")
    common = {"model": "openai/support-bot", "api_base": served["base_url"], "api_key": served["api_key"]}
    ask = {**common, "messages": HELLO, "max_retries": 0, **ROOM}
    structured = {**ask, "response_format": formatted(Pet.model_json_schema())}
    answer = litellm.completion(**structured).choices[0].message
    assert Pet.model_validate_json(answer.content)
    pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**structured, stream=True)]
    assert "".join(pieces) == answer.content
    back = [*HELLO, answer, {"role": "assistant", "content": None}, *HELLO]
    more = {"max_tokens": 10_000, "top_p": 0, "reasoning_effort": "low", "allowed_openai_params": ["reasoning_effort"]}
    assert len(litellm.completion(**{**ask, "messages": back, **more}, n=2).choices) == 2
    for refused, name in (
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": formatted({"type": "string", "pattern": "a"})}, "pattern"),
    ):
        with pytest.raises(litellm.BadRequestError, match=name):
            litellm.completion(**{**ask, **refused})

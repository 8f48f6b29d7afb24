"""`response_format`: answers that follow a JSON schema, by OpenVINO on a tiny random model and by official clients."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import openai
import pydantic
import pytest
from langchain_openai import ChatOpenAI

from llmops.model.gguf import grammars, worker
from llmops.model.gguf.write import write_gguf_folder
from serving.answers.structured import (
    MAX_CHARS,
    MAX_DEPTH,
    MAX_PROPERTIES,
    MAX_SCHEMAS,
    ResponseFormat,
    clean_schema,
)
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


class Tree(pydantic.BaseModel):
    """A tree of trees."""

    below: "Tree | None"


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
    write_gguf_folder(tiny_base, out, "f16")
    return out


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[OpenvinoEngine]:
    engine = OpenvinoEngine(folder, 64, 4)
    engine.load()
    yield engine
    engine.close()


def make_request(schema: str, tokens: int = 400, seed: int = 1, **more: Any) -> EngineRequest:
    return EngineRequest(Question("Who?"), tokens, 1.0, seed=seed, schema=schema, **more)


@pytest.mark.anyio
async def test_answers_follow_their_schema_and_change_no_other_answer(engine: OpenvinoEngine) -> None:
    plain, schema = EngineRequest(Question("Who?"), 30), clean_schema(Pet.model_json_schema())
    alone = await engine.generate(plain).collect()
    requests = [make_request(schema, seed=seed) for seed in range(5)]
    first, *answers, last = await asyncio.gather(*[engine.generate(one).collect() for one in (plain, *requests, plain)])
    assert first == last == alone
    assert all(answer.finish_reason == "stop" and Pet.model_validate_json(answer.text) for answer in answers)
    pieces = [chunk.text async for chunk in engine.generate(requests[0])]
    assert len(pieces) > 2 and "".join(pieces) == answers[0].text
    cut = await engine.generate(make_request(schema, 3)).collect()
    assert (cut.finish_reason, cut.output_tokens) == ("length", 3)


@pytest.mark.anyio
async def test_a_schema_may_refer_to_itself(engine: OpenvinoEngine) -> None:
    schema = clean_schema(Tree.model_json_schema())
    answers = [await engine.generate(make_request(schema, seed=seed)).collect() for seed in range(8)]
    trees = [Tree.model_validate_json(answer.text) for answer in answers if answer.finish_reason == "stop"]
    assert any(tree.below for tree in trees)


@pytest.mark.anyio
async def test_a_schema_that_is_not_compiled_is_refused_alone(engine: OpenvinoEngine) -> None:
    plain = EngineRequest(Question("Who?"), 40)
    alone = await engine.generate(plain).collect()
    other = engine.generate(plain)
    for bad, reason in NOT_COMPILED.items():
        with pytest.raises(PromptRefused, match="response_format or tools: .* not take this schema") as refusal:
            await engine.generate(make_request(bad)).collect()
        assert reason in str(refusal.value) and ".cc" not in str(refusal.value)
    assert await other.collect() == alone and engine.get_stats().alive


def test_a_schema_that_finds_no_room_waits_for_the_running_requests_and_others_wait_behind_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammars, "MAX_SCHEMA_CHARACTERS", 30)
    opened: list[Any] = []

    def open_pipeline() -> Any:
        opened.append(worker.open_pipeline(folder, batch=4, tokens=64, threads=1))
        return opened[-1]

    requests, ended = worker.PipelineRequests(open_pipeline), dict[int, tuple[str, int]]()
    settings = {"max_new_tokens": 40}

    def step() -> None:
        for request_id, output in requests.step().items():
            ids[request_id] = ids.get(request_id, []) + output.ids
            if output.ended:
                ended[request_id] = output.error or opened[0].get_tokenizer().decode(ids[request_id]), len(opened)

    ids: dict[int, list[int]] = {}
    requests.handle_message(0, [60, 61], {**settings, "ignore_eos": True}, "")
    requests.handle_message(1, [60, 61], settings, '{"const":"first"}')
    step()
    for request_id, schema in ((2, '{"const":"second"}'), (3, '{"const":"first"}'), (4, ""), (5, '{"const":"left"}')):
        requests.handle_message(request_id, [60, 61], settings, schema)
    requests.handle_message(5, None, {}, "")
    while requests.running:
        step()
    assert {request_id: count for request_id, (_, count) in ended.items()} == {0: 1, 1: 1, 2: 2, 3: 3, 4: 3}
    assert [ended[request_id][0].strip() for request_id in (1, 2, 3)] == ['"first"', '"second"', '"first"']


def test_a_pipeline_that_cannot_be_opened_again_ends_its_process_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipelines = [SimpleNamespace(get_tokenizer=object, step=lambda: None)]
    monkeypatch.setattr(grammars, "MAX_SCHEMA_CHARACTERS", 0)
    requests = worker.PipelineRequests(lambda: pipelines.pop() if pipelines else open("/nowhere"))  # noqa: PTH123, SIM115
    requests.handle_message(1, [60], {}, '{"const":"x"}')
    with pytest.raises(SystemExit, match="cannot be opened again.*/nowhere"):
        requests.step()


def make_nested(depth: int) -> dict[str, Any]:
    return {"type": "array", "items": make_nested(depth - 1)} if depth else {"type": "string"}


def make_object(n: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"a{i}": {} for i in range(n)}}


REF = {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}


def make_definition(a: Any, **more: Any) -> dict[str, Any]:
    return {"$defs": {"a": a, **more}, "$ref": "#/$defs/a"}


class Words(str):
    """A text that counts its comparisons."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Words.compared += 1
        return str.__eq__(self, other)


def test_a_large_schema_is_refused_before_its_parts_are_checked_and_names_are_looked_up() -> None:
    names = [Words(f"a{number}") for number in range(MAX_PROPERTIES)]
    clean_schema({"type": "object", "required": names, "properties": {Words(name): {} for name in names}})
    assert Words.compared <= 5 * MAX_PROPERTIES
    unsupported = {"pattern": "x"}
    for large, reason in (
        ({"type": "object", "properties": dict.fromkeys(map(str, range(10_000)), unsupported)}, "10000 properties"),
        ({"anyOf": [{}] * MAX_SCHEMAS + [unsupported]}, "1001 schemas"),
    ):
        with pytest.raises(ValueError, match=reason):
            clean_schema(large)


@pytest.mark.parametrize(
    ("schema", "left"),
    [
        ({}, {}),
        ({"title": "x", "description": "y" * 10**5, "const": None}, {"const": None}),
        ({"$defs": {"a": {"type": "null", "default": 1}}, **REF}, {"$defs": {"a": {"type": "null"}}, **REF}),
        (
            make_definition({"$ref": "#/$defs/b"}, b={"const": 1}),
            make_definition({"$ref": "#/$defs/b"}, b={"const": 1}),
        ),
        ({"type": ["number", "null"], "enum": [1, 1.5, None]}, {"type": ["number", "null"], "enum": [1, 1.5, None]}),
        ({"type": "array", "minItems": 1}, {"type": "array", "minItems": 1, "items": {}}),
        ({"type": "object", "additionalProperties": {"title": "x"}}, {"type": "object", "additionalProperties": {}}),
        (make_nested(MAX_DEPTH), make_nested(MAX_DEPTH)),
        (make_object(MAX_PROPERTIES), make_object(MAX_PROPERTIES)),
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
        ({"format": "date"}, "format is only supported for the type string"),
        ({"type": ["string", "integer"], "format": "date"}, "format is only supported for the type string"),
        ({"type": []}, "type must not be empty"),
        ({"anyOf": []}, "anyOf must not be empty"),
        ({"type": "integer", "enum": [1, "a"]}, "enum must have values of the type beside it"),
        ({"type": ["string", "null"], "const": True}, "const must have values of the type beside it"),
        ({"const": 2**63}, "const is only supported with"),
        ({"$ref": "#/$defs/a"}, "$ref must be #/$defs/"),
        (make_definition({"type": "array", "items": {"$ref": "#/$defs/b"}}), "$defs.a.items.$ref must be #/$defs/"),
        ({"$ref": "https://example.com"}, "$ref must be #/$defs/"),
        ({"$ref": []}, "$ref must be #/$defs/"),
        (make_definition({"$ref": "#/$defs/a"}), "#/$defs/a contains itself outside of objects and arrays"),
        (
            make_definition({"$ref": "#/$defs/b"}, b={"anyOf": [{"anyOf": [{"$ref": "#/$defs/a"}]}]}),
            "contains itself outside",
        ),
        ({"const": "\ud800"}, "surrogates"),
        ({"const": float("nan")}, "JSON"),
        (make_nested(MAX_DEPTH + 1), "deep"),
        (make_nested(400), "deep"),
        (make_object(MAX_PROPERTIES + 1), "101 properties"),
        ({"anyOf": [{"type": "array", "minItems": 1}] * 21}, "21 minItems"),
        ({"enum": ["x" * MAX_CHARS]}, "characters"),
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


def create_chat(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": "support-bot", "messages": HELLO, **more})


def make_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, "strict": True}}


def test_openais_client_parses_answers_whole_and_streamed(client: openai.OpenAI) -> None:
    common: Any = {"model": "support-bot", "messages": HELLO, "response_format": Pet}
    answer = client.chat.completions.parse(**common, **ROOM)
    assert isinstance(answer.choices[0].message.parsed, Pet)
    with client.chat.completions.stream(**common, **ROOM) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == answer.choices[0].message.parsed
    for choice in create_chat(client, response_format=make_format(Pet.model_json_schema()), n=3, **ROOM).choices:
        assert Pet.model_validate_json(choice.message.content)
    (choice,) = create_chat(client, response_format={"type": "json_object"}, max_tokens=3).choices
    assert choice.finish_reason == "length" and choice.message.content.startswith("{")
    with pytest.raises(openai.BadRequestError, match="ground"):
        create_chat(client, response_format={"type": "json_object"}, extra_body={"ground": True})
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**common, max_tokens=2)
    with pytest.raises(openai.ContentFilterFinishReasonError):  # the guard ends the JSON before it is complete
        client.chat.completions.parse(**{**common, "response_format": Card}, **ROOM)


@pytest.mark.parametrize(
    ("format", "param"),
    [
        (make_format({"type": "string", "pattern": "a"}), "response_format.json_schema.schema"),
        (make_format({"type": "banana"}), None),
        ({"type": "json_schema"}, "response_format"),
        ({"type": "grammar"}, "response_format.type"),
        ({"type": "text", "json_schema": {"name": "x", "schema": {}}}, "response_format"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "response_format.json_schema.schema"),
    ],
)
def test_a_format_that_is_not_followed_is_refused_and_others_are_answered(
    client: openai.OpenAI, format: Any, param: str | None
) -> None:
    with create_chat(client, stream=True, **ROOM) as other:
        next(other)
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match="response_format") as refusal:
                create_chat(client, response_format=format, stream=stream)
            assert refusal.value.param == param
        assert [chunk.choices[0].finish_reason for chunk in other][-1] in ("stop", "length")


def test_langchain_gets_objects(served: dict[str, str]) -> None:
    model = ChatOpenAI(**served, model="support-bot", max_retries=0, **ROOM)  # type: ignore[arg-type]
    structured = model.with_structured_output(Pet)
    assert isinstance(structured.invoke("Who?"), Pet)
    assert isinstance(list(structured.stream("Who?"))[-1], Pet)
    assert model.with_structured_output(Pet.model_json_schema(), method="json_schema").invoke("Who?")["kind"]


def test_tokens_come_with_their_log_probabilities(client: openai.OpenAI) -> None:
    common: Any = {"logprobs": True, "max_tokens": 20}
    (choice,) = create_chat(client, **common).choices
    tokens = choice.logprobs.content
    assert "".join(one.token for one in tokens) == choice.message.content and len(tokens) == 20
    assert all(-20 < one.logprob <= 0 and bytes(one.bytes).decode() == one.token for one in tokens)
    chunks = list(create_chat(client, stream=True, **common))
    streamed = [one for chunk in chunks for one in chunk.choices[0].logprobs.content]
    assert [(one.token, one.logprob) for one in streamed] == [(one.token, one.logprob) for one in tokens]
    assert create_chat(client, max_tokens=2).choices[0].logprobs is None
    several = create_chat(client, n=2, temperature=1, seed=3, **common).choices
    assert ["".join(one.token for one in c.logprobs.content) for c in several] == [c.message.content for c in several]


def test_litellm_chats_streams_and_gets_json(served: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would fetch one when it is imported
    import litellm

    common: Any = {"model": "openai/support-bot", "api_base": served["base_url"], "api_key": served["api_key"]}
    ask: Any = {**common, "messages": HELLO, "max_retries": 0, **ROOM}
    structured = {**ask, "response_format": make_format(Pet.model_json_schema())}
    answer = litellm.completion(**structured).choices[0].message
    assert Pet.model_validate_json(answer.content)
    pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**structured, stream=True)]
    assert "".join(pieces) == answer.content
    back = [*HELLO, answer, {"role": "assistant", "content": None}, *HELLO]
    more = {"max_tokens": 10_000, "top_p": 0, "reasoning_effort": "low", "allowed_openai_params": ["reasoning_effort"]}
    assert len(litellm.completion(**{**ask, "messages": back, **more}, n=2).choices) == 2
    with pytest.raises(litellm.BadRequestError, match="pattern"):
        litellm.completion(**{**ask, "response_format": make_format({"type": "string", "pattern": "a"})})

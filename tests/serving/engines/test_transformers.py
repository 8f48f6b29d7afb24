"""The transformers engine on tiny random models: its answers are `generate`'s, whoever else is in the batch."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from llmops import prompts
from llmops.errors import ArtifactError
from llmops.model.base import load
from llmops.model.base.generate import decode, generate
from llmops.model.base.load import load_model, load_servable, load_tokenizer, nf4
from llmops.model.compress.quantise import quantise, save_int8
from serving.engines.base import Chat, EngineRequest, Message, Question, Text, TokenIds
from serving.engines.logprobs import token_bytes
from serving.engines.transformers import TransformersEngine
from serving.errors import EngineDied, PromptRefused, PromptTooLong

from .asked import REQUESTS, answered, goes_on_if_asked, run


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models computed in float32: in the 8 bits of bfloat16 a random one has ties, which fall as sums are ordered."""

    def loaded(folder: Path) -> tuple[Any, Any]:
        model, tokenizer = load_servable(folder)
        return model.float(), tokenizer

    monkeypatch.setattr("llmops.model.base.load.load_servable", loaded)


def expected(folder: Path, requests: list[EngineRequest]) -> list[str]:
    """What `generate` answers to each question alone."""
    model, tokenizer = load.load_servable(folder)
    texts = []
    for request in requests:
        assert isinstance(request.prompt, Question)
        ids = prompts.prompt_ids(tokenizer, request.prompt.text)
        texts.append(decode(tokenizer, generate(model, tokenizer, [ids], request.max_new_tokens)[0]))
    return texts


def saved(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def shape(tokenizer: Any, **more: Any) -> dict[str, Any]:
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    sizes = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
    return dict(vocab_size=len(tokenizer), max_position_embeddings=512, **sizes, **ids, **more)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral", "phi3"])
def test_answers_are_those_of_generate_whatever_the_architecture(
    kind: str, tiny_base: Path, tokenizer: Any, tmp_path: Path, exact: None
) -> None:
    torch.manual_seed(1)
    grouped = shape(tokenizer, num_key_value_heads=2)
    models: dict[str, Callable[[], Any]] = {
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**grouped)),
        "mistral": lambda: MistralForCausalLM(MistralConfig(**grouped, sliding_window=16)),
        "phi3": lambda: Phi3ForCausalLM(Phi3Config(**grouped, sliding_window=16)),
    }
    folder = tiny_base if kind == "llama" else saved(models[kind](), tokenizer, tmp_path)
    answers = answered(TransformersEngine(folder, 64, 4), REQUESTS)
    assert [answer.text for answer in answers] == expected(folder, REQUESTS)
    assert all(
        answer.output_tokens <= request.max_new_tokens for answer, request in zip(answers, REQUESTS, strict=True)
    )


@pytest.mark.parametrize("kind", ["mamba", "neox"])
def test_an_architecture_that_cannot_be_batched_is_refused_with_a_way_out(
    kind: str, tokenizer: Any, tmp_path: Path
) -> None:
    mamba = MambaConfig(vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, state_size=8)
    mamba.max_position_embeddings = 512
    model = MambaForCausalLM(mamba) if kind == "mamba" else GPTNeoXForCausalLM(GPTNeoXConfig(**shape(tokenizer)))
    engine = TransformersEngine(saved(model, tokenizer, tmp_path), 4, 4)
    with pytest.raises(ArtifactError, match=f"{type(model).__name__}.*vllm"):
        engine.load()
    engine.close()


@pytest.mark.parametrize("kind", ["int8", "nf4", "adapter"])
def test_quantised_servables_and_adapters_answer_as_they_are(
    kind: str, tiny_base: Path, tokenizer: Any, tmp_path: Path
) -> None:
    folder = tmp_path / kind
    if kind == "int8":
        from llmops.features.tokenize import Tokens as Example

        examples = [Example(str(n), list(range(20 + n, 40 + n)), 3) for n in range(4)]
        save_int8(quantise(load_model(tiny_base), examples), folder)
    else:
        (load_model(tiny_base, nf4()) if kind == "nf4" else load_model(tiny_base)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if kind == "adapter":
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(2)
        lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        get_peft_model(load_model(folder), lora).save_pretrained(str(folder / "adapter"))
    answers = answered(TransformersEngine(folder, 64, 4), REQUESTS)
    texts = expected(folder, REQUESTS)
    assert [answer.text for answer in answers] == texts


@pytest.mark.slow
def test_joining_and_leaving_in_any_order_changes_no_answer(tiny_base: Path, exact: None) -> None:
    alone = [answered(TransformersEngine(tiny_base, 64, 1), [request])[0] for request in REQUESTS]
    engine = TransformersEngine(tiny_base, 64, 3)
    order = random.Random(0)

    async def use() -> None:
        async def one(n: int) -> None:
            await asyncio.sleep(order.random() / 5)
            stream = engine.generate(REQUESTS[n])
            if order.random() < 0.3:
                async for _ in stream:
                    return  # and leave
            else:
                assert await stream.whole() == alone[n]

        await asyncio.gather(*[one(n % len(REQUESTS)) for n in range(40)])
        while engine.stats().running:
            await asyncio.sleep(0.01)

    run(engine, use)


def test_a_seed_decides_a_sampled_answer_whoever_else_asks(tiny_base: Path, exact: None) -> None:
    requests = [
        EngineRequest(Text("Once"), 12, temperature=1.5, top_p=p, seed=seed) for seed in (1, 2) for p in (0.9, 1.0)
    ]
    alone = [answered(TransformersEngine(tiny_base, 64, 1), [request])[0].text for request in requests]
    noise = [EngineRequest(Text(f"noise {n}"), 20, temperature=1.0) for n in range(4)]
    together = answered(TransformersEngine(tiny_base, 64, 8), [*noise, *requests])
    assert [answer.text for answer in together[4:]] == alone
    assert len(set(alone)) == 4


def test_the_least_top_p_is_greedy(tiny_base: Path) -> None:
    greedy, nucleus = (
        answered(TransformersEngine(tiny_base, 4, 1), [EngineRequest(Text("Once"), 12, **wants)])[0]
        for wants in ({}, {"temperature": 2.0, "top_p": 1e-9})
    )
    assert greedy == nucleus


def test_chunks_count_up_and_only_the_last_has_a_reason(tiny_base: Path) -> None:
    engine = TransformersEngine(tiny_base, 4, 2)

    async def use() -> None:
        chunks = [chunk async for chunk in engine.generate(EngineRequest(Text("你好 🙂"), 40, temperature=2.0, seed=5))]
        counts = [chunk.output_tokens for chunk in chunks]
        assert counts == sorted(counts)
        assert [chunk.finish_reason is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        assert all(chunk.text for chunk in chunks[:-1])

    run(engine, use)


def test_a_stop_string_ends_an_answer_before_it(tiny_base: Path) -> None:
    whole = answered(TransformersEngine(tiny_base, 4, 1), [EngineRequest(Text("Once"), 30)])[0].text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 5]
    cut = answered(TransformersEngine(tiny_base, 4, 1), [EngineRequest(Text("Once"), 30, stop=(stop, "never said"))])[0]
    assert cut.text == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop"
    assert cut.output_tokens < 30


def test_what_does_not_fit_is_refused_alone_with_both_counts(tiny_base: Path, tokenizer: Any) -> None:
    engine = TransformersEngine(tiny_base, 64, 4, max_context=128)
    words = Question("word " * 200)

    async def use() -> None:
        good = engine.generate(EngineRequest(Question("Hi"), 5))
        with pytest.raises(PromptTooLong, match=rf"{len(prompts.prompt_ids(tokenizer, words.text))} .* 7; .* 128"):
            await engine.generate(EngineRequest(words, 7)).whole()
        for bad in (TokenIds(()), TokenIds((10**7,)), TokenIds((-1,))):
            with pytest.raises(PromptRefused):
                await engine.generate(EngineRequest(bad, 4)).whole()
        assert (await good.whole()).output_tokens <= 5
        ids = tuple(prompts.prompt_ids(tokenizer, "Hi"))
        most = 128 - len(ids)
        asked = [Question("Hi"), TokenIds(ids, stored=True), Chat((Message("user", "Hi"),))]
        full = [await engine.generate(EngineRequest(prompt, most)).whole() for prompt in asked]
        assert full[0] == full[1] == full[2]

    run(engine, use)


def test_a_chat_needs_a_chat_template(tiny_base: Path, tokenizer: Any, tmp_path: Path) -> None:
    chat = Chat((Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Yes?")))
    assert answered(TransformersEngine(tiny_base, 4, 2), [EngineRequest(chat, 4)])[0].input_tokens > 5
    load_model(tiny_base).save_pretrained(tmp_path)
    bare = type(tokenizer).from_pretrained(tiny_base)
    bare.chat_template = None
    bare.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(PromptRefused, match="chat template"):
        answered(TransformersEngine(tmp_path, 4, 2), [EngineRequest(chat, 4)])


def test_a_step_that_fails_ends_the_engine_and_tells_everybody(tiny_base: Path) -> None:
    engine = TransformersEngine(tiny_base, 64, 2)

    async def use() -> None:
        streams = [engine.generate(EngineRequest(Question("Hi"), 400)) for _ in range(4)]
        async for _ in streams[0]:
            engine._manager.batch_processor._generation_step = None  # type: ignore[union-attr]
            break
        for stream in streams[1:]:
            with pytest.raises(EngineDied):
                await stream.whole()
        assert not engine.stats().alive

    run(engine, use)


def test_an_engine_whose_steps_have_ended_is_not_alive_though_nobody_waits(tiny_base: Path) -> None:
    engine = TransformersEngine(tiny_base, 64, 2)

    async def use() -> None:
        assert engine.stats().alive
        await asyncio.to_thread(engine._manager.stop, hard_stop=True)  # type: ignore[union-attr]
        assert not engine.stats().alive
        with pytest.raises(EngineDied):
            await engine.generate(EngineRequest(Question("Hi"), 4)).whole()

    run(engine, use)


def test_closing_answers_what_was_accepted(tiny_base: Path) -> None:
    engine = TransformersEngine(tiny_base, 64, 2)

    async def use() -> None:
        streams = [engine.generate(request) for request in REQUESTS]
        await asyncio.to_thread(engine.close)
        assert [(await stream.whole()).text for stream in streams] == expected(tiny_base, REQUESTS)

    run(engine, use)


@pytest.mark.parametrize("more", [{}, {"temperature": 1.5, "seed": 3, "top_p": 0.9}])
def test_tokens_are_told_with_the_models_own_odds_and_the_likeliest(
    exact: None, tiny_base: Path, more: dict[str, Any]
) -> None:
    model, tokenizer = load.load_servable(tiny_base)
    requests = [
        EngineRequest(Text("Once upon"), 8, logprobs=3, **more),
        EngineRequest(Text("Is it?"), 8, logprobs=0, **more),
        EngineRequest(Text("Once upon"), 8, **more),
    ]
    told, only, plain = answered(TransformersEngine(tiny_base, 8, 4), requests)
    assert told.text == plain.text
    assert plain.tokens == ()
    assert [token.top for token in only.tokens] == [()] * 8
    names = {token_bytes(tokenizer, token): token for token in range(len(tokenizer))}
    ids = [names[token.data] for token in told.tokens]
    prompt = prompts.text_ids(tokenizer, "Once upon")
    with torch.inference_mode():
        logs = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
    for token, id, row in zip(told.tokens, ids, logs, strict=True):
        assert token.logprob == pytest.approx(float(row[id]), abs=0.01)
        likely = [other.logprob for other in token.top]
        assert likely == pytest.approx(row.topk(3).values.tolist(), abs=0.01)
        assert likely == sorted(likely, reverse=True)
        if not more:
            assert token.top[0].data == token.data


def test_an_answer_goes_on_where_the_model_ends_it_if_that_is_asked_for(
    exact: None, tiny_base: Path, tmp_path: Path
) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32), load_tokenizer(tiny_base)
    ((first,),) = generate(model, tokenizer, [prompts.text_ids(tokenizer, "Once upon")], 1)
    shutil.copytree(tiny_base, tmp_path / "servable")
    goes_on_if_asked(TransformersEngine(tmp_path / "servable", 4, 2), tmp_path / "servable", first)

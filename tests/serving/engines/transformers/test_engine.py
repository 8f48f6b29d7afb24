"""The transformers engine on tiny random models: its answers are `generate`'s, whoever else is in the batch."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from llmops import prompts
from llmops.errors import ArtifactError
from llmops.model.base.generate import decode, generate
from llmops.model.base.load import load_model, load_servable, nf4
from llmops.model.compress.quantise import quantise, save_int8
from serving.engines.base import Answer, Chat, EngineRequest, Message, Question, Text, TokenIds
from serving.engines.prompt import ids_of
from serving.engines.transformers.batch import Batch
from serving.engines.transformers.engine import TransformersEngine
from serving.engines.transformers.fused import fuse
from serving.engines.transformers.packed import pack
from serving.errors import PromptRefused, PromptTooLong

REQUESTS = [EngineRequest(Question(text), tokens) for text, tokens in zip(
    ["Hello", "Where is my parcel, and when will it come?", "word " * 90, "Hi", "Ünïcödé 你好 🙂", "a b c " * 20],
    [9, 16, 8, 3, 12, 9],
    strict=True,
)]  # fmt: skip


@pytest.fixture(scope="module")
def engine(tiny_base: Path) -> Iterator[TransformersEngine]:
    """One engine for all tests that neither break nor close it."""
    with loaded(tiny_base, max_context=256) as engine:
        yield engine


@contextmanager
def loaded(folder: Path, **options: Any) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(folder, 64, 4, **options)
    try:
        engine.load()
        yield engine
    finally:
        engine.close()


def answered(engine: TransformersEngine, *requests: EngineRequest) -> list[Answer]:
    """The answers to requests that are all made at once."""

    async def use() -> list[Answer]:
        streams = [engine.generate(request) for request in requests]
        return await asyncio.wait_for(asyncio.gather(*[stream.whole() for stream in streams]), 100)

    return asyncio.run(use())


def expected(folder: Path, requests: list[EngineRequest]) -> list[str]:
    """What `generate` answers to each question alone."""
    model, tokenizer = load_servable(folder)
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


@pytest.mark.parametrize("kind", ["qwen2", "mistral", "phi3", "neox"])
def test_answers_are_those_of_generate_whatever_the_architecture(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    torch.manual_seed(1)
    grouped = shape(tokenizer, num_key_value_heads=2)
    models: dict[str, Callable[[], Any]] = {
        "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**grouped)),
        "mistral": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**grouped, sliding_window=16)),
        "phi3": lambda: transformers.Phi3ForCausalLM(transformers.Phi3Config(**grouped, sliding_window=16)),
        "neox": lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**shape(tokenizer))),
    }
    folder = saved(models[kind](), tokenizer, tmp_path)
    with loaded(folder) as engine:
        answers = answered(engine, *REQUESTS)
    assert [answer.text for answer in answers] == expected(folder, REQUESTS)
    assert all(
        answer.output_tokens <= request.max_new_tokens for answer, request in zip(answers, REQUESTS, strict=True)
    )


def test_an_architecture_that_cannot_be_batched_is_refused_with_a_way_out(tokenizer: Any, tmp_path: Path) -> None:
    config = transformers.MambaConfig(vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, state_size=8)
    config.max_position_embeddings = 512
    with (
        pytest.raises(ArtifactError, match="Mamba.*vllm"),
        loaded(saved(transformers.MambaForCausalLM(config), tokenizer, tmp_path)),
    ):
        pass


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
    with loaded(folder) as engine:
        answers = answered(engine, *REQUESTS)
    texts = expected(folder, REQUESTS)
    same = sum(answer.text == text for answer, text in zip(answers, texts, strict=True))
    # The 8-bit layers round their inputs more finely here than `Int8Linear` its results, so a near tie may fall apart.
    assert same >= (len(REQUESTS) - 2 if kind == "int8" else len(REQUESTS))


@pytest.mark.anyio
async def test_joining_and_leaving_in_any_order_changes_no_answer(engine: TransformersEngine, tiny_base: Path) -> None:
    alone = [await engine.generate(request).whole() for request in REQUESTS]
    assert [answer.text for answer in alone] == expected(tiny_base, REQUESTS)
    order = random.Random(0)

    async def one(n: int) -> None:
        for _ in range(order.randrange(100)):
            await asyncio.sleep(0)
        stream = engine.generate(REQUESTS[n])
        if order.random() < 0.3:
            async for _ in stream:
                return  # and leave
        else:
            assert await stream.whole() == alone[n]

    async with asyncio.timeout(100):
        await asyncio.gather(*[one(n % len(REQUESTS)) for n in range(40)])
        while engine.stats().running:
            await asyncio.sleep(0.01)
    assert sorted(engine._free) == [0, 1, 2, 3]


@torch.inference_mode()
def test_in_bfloat16_what_follows_is_the_same_to_the_bit_whoever_else_is_in_the_batch(tokenizer: Any) -> None:
    """With the sizes of SmolLM2-135M: smaller weights pass through oneDNN in one way, however many tokens there are."""
    torch.manual_seed(2)
    sizes = dict(hidden_size=576, intermediate_size=1536, num_attention_heads=9, num_key_value_heads=3)
    config = transformers.LlamaConfig(**shape(tokenizer) | sizes)
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()
    draw = random.Random(3)
    prompts = [[draw.randrange(len(tokenizer)) for _ in range(count)] for count in (5, 33, 47, 64, 90, 129, 200)]
    reference = [model(torch.tensor([ids + [7, 8]])).logits[0, -3:].float() for ids in prompts]
    fuse(model, 8)
    pack(model, 8)
    batch = Batch(model, 8, 256)

    def said(n: int, slot: int) -> list[torch.Tensor]:
        at = len(prompts[n])
        return [batch.forward([part])[0] for part in ((slot, 0, prompts[n]), (slot, at, [7]), (slot, at + 1, [8]))]

    alone = [said(n, 3) for n in range(len(prompts))]
    for n, logits in enumerate(alone):
        assert (torch.stack(logits) - reference[n]).std() < 0.02 * reference[n].std()
    together = [batch.forward([(n, 0, prompts[n]) for n in (6, 1, 3, 2, 5, 4)])]
    together += [batch.forward([(n, len(prompts[n]) + k, [7 + k]) for n in (6, 1, 3, 2, 5, 4)]) for k in (0, 1)]
    for place, n in enumerate((6, 1, 3, 2, 5, 4)):
        assert all(torch.equal(step[place], logits) for step, logits in zip(together, alone[n], strict=True))


def test_a_seed_decides_a_sampled_answer_whoever_else_asks(engine: TransformersEngine) -> None:
    requests = [
        EngineRequest(Text("Once"), 12, temperature=1.5, top_p=p, seed=seed) for seed in (1, 2) for p in (0.9, 1.0)
    ]
    alone = [answered(engine, request)[0].text for request in requests]
    noise = [EngineRequest(Text(f"noise {n}"), 20, temperature=1.0) for n in range(4)]
    together = answered(engine, *noise[:2], *requests, *noise[2:])
    assert [answer.text for answer in together[2:6]] == alone
    assert len(set(alone)) == 4
    greedy, nucleus = answered(
        engine, EngineRequest(Text("Once"), 12), EngineRequest(Text("Once"), 12, temperature=2.0, top_p=1e-9)
    )
    assert greedy == nucleus
    stop = alone[0][len(alone[0]) // 2 :][:5]
    (cut,) = answered(engine, replace(requests[0], stop=(stop, "never said")))
    assert (cut.text, cut.finish_reason) == (alone[0][: alone[0].index(stop)], "stop")


@pytest.mark.anyio
async def test_what_does_not_fit_is_refused_alone_with_both_counts(engine: TransformersEngine, tokenizer: Any) -> None:
    words = Question("word " * 300)
    good = engine.generate(EngineRequest(Question("Hi"), 5))
    with pytest.raises(PromptTooLong, match=rf"{len(prompts.prompt_ids(tokenizer, words.text))} .* 7; .* 256"):
        await engine.generate(EngineRequest(words, 7)).whole()
    for bad in (TokenIds(()), TokenIds((10**7,)), TokenIds((-1,))):
        with pytest.raises(PromptRefused):
            await engine.generate(EngineRequest(bad, 4)).whole()
    assert (await good.whole()).output_tokens <= 5
    ids = tuple(prompts.prompt_ids(tokenizer, "Hi"))
    asked = [Question("Hi"), TokenIds(ids, stored=True), Chat((Message("user", "Hi"),))]
    streams = [engine.generate(EngineRequest(prompt, 256 - len(ids))) for prompt in asked]
    first, *others = [await stream.whole() for stream in streams]
    assert others == [first, first]


def test_a_chat_needs_a_chat_template(engine: TransformersEngine, tokenizer: Any) -> None:
    chat = Chat((Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Yes?")))
    assert answered(engine, EngineRequest(chat, 4))[0].input_tokens > 5
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(PromptRefused, match="chat template"):
        ids_of(bare, EngineRequest(chat, 4), 256)

"""The engines that run a model here, on tiny random ones: their answers are `generate`'s, whoever else asks."""

import asyncio
import copy
import os
import random
import signal
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers.generation.continuous_batching import ContinuousBatchingManager

from llmops import prompts
from llmops.config import Train
from llmops.frame.errors import ArtifactError
from llmops.model.base import load
from llmops.model.base.generate import decode, generate
from llmops.model.base.load import load_model, make_nf4_config
from llmops.model.gguf.process import Worker
from llmops.model.gguf.write import GgufForm, write_gguf_folder
from serving.engines.base import Answer, Chat, Engine, EngineRequest, Message, Question, Text, TokenIds
from serving.engines.openvino import OpenvinoEngine
from serving.engines.prompt import encode_prompt
from serving.engines.transformers import TransformersEngine
from serving.errors import EngineDied, PromptRefused, PromptTooLong
from tests.model.samples import make_causal_model, write_random_adapter

REQUESTS = [EngineRequest(Question(text), tokens) for text, tokens in zip(
    ["Hello", "Where is my parcel, and when will it come?", "word " * 90, "Hi", "Ünïcödé 你好 🙂", "a b c " * 20],
    [9, 16, 8, 3, 12, 9],
    strict=True,
)]  # fmt: skip
KINDS = ["f16", "q8_0", "transformers"]


@pytest.fixture(autouse=True, scope="module")
def exact() -> Iterator[None]:
    """Let torch compute in float32: in bfloat16 a random model has ties, which fall as sums are ordered."""
    loading = load.load_servable

    def loaded(path: Path) -> tuple[Any, Any]:
        model, tokenizer = loading(path)
        return model if getattr(model, "is_quantized", False) else model.float(), tokenizer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "load_servable", loaded)
        yield


@contextmanager
def open_engine(kind: str, folder: Path, **options: Any) -> Iterator[Engine]:
    engine = (TransformersEngine if kind == "transformers" else OpenvinoEngine)(folder, 64, 4, **options)
    try:
        engine.load()
        yield engine
    finally:
        engine.close()


def make_servable(kind: str, base: Path, out: Path) -> Path:
    if kind != "transformers":
        write_gguf_folder(base, out, cast("GgufForm", kind))
    return base if kind == "transformers" else out


@pytest.fixture(scope="module", params=KINDS)
def engine(request: Any, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One engine of each kind for all tests that neither break nor close it."""
    folder = make_servable(request.param, tiny_base, tmp_path_factory.mktemp("served") / "servable")
    with open_engine(request.param, folder, max_context=256) as engine:
        yield engine


def collect_answers(engine: Engine, *requests: EngineRequest) -> list[Answer]:
    """Return the answers to requests that are all made at once."""

    async def use() -> list[Answer]:
        streams = [engine.generate(request) for request in requests]
        return await asyncio.wait_for(asyncio.gather(*[stream.collect() for stream in streams]), 100)

    return asyncio.run(use())


def compute_expected(folder: Path) -> list[str]:
    """Return what `generate` answers to each of `REQUESTS` alone."""
    model, tokenizer = load.load_servable(folder)
    texts = []
    for request in REQUESTS:
        ids = prompts.encode_question(tokenizer, cast("Question", request.prompt).text)
        texts.append(decode(tokenizer, generate(model, tokenizer, [ids], request.max_new_tokens)[0]))
    return texts


@pytest.mark.anyio
async def test_joining_and_leaving_in_any_order_changes_no_answer(
    engine: Engine, tiny_base: Path, request: Any
) -> None:
    alone = [await engine.generate(one).collect() for one in REQUESTS]
    if request.node.callspec.params["engine"] != "q8_0":
        assert [answer.text for answer in alone] == compute_expected(tiny_base)
    assert all(answer.output_tokens <= one.max_new_tokens for answer, one in zip(alone, REQUESTS, strict=True))
    order = random.Random(0)

    async def one(n: int) -> None:
        for _ in range(order.randrange(100)):
            await asyncio.sleep(0)
        stream = engine.generate(replace(REQUESTS[n], key=str(n)))
        if order.random() < 0.3:
            async for _ in stream:
                return  # and leave
        else:
            assert await stream.collect() == alone[n]

    async with asyncio.timeout(100):
        await asyncio.gather(*[one(n % len(REQUESTS)) for n in range(40)])
        while engine.get_stats().running:
            await asyncio.sleep(0.01)


def test_a_seed_decides_a_sampled_answer_whoever_else_asks(engine: Engine, request: Any) -> None:
    requests = [
        EngineRequest(Text("Once"), 12, temperature=1.5, top_p=p, seed=seed)
        for seed, p in ((1, 0.9), (2, 0.9), (3, 1.0), (4, 1.0))
    ]
    alone = [collect_answers(engine, request)[0].text for request in requests]
    noise = [EngineRequest(Text(f"noise {n}"), 20, temperature=1.0) for n in range(4)]
    together = collect_answers(engine, *noise[:2], *requests, *noise[2:])
    if request.node.callspec.params["engine"] != "q8_0":  # whose last bits depend on the size of the batch
        assert [answer.text for answer in together[2:6]] == alone
    assert len(set(alone)) == 4
    free = collect_answers(engine, *[EngineRequest(Text("Once"), 12, temperature=1.5)] * 3)
    assert len({answer.text for answer in free}) > 1  # without a seed chance decides
    greedy, *nuclei = collect_answers(
        engine, *[EngineRequest(Text("Once"), 12, t, p) for t, p in ((0.0, 1.0), (2.0, 1e-9), (2.0, 1e-46))]
    )
    assert nuclei == [greedy, greedy]
    stop = alone[0][len(alone[0]) // 2 :][:5]
    (cut,) = collect_answers(engine, replace(requests[0], stop=(stop, "never said")))
    assert (cut.text, cut.finish_reason) == (alone[0][: alone[0].index(stop)], "stop")


@pytest.mark.anyio
async def test_what_does_not_fit_is_refused_alone_with_both_counts(engine: Engine, tokenizer: Any) -> None:
    words = Question("word " * 300)
    good = engine.generate(EngineRequest(Question("Hi"), 5))
    with pytest.raises(PromptTooLong, match=rf"{len(prompts.encode_question(tokenizer, words.text))} .* 7; .* 256"):
        await engine.generate(EngineRequest(words, 7)).collect()
    for bad in (TokenIds(()), TokenIds((10**7,)), TokenIds((-1,))):
        with pytest.raises(PromptRefused):
            await engine.generate(EngineRequest(bad, 4)).collect()
    assert (await good.collect()).output_tokens <= 5
    ids = tuple(prompts.encode_question(tokenizer, "Hi"))
    asked = [Question("Hi"), TokenIds(ids, stored=True), Chat((Message("user", "Hi"),)), Question("Hi")]
    streams = [engine.generate(EngineRequest(prompt, 256 - len(ids))) for prompt in asked]  # all places are full
    first, *others = [await stream.collect() for stream in streams]
    assert others == [first, first, first]


def test_a_chat_needs_a_chat_template(engine: Engine, tokenizer: Any) -> None:
    chat = Chat((Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Yes?")))
    assert collect_answers(engine, EngineRequest(chat, 4))[0].input_tokens > 5
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(PromptRefused, match="chat template"):
        encode_prompt(bare, EngineRequest(chat, 4), 256)


def track_weights(patch: pytest.MonkeyPatch) -> list[weakref.ref[Any]]:
    """Return weak references to the models that are loaded from now on in this process."""
    loading, tracked = load.load_servable, list[weakref.ref[Any]]()

    def loaded(path: Path) -> tuple[Any, Any]:
        model, tokenizer = loading(path)
        tracked.append(weakref.ref(model))
        return model, tokenizer

    patch.setattr(load, "load_servable", loaded)
    return tracked


def break_engine(engine: Any) -> None:
    """Kill the process of a model, or let its next step fail."""
    if isinstance(engine, OpenvinoEngine):
        cast("Worker", engine._worker).process.kill()
    else:
        engine._manager.batch_processor._generation_step = None


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["f16", "transformers"])
async def test_a_model_that_fails_ends_the_engine_and_tells_everybody(
    kind: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = track_weights(monkeypatch)
    with open_engine(kind, make_servable(kind, tiny_base, tmp_path / "servable")) as engine:
        streams = [engine.generate(EngineRequest(Question("Hi"), 400, temperature=1.0)) for _ in range(6)]
        async for _ in streams[0]:
            break_engine(engine)
            break
        for stream in streams[1:]:
            with pytest.raises(EngineDied):
                await stream.collect()
        assert not engine.get_stats().alive
        engine.close()
        assert [model() for model in weights] == [None] * (kind == "transformers")  # though the engine keeps its error


def test_a_lack_of_memory_is_named_and_leaves_no_weights(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = track_weights(monkeypatch)
    monkeypatch.setattr(
        ContinuousBatchingManager, "_create_batch_processor", lambda manager: torch.empty(2**50, dtype=torch.uint8)
    )
    with pytest.raises(MemoryError, match=r"serving\.max_batch") as missing, open_engine("transformers", tiny_base):
        pass
    assert "can't allocate memory" in str(missing.value.__cause__)
    assert [model() for model in weights] == [None]


@pytest.mark.anyio
async def test_a_models_process_heeds_no_signal_and_ends_with_its_engine(tiny_base: Path, tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM are for the app, which answers what it has taken; a process that hangs holds up nobody."""
    with open_engine("f16", make_servable("f16", tiny_base, tmp_path / "servable")) as engine:
        process = cast("Worker", cast("Any", engine)._worker).process
        assert os.getpgid(process.pid) != os.getpgid(0)
        streams = [engine.generate(EngineRequest(Text("Once"), 40, temperature=1.0, seed=n)) for n in range(9)]
        process.send_signal(signal.SIGSTOP)
        for _ in range(100):
            await asyncio.sleep(0.001)  # the app goes on
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
            process.send_signal(one)
        closing = asyncio.create_task(asyncio.to_thread(engine.close))
        assert all([(await stream.collect()).output_tokens for stream in streams])
        await closing
        assert process.returncode is not None and not engine.get_stats().alive


def test_a_file_that_cannot_be_run_is_named(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no model\.gguf.*serving\.engine"), open_engine("f16", tiny_base):
        pass
    file = make_servable("f16", tiny_base, tmp_path / "servable") / "model.gguf"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ArtifactError, match=r"cannot run .*model\.gguf"), open_engine("f16", file.parent):
        pass


def test_swap_canary_and_rollback_under_load_fail_no_request(new_site: Any, tiny_base: Path, tmp_path: Path) -> None:
    folder, statuses, ended = make_servable("q8_0", tiny_base, tmp_path / "servable"), list[int](), threading.Event()
    site = new_site(tmp_path / "home").release()

    def keep_asking(client: Any) -> None:
        while not ended.is_set():
            statuses.append(site.ask(client).status_code)

    with site.client(lambda version: OpenvinoEngine(folder, 64, 4)) as client:
        site.ready(client)
        askers = [threading.Thread(target=keep_asking, args=(client,)) for _ in range(6)]
        for asker in askers:
            asker.start()
        for path, body, now in (
            ("promote", {"version": "v2"}, "v2"),
            ("canary", {"version": "v1", "share": 0.5}, "v2"),
            ("rollback", {}, "v1"),
            ("promote", {"version": "v2"}, "v2"),
        ):
            answer = client.post(f"/admin/{path}", json=body, headers=site.headers("admin"))
            assert answer.status_code == 200, answer.text
            site.ready(client, now)
            before = len(statuses)
            site.until(lambda before=before: len(statuses) > before + 12)
        ended.set()
        for asker in askers:
            asker.join()
    assert set(statuses) == {200}


@pytest.mark.parametrize("kind", ["mistral", "phi3", "gpt_neox", "nf4", "gguf"])
def test_transformers_runs_what_openvino_does_not(kind: str, tiny_base: Path, tokenizer: Any, tmp_path: Path) -> None:
    folder = tmp_path / kind
    if kind == "gguf":
        write_gguf_folder(tiny_base, folder, "q8_0")
    elif kind == "nf4":
        load_model(tiny_base, make_nf4_config()).save_pretrained(folder)
        write_random_adapter(tiny_base, Train(), folder / "adapter")
    else:
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        window = {} if kind == "gpt_neox" else {"sliding_window": 16}
        model = make_causal_model(kind, vocab_size=len(tokenizer), max_position_embeddings=512, **ids, **window)
        model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if kind == "gpt_neox":
        with pytest.raises(ArtifactError, match=r"GPTNeoX.*vllm"), open_engine("transformers", folder):
            pass
        return
    with open_engine("transformers", folder) as engine:
        answers = collect_answers(engine, *REQUESTS)
    assert [answer.text for answer in answers] == compute_expected(folder)

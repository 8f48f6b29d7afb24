"""The OpenVINO engine on a tiny random model: its answers are `generate`'s, whoever else asks, and it dies alone."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmops import prompts
from llmops.errors import ArtifactError
from llmops.model.base.generate import decode, generate
from llmops.model.base.load import load_tokenizer
from llmops.model.gguf import process
from llmops.model.gguf.write import write_folder
from serving.engines import openvino as module
from serving.engines.base import Chat, EngineRequest, Message, Question, Text, TokenIds
from serving.engines.openvino import OpenvinoEngine
from serving.engines.transformers import TransformersEngine
from serving.errors import EngineDied, OutOfMemory, PromptRefused, PromptTooLong, told_of_memory

from .asked import REQUESTS, answered, goes_on_if_asked, run


@pytest.fixture(scope="module")
def folder(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base, in GGUF."""
    out = tmp_path_factory.mktemp("gguf") / "servable"
    write_folder(tiny_base, out, "f16")
    return out


@pytest.fixture(scope="module")
def expected(tiny_base: Path) -> list[str]:
    """What `generate` in float32 answers to each of `REQUESTS` alone."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32), load_tokenizer(tiny_base)
    texts = []
    for request in REQUESTS:
        assert isinstance(request.prompt, Question)
        ids = prompts.prompt_ids(tokenizer, request.prompt.text)
        texts.append(decode(tokenizer, generate(model, tokenizer, [ids], request.max_new_tokens)[0]))
    return texts


def test_answers_are_those_of_generate(folder: Path, expected: list[str]) -> None:
    answers = answered(OpenvinoEngine(folder, 64, 4), REQUESTS)
    assert [answer.text for answer in answers] == expected
    assert all(
        answer.output_tokens <= request.max_new_tokens for answer, request in zip(answers, REQUESTS, strict=True)
    )


@pytest.mark.parametrize("form", ["f16", "q8_0"])
def test_joining_and_leaving_in_any_order_changes_no_answer(form: Any, tiny_base: Path, tmp_path: Path) -> None:
    write_folder(tiny_base, tmp_path / "servable", form)
    engine, order = OpenvinoEngine(tmp_path / "servable", 64, 3), random.Random(0)

    async def use() -> None:
        alone = [await engine.generate(request).whole() for request in REQUESTS]

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


def test_a_seed_decides_a_sampled_answer_whoever_else_asks(folder: Path) -> None:
    requests = [
        EngineRequest(Text("Once"), 12, temperature=1.5, top_p=p, seed=seed) for seed in (1, 2) for p in (0.9, 1.0)
    ]
    engine = OpenvinoEngine(folder, 64, 8)

    async def use() -> None:
        alone = [(await engine.generate(request).whole()).text for request in requests]
        noise = [engine.generate(EngineRequest(Text(f"noise {n}"), 20, temperature=1.0)) for n in range(4)]
        together = await asyncio.gather(*[engine.generate(request).whole() for request in requests])
        await asyncio.gather(*[stream.whole() for stream in noise])
        assert [answer.text for answer in together] == alone
        assert len(set(alone)) == 4
        free = [await engine.generate(EngineRequest(Text("Once"), 12, temperature=1.5)).whole() for _ in range(3)]
        assert len({answer.text for answer in free}) > 1  # without a seed chance decides

    run(engine, use)


def test_a_stream_is_read_while_it_is_made_and_ends_at_a_stop_string(folder: Path) -> None:
    engine = OpenvinoEngine(folder, 4, 2)

    async def use() -> None:
        asked = EngineRequest(Text("你好 🙂"), 40, temperature=2.0, seed=5)
        chunks = [chunk async for chunk in engine.generate(asked)]
        counts = [chunk.output_tokens for chunk in chunks]
        assert counts == sorted(counts)
        assert len(chunks) > 3
        assert [chunk.finish_reason is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        assert all(chunk.text for chunk in chunks[:-1])
        whole = (await engine.generate(EngineRequest(Text("Once"), 30)).whole()).text
        stop = whole[len(whole) // 2 : len(whole) // 2 + 5]
        cut = await engine.generate(EngineRequest(Text("Once"), 30, stop=(stop, "never said"))).whole()
        assert cut.text == whole[: whole.index(stop)]
        assert cut.finish_reason == "stop"
        assert cut.output_tokens < 30
        for least in (1e-9, 1e-46):  # the latter is 0 in 32 bits
            nucleus = await engine.generate(EngineRequest(Text("Once"), 30, temperature=2.0, top_p=least)).whole()
            assert nucleus.text == whole

    run(engine, use)


def test_an_engine_whose_first_prompt_takes_several_steps_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WARM_UP", EngineRequest(TokenIds(tuple([60] * 400)), 4))
    engine = OpenvinoEngine(folder, 4, 2)

    async def use() -> None:
        assert (await engine.generate(EngineRequest(Question("Hi"), 4)).whole()).output_tokens

    run(engine, use)


def test_what_does_not_fit_is_refused_alone_with_both_counts(folder: Path) -> None:
    engine, tokenizer = OpenvinoEngine(folder, 64, 4, max_context=128), load_tokenizer(folder)
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


def test_all_places_full_of_the_longest_requests_have_room(folder: Path) -> None:
    engine = OpenvinoEngine(folder, 64, 3, max_context=128)

    async def use() -> None:
        ids = [tuple([50 + n] + [60] * 27) for n in range(9)]
        streams = [engine.generate(EngineRequest(TokenIds(i), 100, temperature=1.0, seed=1)) for i in ids]
        assert all([(await stream.whole()).output_tokens for stream in streams])

    run(engine, use)


def test_what_the_worker_refuses_is_told_to_who_asked_alone(folder: Path) -> None:
    engine = OpenvinoEngine(folder, 4, 2)

    async def use() -> None:
        good = engine.generate(EngineRequest(Question("Hi"), 5))
        with pytest.raises(RuntimeError, match="does not take"):
            await engine.generate(EngineRequest(Text("Hi"), 5, temperature=-1.0)).whole()
        assert (await good.whole()).output_tokens
        assert engine.stats().alive

    run(engine, use)


def test_a_worker_that_is_killed_ends_the_engine_and_tells_everybody(folder: Path) -> None:
    engine = OpenvinoEngine(folder, 64, 2)

    async def use() -> None:
        streams = [engine.generate(EngineRequest(Question("Hi"), 400, temperature=1.0)) for _ in range(4)]
        async for _ in streams[0]:
            engine._worker.process.kill()  # type: ignore[union-attr]
            break
        for stream in streams[1:]:
            with pytest.raises(EngineDied):
                await stream.whole()
        assert not engine.stats().alive

    run(engine, use)


def test_an_idle_engine_whose_worker_was_killed_is_not_alive(folder: Path) -> None:
    engine = OpenvinoEngine(folder, 64, 2)

    async def use() -> None:
        assert engine.stats().alive
        engine._worker.process.kill()  # type: ignore[union-attr]
        until = time.monotonic() + 10
        while engine.stats().alive:
            assert time.monotonic() < until
            await asyncio.sleep(0.01)
        with pytest.raises(EngineDied):
            await engine.generate(EngineRequest(Question("Hi"), 4)).whole()

    run(engine, use)


def test_closing_answers_what_was_accepted_and_ends_the_worker(folder: Path, expected: list[str]) -> None:
    engine = OpenvinoEngine(folder, 64, 2)

    async def use() -> None:
        streams = [engine.generate(request) for request in REQUESTS]
        await asyncio.to_thread(engine.close)
        assert [(await stream.whole()).text for stream in streams] == expected
        assert engine._worker.process.poll() == 0  # type: ignore[union-attr]

    run(engine, use)


def test_the_loop_goes_on_while_the_model_computes(folder: Path) -> None:
    """A step of the pipeline holds Python's lock: the lock of another process, here one that takes forever."""
    engine = OpenvinoEngine(folder, 64, 16)

    async def use() -> None:
        stream = engine.generate(EngineRequest(Text("Once"), 20, temperature=1.0, seed=1))
        engine._worker.process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]
        for _ in range(100):
            await asyncio.sleep(0.001)
        engine._worker.process.send_signal(signal.SIGCONT)  # type: ignore[union-attr]
        assert (await stream.whole()).output_tokens

    run(engine, use)


def test_a_request_has_room_right_after_others_have_left(folder: Path) -> None:
    """What a cancelled request held is free only after a step of the pipeline."""
    engine = OpenvinoEngine(folder, 64, 2, max_context=64)

    async def use() -> None:
        for n in range(12):
            ids = tuple([60 + n] + [70 + n] * 31)
            async for chunk in engine.generate(EngineRequest(TokenIds(ids), 32, temperature=1.0, seed=n)):
                if chunk.output_tokens > 8:
                    break  # and leave
            later = engine.generate(EngineRequest(TokenIds(ids[::-1]), 32, temperature=1.0, seed=n))
            assert (await later.whole()).output_tokens

    run(engine, use)


def test_a_signal_to_the_group_of_the_app_is_none_of_the_workers(folder: Path) -> None:
    engine = OpenvinoEngine(folder, 64, 2)

    async def use() -> None:
        worker = engine._worker and engine._worker.process
        assert worker and os.getpgid(worker.pid) != os.getpgid(0)
        stream = engine.generate(EngineRequest(Text("Once"), 100, temperature=1.0, seed=3))
        for one in (signal.SIGINT, signal.SIGTERM):
            worker.send_signal(one)
        assert (await stream.whole()).output_tokens

    run(engine, use)


def test_a_worker_that_hangs_is_killed_however_much_it_was_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT_S", 1.0)
    engine = OpenvinoEngine(folder, 64, 16, max_context=100_000)

    async def use() -> None:
        engine._worker.process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]
        told = tuple([60] * 400)
        streams = [engine.generate(EngineRequest(TokenIds(told), 90)) for _ in range(64)]  # more than a pipe holds
        for stream in streams:
            with pytest.raises(EngineDied):
                await stream.whole()
        assert not engine.stats().alive

    run(engine, use)


def test_closing_ends_a_worker_that_hangs_while_it_loads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = OpenvinoEngine(folder, 4, 2)
    started = subprocess.Popen

    def stopped(*arguments: Any, **options: Any) -> Any:
        worker = started(*arguments, **options)
        worker.send_signal(signal.SIGSTOP)
        return worker

    monkeypatch.setattr(process.subprocess, "Popen", stopped)
    loading = threading.Thread(target=lambda: pytest.raises(EngineDied, engine.load))
    loading.start()
    while engine._worker is None:
        time.sleep(0.01)
    engine.close()
    loading.join(20)
    assert not loading.is_alive() and engine._worker.process.poll() is not None


def test_a_worker_that_is_killed_while_it_loads_is_told_as_too_little_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, started = OpenvinoEngine(folder, 4, 2), subprocess.Popen

    def killed(*arguments: Any, **options: Any) -> Any:
        worker = started(*arguments, **options)
        worker.kill()
        return worker

    monkeypatch.setattr(process.subprocess, "Popen", killed)
    with pytest.raises(MemoryError) as found:
        engine.load()
    assert isinstance(told_of_memory(found.value), OutOfMemory)
    engine.close()


def test_what_cannot_be_loaded_says_why(tiny_base: Path, folder: Path, tmp_path: Path) -> None:
    engine = OpenvinoEngine(tiny_base, 4, 4)
    with pytest.raises(ArtifactError, match=r"model\.gguf.*transformers"):
        engine.load()
    engine.close()
    shutil.copytree(folder, tmp_path / "cut")
    whole = (folder / "model.gguf").read_bytes()
    (tmp_path / "cut" / "model.gguf").write_bytes(whole[: len(whole) // 2])
    engine = OpenvinoEngine(tmp_path / "cut", 4, 4)
    with pytest.raises(ArtifactError, match=r"cannot run .*model\.gguf"):
        engine.load()
    engine.close()


def test_other_engines_name_the_one_that_reads_such_a_version(folder: Path) -> None:
    engine = TransformersEngine(folder, 4, 4)
    with pytest.raises(ArtifactError, match="GGUF.*openvino"):
        engine.load()
    engine.close()


def test_an_answer_goes_on_where_the_model_ends_it_if_that_is_asked_for(tiny_base: Path, tmp_path: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32), load_tokenizer(tiny_base)
    ((first,),) = generate(model, tokenizer, [prompts.text_ids(tokenizer, "Once upon")], 1)
    write_folder(tiny_base, tmp_path / "servable", "f16")
    goes_on_if_asked(OpenvinoEngine(tmp_path / "servable", 4, 2), tmp_path / "servable", first)

"""A GGUF file answers and ends as torch does with the weights that it was made of."""

from __future__ import annotations

import io
import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmops import prompts
from llmops.errors import ArtifactError
from llmops.features.tokenize import Tokens
from llmops.model.base.answering import GgufModel, TorchModel, answer, open_model
from llmops.model.base.catalog import catalogue
from llmops.model.base.load import load_model, load_tokenizer
from llmops.model.base.weights import convert_gguf
from llmops.model.gguf import process
from llmops.model.gguf.write import write_folder

ASKED = [("How can I contact you?", ""), ("Hi", ""), ("What is in it?", "A vase and a lamp."), ("Why?", "")]


def both(folder: Path, out: Path) -> tuple[TorchModel, GgufModel]:
    """The model of a folder by torch in 32 bits, and as a GGUF file in 16."""
    write_folder(folder, out, "f16")
    served = open_model(out)
    assert isinstance(served, GgufModel)
    return TorchModel(load_model(folder).float(), load_tokenizer(folder)), served


@pytest.mark.slow
def test_the_packaged_model_answers_as_in_32_bits(tmp_path: Path) -> None:
    packaged = catalogue()[0].packaged()
    assert packaged
    convert_gguf(packaged, tmp_path / "hf")
    exact, served = both(tmp_path / "hf", tmp_path / "gguf")
    texts = answer(served, ASKED, 16, batch=4)
    assert texts == answer(exact, ASKED, 16) and all(texts)


def test_what_the_generation_config_says_is_heeded(tiny_base: Path, tmp_path: Path) -> None:
    plain = both(tiny_base, tmp_path / "plain")[1]
    ids = [prompts.prompt_ids(plain.tokenizer, *asked) for asked in ASKED]
    before = plain.generate(ids, 12, 4)
    shutil.copytree(tiny_base, tmp_path / "hf")
    known = json.loads((tiny_base / "generation_config.json").read_text())
    known |= {"repetition_penalty": 1.5, "eos_token_id": [known["eos_token_id"], before[0][6]]}
    (tmp_path / "hf" / "generation_config.json").write_text(json.dumps(known))
    exact, served = both(tmp_path / "hf", tmp_path / "gguf")
    found = served.generate(ids, 12, 4)
    assert found == exact.generate(ids, 12, 4) != before
    assert all(before[0][6] not in tokens for tokens in found)


def test_what_fails_leaves_nothing_running(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = both(tiny_base, tmp_path / "gguf")[1]
    ids = [prompts.prompt_ids(served.tokenizer, *asked) for asked in ASKED]
    right = served.generate(ids, 8, 4)
    with monkeypatch.context() as patch:
        patch.setattr(served, "_stopped", lambda tokens: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            served.generate(ids, 8, 4)
    assert served.generate(ids, 8, 4) == right


def test_a_process_that_dies_or_hangs_is_an_error_of_who_asks(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, again = both(tiny_base, tmp_path / "gguf")[1], open_model(tmp_path / "gguf")
    served._worker.process.kill()  # as a machine without memory does
    for _ in range(2):
        with pytest.raises(MemoryError, match=r"model\.gguf"):
            answer(served, ASKED, 8)
    assert isinstance(again, GgufModel)
    monkeypatch.setattr("llmops.model.gguf.process.SILENT_S", 1.0)
    again._worker.process.send_signal(signal.SIGSTOP)
    with pytest.raises(TimeoutError, match="said nothing"):
        answer(again, ASKED, 8)
    again.close()
    assert again._worker.process.poll() == -signal.SIGKILL


def test_a_process_that_dies_over_a_line_has_ended() -> None:
    lines = process.Lines()
    process._listen(io.BytesIO(b'{}\n{"7": [[1, 2'), lines)
    assert (lines.get(), lines.get()) == ({}, None)


def test_a_damaged_file_is_named_and_ends_no_stage(tiny_base: Path, tmp_path: Path) -> None:
    write_folder(tiny_base, tmp_path / "gguf", "f16")
    file = tmp_path / "gguf" / "model.gguf"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ArtifactError, match=r"cannot run .*model\.gguf"):
        open_model(tmp_path / "gguf")


def test_a_model_that_nobody_holds_ends_its_process(tiny_base: Path, tmp_path: Path) -> None:
    served = both(tiny_base, tmp_path / "gguf")[1]
    process = served._worker.process
    del served
    assert process.wait(20) == 0


STAGE = """
import signal, sys
from llmops.errors import TimeLimitError
from llmops.model.base.answering import answer, open_model
from llmops.schedule.limit import time_limit

try:
    with time_limit("The stage evaluate", 600):
        model = open_model(sys.argv[1])
        answer(model, [("Hi", "")], 4)
        assert "openvino" not in sys.modules
        signal.raise_signal(signal.SIGALRM)
except TimeLimitError:
    print("told")
"""


def test_a_stage_that_asks_such_a_model_can_be_interrupted(tiny_base: Path, tmp_path: Path) -> None:
    """In a process that runs OpenVINO, a signal may meet a stack that is no longer there."""
    write_folder(tiny_base, tmp_path / "gguf", "f16")
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", STAGE, str(tmp_path / "gguf")], capture_output=True, text=True
    )
    assert done.stdout == "told\n", done.stderr


@pytest.mark.slow
def test_an_answer_is_as_likely_whatever_was_read_before(tiny_base: Path, tmp_path: Path) -> None:
    served = both(tiny_base, tmp_path / "gguf")[1]
    draw = random.Random(0)
    prompt = [draw.randrange(9, 999) for _ in range(64)]  # two whole blocks of keys and values
    answers = [[draw.randrange(9, 999) for _ in range(40)] for _ in range(2)]
    answers += [answers[0], [*answers[0][:36], 7], [5]]  # the same, one that begins the same, a single token
    examples = [Tokens(str(n), prompt + answer, 64) for n, answer in enumerate(answers)]
    alone = []
    for example in examples:
        worker = process.Worker(tmp_path / "gguf")
        worker.wait_loaded()
        asked = {"max_new_tokens": 1, "echo": True, "logprobs": 1, "ignore_eos": True}
        [(_, logs)] = process.run_requests(worker, [example.token_ids], asked, 1)
        alone.append(-sum(logs[64:-1]))
        worker.close()
    assert [n for n, _ in served.nats(examples)] == pytest.approx(alone, abs=1e-4)  # together
    served.generate([prompt, prompt + answers[0][:20]], 8, 2)
    assert [n for n, _ in served.nats(examples)] == pytest.approx(alone, abs=1e-4)  # behind what it has read
    assert [n for n, _ in served.nats(examples[::-1])] == pytest.approx(alone[::-1], abs=1e-4)

"""A GGUF file holds the weights of its folder, within what its form rounds, and OpenVINO answers with it as torch does
with the folder."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader
from gguf.quants import dequantize
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llmops.errors import ArtifactError
from llmops.features.tokenize import Tokens
from llmops.model.base.answering import open_model
from llmops.model.base.generate import generate
from llmops.model.base.load import load_model, load_tokenizer
from llmops.model.base.packing import answer_nats
from llmops.model.gguf.process import Worker
from llmops.model.gguf.rounding import rounded
from llmops.model.gguf.write import supported, write_folder, write_gguf
from llmops.prompts import prompt_ids, training_ids

FORMS = ("f16", "q8_0", "q4_1")
QUESTIONS = ["Hi", "How long may I keep a vase before I send it back?", "Why?", "What does it cost, and who pays?"]
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 512}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False},
    "mistral": {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": None, "head_dim": 32},
    "qwen2": {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True},
}


def make(name: str, folder: Path, tokenizer: Any, **more: Any) -> Path:
    """A model folder of this architecture with random weights, those of norms and biases too."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)
    ends = {n: getattr(tokenizer, n) for n in ("bos_token_id", "eos_token_id", "pad_token_id")}
    settings = {**SIZES, **SHAPES[name], "vocab_size": len(tokenizer) + 7, **ends, **more}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **settings)).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * 0.1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", SHAPES)
def test_openvino_answers_as_torch_does_and_finds_the_same_likelihood(
    name: str, tokenizer: Any, tmp_path: Path
) -> None:
    folder = make(name, tmp_path / "hf", tokenizer)
    assert supported(folder) == ""
    torch_model, asked = load_model(folder).float(), [prompt_ids(tokenizer, q) for q in QUESTIONS]
    right = [generate(torch_model, load_tokenizer(folder), [ids], 16)[0] for ids in asked]
    examples = [Tokens(q, *training_ids(tokenizer, q, "It costs 3 euros, as I said.")) for q in QUESTIONS]
    write_folder(folder, tmp_path / "f16", "f16")
    served = open_model(tmp_path / "f16")
    assert served.window == 512
    assert served.generate(asked, 16, 4) == right
    for (ours, count), (nats, tokens) in zip(served.nats(examples), answer_nats(torch_model, examples), strict=True):
        assert count == tokens and ours == pytest.approx(nats, rel=2e-3)
    served.close()


@pytest.mark.parametrize("form", FORMS)
def test_an_answer_does_not_depend_on_who_else_asks_and_many_run_in_one_batch(
    form: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(make("llama", tmp_path / "hf", tokenizer), tmp_path / "out", form)
    model = open_model(tmp_path / "out")
    asked = [prompt_ids(tokenizer, question) for question in QUESTIONS * 4]
    alone = [model.generate([ids], 12, 1)[0] for ids in asked[:4]]
    of_worker, said = Worker._lines, list[Any]()

    def heard(worker: Worker, within: float) -> Any:
        """Let the worker go on when all is asked that is asked before its first step."""
        while not said and not worker._told.empty():
            time.sleep(0.01)
        if not said:
            time.sleep(0.3)  # until what was in the queue is in the pipe
            worker.process.send_signal(signal.SIGCONT)
        said.extend(lines := of_worker(worker, within))
        return lines

    def steps(batch: int) -> int:
        """How many it takes: it says a line after each."""
        said.clear()
        model._worker.process.send_signal(signal.SIGSTOP)  # type: ignore[attr-defined]
        assert model.generate(asked, 12, batch) == alone * 4
        return len(said)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_lines", heard)
        assert steps(16) <= 16 and steps(4) > 30  # one step makes a token of each of 16
    assert [n for n, _ in model.nats([Tokens("a", ids, 2) for ids in asked])] == pytest.approx(
        [n for ids in asked for n, _ in model.nats([Tokens("a", ids, 2)])], rel=1e-5
    )


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("form", FORMS)
def test_the_file_holds_the_weights_within_what_the_form_rounds(
    name: str, form: Any, tokenizer: Any, tmp_path: Path
) -> None:
    folder = make(name, tmp_path / "hf", tokenizer)
    write_gguf(folder, tmp_path / "x.gguf", form)
    assert {path.name for path in tmp_path.iterdir()} == {"hf", "x.gguf"}
    found = {t.name: t for t in GGUFReader(tmp_path / "x.gguf").tensors}
    state = load_model(folder).float().state_dict()
    tied = SHAPES[name].get("tie_word_embeddings")
    assert len(found) == len(state) - bool(tied)
    for ours, theirs in {
        "token_embd": "embed_tokens",
        "blk.1.ffn_down": "layers.1.mlp.down_proj",
        "blk.0.attn_v": "layers.0.self_attn.v_proj",
        "output_norm": "norm",
    }.items():
        tensor, right = found[f"{ours}.weight"], state[f"model.{theirs}.weight"].numpy()
        values = dequantize(tensor.data, tensor.tensor_type).reshape(right.shape)
        coarse = form == "q4_1" and ours.startswith("blk")
        step = np.ptp(right, axis=-1, keepdims=True) / (15 if coarse else 127) if right.ndim > 1 else 0
        assert (np.abs(values - right) <= np.abs(right) * 2**-11 + (0 if form == "f16" else step) + 1e-7).all()
    if name in ("qwen2", "qwen3"):  # as they are; a Llama's rows are interleaved
        query = found["blk.0.attn_q.weight"]
        right = state["model.layers.0.self_attn.q_proj.weight"].numpy()
        assert np.abs(dequantize(query.data, query.tensor_type) - right).max() < 0.1


@given(arrays(np.float32, (3, 64), elements=st.floats(-8, 8, width=32)))
def test_rounding_to_4_bits_is_off_by_a_step_at_most_and_keeps_zero(weight: Any) -> None:
    values = dequantize(rounded(weight, Kind.Q4_1), Kind.Q4_1)
    blocks, off = weight.reshape(-1, 32), np.abs(values - weight).reshape(-1, 32)
    step = (np.maximum(blocks.max(1), 0) - np.minimum(blocks.min(1), 0)) / 15
    assert (off <= step[:, None] * 1.02 + 1e-4).all()
    assert (np.abs(values.reshape(-1, 32)) * (blocks == 0) <= step[:, None] * 15 * 2**-11 + 1e-6).all()


@pytest.mark.parametrize(
    ("name", "more", "why"),
    [
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "positions"),
        ("llama", {"attention_bias": True}, "biases"),
        ("llama", {"hidden_act": "gelu"}, "gelu"),
        ("mistral", {"sliding_window": 64}, "window"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}, "window"),
        ("llama", {"intermediate_size": 120}, "32"),
    ],
)
def test_what_gguf_cannot_say_is_refused(
    name: str, more: dict[str, Any], why: str, tokenizer: Any, tmp_path: Path
) -> None:
    assert why in supported(make(name, tmp_path / "hf", tokenizer, **more))


def test_other_architectures_and_tokenizers_are_refused(tokenizer: Any, tiny_base: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config

    GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=50).save_pretrained(tmp_path / "gpt2")
    assert "gpt2" in supported(tmp_path / "gpt2")
    folder = make("llama", tmp_path / "hf", tokenizer)
    known = json.loads((folder / "tokenizer.json").read_text())
    for changed, why in (
        ({"pre_tokenizer": {"type": "Whitespace"}}, "no name"),
        ({"pre_tokenizer": None}, "no name"),
        ({"model": {**known["model"], "byte_fallback": True}}, "byte-level"),
    ):
        (folder / "tokenizer.json").write_text(json.dumps({**known, **changed}))
        assert why in supported(folder)


def test_weights_that_do_not_fit_are_an_error_and_leave_no_file(tokenizer: Any, tmp_path: Path) -> None:
    folder = make("llama", tmp_path / "hf", tokenizer)
    model = load_model(folder)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 1e6
    model.save_pretrained(folder)
    with pytest.raises(ArtifactError, match=r"up_proj.*16 bits"):
        write_gguf(folder, tmp_path / "x.gguf", "f16")
    assert not (tmp_path / "x.gguf").exists()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ArtifactError, match=r"damaged.*blk\.2"):
        write_gguf(folder, tmp_path / "x.gguf", "f16")


def test_the_tokenizer_is_told_whole(tokenizer: Any, tiny_base: Path, tmp_path: Path) -> None:
    write_gguf(tiny_base, tmp_path / "x.gguf", "f16")
    fields = GGUFReader(tmp_path / "x.gguf").fields
    told = {key: fields[f"tokenizer.{key}"].contents() for key in ("ggml.model", "ggml.pre", "chat_template")}
    assert told == {"ggml.model": "gpt2", "ggml.pre": "gpt-2", "chat_template": tokenizer.chat_template}
    assert fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.eos_token_id
    tokens, kinds = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "token_type"))
    assert tokens == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert kinds[tokenizer.eos_token_id] == 3 and kinds[500] == 1
    assert len(fields["tokenizer.ggml.merges"].contents()) > 40000

"""OpenVINO answers with a GGUF file as torch does with its folder; what cannot be one is refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader

from llmops.data.features.tokenize import Tokens
from llmops.frame.errors import ArtifactError
from llmops.model.base.generate import generate
from llmops.model.base.inference import open_model
from llmops.model.base.load import load_model, load_tokenizer
from llmops.model.base.packing import compute_answer_nats
from llmops.model.gguf.write import explain_unsupported, write_gguf, write_gguf_folder
from llmops.prompts import encode_example, encode_question

ROOT = Path(__file__).parents[3]
QUESTIONS = ["Hi", "How long may I keep a vase before I send it back?", "Why?", "What does it cost, and who pays?"]
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 512}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False},
    "mistral": {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": None, "head_dim": 32},
    "qwen2": {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True},
}


def write_model(name: str, folder: Path, tokenizer: Any, **more: Any) -> Path:
    """Return a model folder of this architecture with random weights, those of norms and biases too."""
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
def test_openvino_answers_as_torch_does_with_the_same_likelihood(name: str, tokenizer: Any, tmp_path: Path) -> None:
    folder = write_model(name, tmp_path / "hf", tokenizer)
    known = json.loads((folder / "generation_config.json").read_text())
    torch_model, asked = load_model(folder).float(), [encode_question(tokenizer, q) for q in QUESTIONS]
    before = generate(torch_model, load_tokenizer(folder), [asked[0]], 16)[0]
    known |= {"repetition_penalty": 1.5, "eos_token_id": [known["eos_token_id"], before[6]]}  # both are heeded
    (folder / "generation_config.json").write_text(json.dumps(known))
    assert explain_unsupported(folder) == ""
    torch_model = load_model(folder).float()
    right = [generate(torch_model, load_tokenizer(folder), [ids], 16)[0] for ids in asked]
    examples = [Tokens(q, *encode_example(tokenizer, q, "It costs 3 euros, as I said.")) for q in QUESTIONS]
    write_gguf_folder(folder, tmp_path / "f16", "f16")
    served = open_model(tmp_path / "f16")
    assert served.window == 512
    for _ in range(2):  # the second time behind all that it has read
        for (ours, count), (nats, tokens) in zip(
            served.compute_nats(examples), compute_answer_nats(torch_model, examples), strict=True
        ):
            assert count == tokens and ours == pytest.approx(nats, rel=2e-3)
        assert served.generate(asked, 16, 4) == right
    served.close()


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
def test_what_gguf_lacks_is_refused(name: str, more: dict[str, Any], why: str, tokenizer: Any, tmp_path: Path) -> None:
    assert why in explain_unsupported(write_model(name, tmp_path / "hf", tokenizer, **more))


def test_other_architectures_tokenizers_and_weights_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    from transformers import GPT2Config

    GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=50).save_pretrained(tmp_path / "gpt2")
    assert "gpt2" in explain_unsupported(tmp_path / "gpt2")
    folder = write_model("llama", tmp_path / "hf", tokenizer)
    known = json.loads((folder / "tokenizer.json").read_text())
    for changed, why in (
        ({"pre_tokenizer": {"type": "Whitespace"}}, "no name"),
        ({"pre_tokenizer": None}, "no name"),
        ({"model": {**known["model"], "byte_fallback": True}}, "byte-level"),
    ):
        (folder / "tokenizer.json").write_text(json.dumps({**known, **changed}))
        assert why in explain_unsupported(folder)
    tokenizer.save_pretrained(folder)
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


def test_the_tokenizer_is_written_completely(tokenizer: Any, tiny_base: Path, tmp_path: Path) -> None:
    write_gguf(tiny_base, tmp_path / "x.gguf", "f16")
    fields = GGUFReader(tmp_path / "x.gguf").fields
    written = {key: fields[f"tokenizer.{key}"].contents() for key in ("ggml.model", "ggml.pre", "chat_template")}
    assert written == {"ggml.model": "gpt2", "ggml.pre": "gpt-2", "chat_template": tokenizer.chat_template}
    assert fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.eos_token_id
    tokens, kinds = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "token_type"))
    assert tokens == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert kinds[tokenizer.eos_token_id] == 3 and kinds[500] == 1
    assert len(fields["tokenizer.ggml.merges"].contents()) > 40000


#: Run a model in this process. Print its tokens, and every event that could reach another machine.
SCRIPT = """
import sys
from pathlib import Path
reached = []
WATCHED = ("socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen", "os.fork", "os.posix_spawn")
sys.addaudithook(lambda event, given: reached.append(event) if event in WATCHED else None)
from llmops.model.gguf.worker import PipelineRequests, open_pipeline
requests, ids = PipelineRequests(lambda: open_pipeline(Path(sys.argv[1]), batch=2, tokens=64, threads=1)), []
import openvino
requests.handle_message(1, [1, 2, 3], {"max_new_tokens": 8}, '{"const": "a b c d e f g h i j k l"}')
while requests.running:
    ids += requests.step().get(1, ([],))[0]
print(ids, reached)
"""


def test_a_file_that_may_only_be_read_is_run_too_and_nothing_is_reported(tiny_base: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "servable")]
    if os.getuid() == 0:  # who may write whatever is there
        setpriv = shutil.which("setpriv") or pytest.skip("setpriv is missing (util-linux)")
        command = [setpriv, "--bounding-set=-dac_override", "--inh-caps=-dac_override", *command]
    write_gguf_folder(tiny_base, tmp_path / "servable", "f16")
    (tmp_path / "temporary").mkdir()
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "temporary"), "HOME": str(tmp_path)}

    def run_script() -> str:
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    usual = run_script()
    assert usual.endswith("] []\n") and usual.count(",") == 7
    (tmp_path / "servable" / "model.gguf").chmod(0o444)
    assert run_script() == usual
    assert not list((tmp_path / "temporary").iterdir())

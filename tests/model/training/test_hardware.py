"""One function chooses the settings of a machine, and what it knows about memory is about right."""

from pathlib import Path

import pytest
import torch

from llmops.config import Train
from llmops.data.features.tokenize import Tokens
from llmops.frame.machine import GIB
from llmops.model.base.memory import CUDA_CONTEXT_BYTES, MemorySettings, estimate_activations, estimate_need
from llmops.model.base.packing import compute_answer_loss, pack
from llmops.model.base.shape import measure_shape, read_stored_config
from llmops.model.training import fit as fit_module
from llmops.model.training.attention import SEGMENTS
from llmops.model.training.fit import fit
from llmops.model.training.hardware import Hardware, TrainerSettings, choose_settings, detect_hardware
from llmops.model.training.qlora import Hyperparameters, add_adapter, load_trainable_model
from tests.model.samples import HYPERPARAMETERS, make_causal_model

EXAMPLES = [Tokens(str(i), [20 + (7 * i + j) % 400 for j in range(10 + i)], 4) for i in range(8)]


@pytest.mark.parametrize(
    "hardware, activations, attention, settings",
    [
        (Hardware(False, False, 8 * GIB), GIB, "sdpa", TrainerSettings(SEGMENTS, "adamw_torch_fused", False)),
        (Hardware(False, False, 8 * GIB), 7 * GIB, "eager", TrainerSettings("", "adamw_torch_fused", True)),
        (Hardware(True, True, 80 * GIB), GIB, "sdpa", TrainerSettings("flash_attention_2", "paged_adamw_8bit", False)),
        (Hardware(True, True, 80 * GIB), 70 * GIB, "eager", TrainerSettings("", "paged_adamw_8bit", True)),
    ],
)
def test_settings_follow_the_machine(
    hardware: Hardware, activations: int, attention: str, settings: TrainerSettings
) -> None:
    assert choose_settings(hardware, activations, attention) == settings
    assert detect_hardware().cuda == torch.cuda.is_available() and detect_hardware().free_bytes > 100 * 2**20


@pytest.mark.gpu
def test_gpu_trains_with_paged_adamw(tiny_base: Path, tmp_path: Path) -> None:
    history = fit(
        load_trainable_model(str(tiny_base), Train(), HYPERPARAMETERS),
        EXAMPLES,
        Train(epochs=4),
        HYPERPARAMETERS,
        tmp_path,
    )
    assert history[-1]["loss"] < history[0]["loss"]


@pytest.mark.gpu
@pytest.mark.timeout(1800)
def test_a_gpu_takes_what_the_plan_says_to_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QLoRA of a model in the shape of Llama 3.2 1B, with random weights."""
    shape = dict(vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16)
    shape |= dict(num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192, tie_word_embeddings=True)
    make_causal_model("llama", **shape).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    base, hyperparameters = str(tmp_path / "base"), Hyperparameters(1e-4, 16, 8)
    short = Hardware(True, torch.cuda.is_bf16_supported(), GIB)  # so that activations are computed twice, as planned
    monkeypatch.setattr(fit_module, "detect_hardware", lambda: short)
    examples = [Tokens(str(i), [20 + (7 * i + j) % 400 for j in range(512)], 256) for i in range(8)]
    torch.cuda.reset_peak_memory_stats()
    fit(load_trainable_model(base, Train(), hyperparameters), examples, Train(epochs=2), hyperparameters, tmp_path)
    taken = (torch.cuda.max_memory_allocated() + CUDA_CONTEXT_BYTES) / GIB
    planned = estimate_need("train", measure_shape(read_stored_config(Path(base))), MemorySettings(), gpu=True).gpu
    assert 0.6 < taken / planned < 1.1, (taken, planned)


@pytest.mark.parametrize(("family", "width"), [("llama", 512), ("phi3", 1024)])
def test_estimate_of_activations_is_about_what_autograd_keeps(family: str, width: int) -> None:
    shape = dict(vocab_size=2000, hidden_size=192, num_hidden_layers=4, num_attention_heads=6, intermediate_size=width)
    model = add_adapter(make_causal_model(family, **shape).to(torch.bfloat16), Train(), Hyperparameters(1e-3, 8, 8))
    model.get_base_model().set_attn_implementation(SEGMENTS)
    examples = [Tokens(str(i), list(range(5, 105)), 50) for i in range(6)]
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = compute_answer_loss(model, pack(examples))
    estimate = estimate_activations(model.config, 600, 300)
    assert loss.requires_grad
    assert 0.9 < estimate / sum(kept.values()) < 1.4, (estimate, sum(kept.values()))


def test_computing_activations_anew_changes_nothing(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for free in (GIB, 1000):
        monkeypatch.setattr(fit_module, "detect_hardware", lambda free=free: Hardware(False, False, free))
        model = load_trainable_model(base, Train(), HYPERPARAMETERS)
        history = fit(model, EXAMPLES, Train(epochs=2), HYPERPARAMETERS, tmp_path / str(free))
        assert model.get_base_model().is_activation_checkpointing == (free == 1000)
        runs.append([row["loss"] for row in history])
    assert runs[0] == pytest.approx(runs[1], abs=1e-3)

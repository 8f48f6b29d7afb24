"""Parameters counted on the meta device are those that the vendors' checkpoints have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from llmops.model.base.catalog import catalogue
from llmops.model.base.load import load_model
from llmops.model.base.shape import known_config, shape_of, stored_config

#: What decides the shape in each one's `config.json`, and how many parameters its weights hold.
KNOWN: dict[str, tuple[dict[str, Any], int]] = {
    "Llama-3-8B": (
        dict(model_type="llama", vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
             num_attention_heads=32, num_key_value_heads=8),
        8_030_261_248,
    ),
    "Phi-3-medium": (
        dict(model_type="phi3", vocab_size=32064, hidden_size=5120, intermediate_size=17920, num_hidden_layers=40,
             num_attention_heads=40, num_key_value_heads=10, pad_token_id=None),
        13_960_238_080,
    ),
    "Mistral-7B-v0.1": (
        dict(model_type="mistral", vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
             num_attention_heads=32, num_key_value_heads=8),
        7_241_732_096,
    ),
    "Llama-3.2-1B": (
        dict(model_type="llama", vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
             num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=True),
        1_235_814_400,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_parameters_are_those_of_the_weights(name: str) -> None:
    settings, parameters = KNOWN[name]
    settings = dict(settings)
    shape = shape_of(AutoConfig.for_model(settings.pop("model_type"), **settings))
    assert shape.parameters == parameters
    assert shape.linear < shape.parameters and shape.largest <= shape.tensor


@pytest.mark.parametrize("entry", catalogue(), ids=lambda entry: entry.model)
def test_the_catalogue_says_what_is_counted(entry: Any) -> None:
    config = known_config(entry.model)
    assert config is not None
    shape = shape_of(config)
    assert shape.parameters / 1e9 == pytest.approx(entry.parameters, rel=0.005)
    assert (shape.parameters - shape.linear) / 1e9 == pytest.approx(entry.embedding, abs=0.002)
    assert (shape.layers, shape.kv) == (entry.layers, entry.kv)


def test_a_folder_is_counted_without_its_weights(tiny_base: Path) -> None:
    assert shape_of(stored_config(tiny_base)).parameters == load_model(tiny_base).num_parameters()


def test_the_embedded_model_is_counted_from_its_gguf_file() -> None:
    packaged = catalogue()[0].packaged()
    assert packaged and shape_of(stored_config(packaged)).parameters == 134_515_008

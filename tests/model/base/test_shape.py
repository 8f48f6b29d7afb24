"""Parameters counted on the meta device are those that the vendors' checkpoints have."""

from pathlib import Path
from typing import Any

import pytest

from llmops.model.base.catalog import catalogue
from llmops.model.base.load import load_model
from llmops.model.base.shape import known_config, shape_of, stored_config


@pytest.mark.parametrize("entry", catalogue(), ids=lambda entry: entry.model)
def test_the_catalogue_says_what_is_counted(entry: Any) -> None:
    config = known_config(entry.model)
    assert config is not None
    shape = shape_of(config)
    assert shape.linear < shape.parameters and shape.largest <= shape.tensor
    assert shape.parameters / 1e9 == pytest.approx(entry.parameters, rel=0.005)
    assert (shape.parameters - shape.linear) / 1e9 == pytest.approx(entry.embedding, abs=0.002)
    assert (shape.layers, shape.kv) == (entry.layers, entry.kv)


def test_a_folder_is_counted_without_its_weights_and_the_embedded_model_from_its_gguf_file(tiny_base: Path) -> None:
    assert shape_of(stored_config(tiny_base)).parameters == load_model(tiny_base).num_parameters()
    packaged = catalogue()[0].packaged()
    assert packaged and shape_of(stored_config(packaged)).parameters == 134_515_008

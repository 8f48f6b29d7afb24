"""Parameters counted on the meta device are those that the vendors' checkpoints have."""

from pathlib import Path
from typing import Any

import pytest

from llmops.model.base.catalog import read_catalogue
from llmops.model.base.load import load_model
from llmops.model.base.shape import measure_shape, read_known_config, read_stored_config


@pytest.mark.parametrize("entry", read_catalogue(), ids=lambda entry: entry.model)
def test_the_catalogue_says_what_is_counted(entry: Any) -> None:
    config = read_known_config(entry.model)
    assert config is not None
    shape = measure_shape(config)
    assert shape.linear < shape.parameters and shape.largest_layer <= shape.largest_tensor
    assert shape.parameters / 1e9 == pytest.approx(entry.parameters, rel=0.005)
    assert (shape.parameters - shape.linear) / 1e9 == pytest.approx(entry.embedding, abs=0.002)
    assert (shape.layers, shape.kv) == (entry.layers, entry.kv)


def test_a_folder_is_counted_without_its_weights_and_the_embedded_model_from_its_gguf_file(tiny_base: Path) -> None:
    assert measure_shape(read_stored_config(tiny_base)).parameters == load_model(tiny_base).num_parameters()
    packaged = read_catalogue()[0].find_packaged_file()
    assert packaged and measure_shape(read_stored_config(packaged)).parameters == 134_515_008

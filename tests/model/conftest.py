"""A model that tests of training share."""

import pytest
import torch

from tests.model.samples import make_causal_model


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a Llama with 600 tokens, which is trained in a fraction of the time of `tiny_base`."""
    folder = tmp_path_factory.mktemp("small") / "base"
    make_causal_model("llama", max_position_embeddings=512).to(torch.bfloat16).save_pretrained(folder)
    return str(folder)

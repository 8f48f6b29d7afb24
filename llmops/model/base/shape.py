"""The shape of a model without its weights: built on torch's meta device, so that real parameters are counted."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from llmops.model.base.encoder import CLASSIFIES
from llmops.model.base.load import Model

#: Parameters from which on a model writes answers from passages by default. Smaller ones write too few right answers:
#: of 30 questions about a manual, a model of 135 million parameters answered 1 right, quotes 22.
MIN_WRITER_PARAMETERS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes that decide how much memory a model takes."""

    parameters: int  #: all of them; an output layer that shares the embedding's weight counts once
    linear: int  #: in linear layers without the output layer: the smaller forms store these in fewer bits
    adapted: int  #: sum of inputs and outputs of those layers: the parameters of an adapter of rank 1
    largest_layer: int  #: of the largest of those layers
    largest_tensor: int  #: of the largest tensor, usually the embedding
    config: Any  #: transformers' own: widths, layers, vocabulary

    @property
    def vocabulary(self) -> int:
        """Return the number of tokens in the vocabulary."""
        return int(self.config.vocab_size)

    @property
    def layers(self) -> int:
        """Return the number of layers of the decoder."""
        return int(self.config.num_hidden_layers)

    @property
    def kv(self) -> int:
        """Return the width of a layer's keys: key-value heads × head size."""
        heads = int(self.config.num_attention_heads)
        head = getattr(self.config, "head_dim", None) or self.config.hidden_size // heads
        return int(head) * int(getattr(self.config, "num_key_value_heads", None) or heads)


def build_on_meta_device(config: Any) -> Model:
    """Build the model of a configuration in bfloat16. Its parameters have a shape and no values."""
    with torch.device("meta"):
        kind: Any = AutoModelForSequenceClassification if config.problem_type == CLASSIFIES else AutoModelForCausalLM
        return kind.from_config(config, dtype=torch.bfloat16).eval()


def measure_shape(config: Any) -> ModelShape:
    """Return the shape of a transformers configuration."""
    model = build_on_meta_device(config)
    output = model.get_output_embeddings()
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not output]
    return ModelShape(
        parameters=sum(p.numel() for p in model.parameters()),
        linear=sum(layer.weight.numel() for layer in layers),
        adapted=sum(layer.in_features + layer.out_features for layer in layers),
        largest_layer=max(layer.weight.numel() for layer in layers),
        largest_tensor=max(p.numel() for p in model.parameters()),
        config=config,
    )


def choose_answer_mode(parameters: int) -> Literal["model", "quote"]:
    """Return how `grounding.answer: auto` answers with a base model of this many parameters."""
    return "model" if parameters >= MIN_WRITER_PARAMETERS else "quote"


def read_stored_config(weights: Path) -> Any:
    """Read the configuration of a model folder or of a GGUF file, without its weights."""
    if weights.is_file():
        logging.getLogger("transformers.modeling_gguf_pytorch_utils").setLevel(logging.ERROR)
        return AutoConfig.from_pretrained(str(weights.parent), gguf_file=weights.name)
    return AutoConfig.from_pretrained(str(weights))


def read_known_config(model: str) -> Any | None:
    """Return the part of a model's configuration that decides its shape; None if `shape.yaml` lacks the model."""
    rows: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("shape.yaml").read_text(encoding="utf-8"))
    if model not in rows:
        return None
    settings = dict(rows[model])
    return AutoConfig.for_model(settings.pop("model_type"), pad_token_id=None, **settings)

"""Encoders that classify: BERT and its kin, whose head gives each label of a text a score.

An example's `Tokens` are those of its text, and as the last one the number of its label in the model's configuration.
So an example of an encoder has one answer token, and the code that trains and measures causal models serves both.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from llmops.data.features.tokenize import Tokens

FEW = 50  #: texts a label, on average, below which an encoder is prepared and trained in another way; see `head`
SMOOTHING = 0.1  #: share of a label's probability that goes to the others in training (Müller et al., arXiv:1906.02629)
CLASSIFIES = "single_label_classification"  #: `problem_type` in the configuration of a model that classifies


def is_classifier(model: Any) -> bool:
    """Return True if a loaded model gives scores of labels instead of tokens."""
    return getattr(_unwrap(model).config, "problem_type", None) == CLASSIFIES


def _unwrap(model: Any) -> Any:
    return model.module if isinstance(model, DistributedDataParallel) else model


def choose_smoothing(model: Any, examples: int) -> float:
    """Return how much a training smooths labels: not with few texts a label, and not a causal model's.

    MiniLM on banking77, two seeds: .935 and .943 with smoothing, .934 and .935 without. With 9 texts a label, means of
    three draws: .822 with, .840 without; with 30, two draws: .902 with, .906 without.
    """
    return SMOOTHING if is_classifier(model) and examples >= FEW * _unwrap(model).config.num_labels else 0.0


def pad(examples: Sequence[Tokens]) -> dict[str, torch.Tensor]:
    """Lay examples under each other.

    Returns:
        The arguments of a model: `input_ids` and `attention_mask`, both (examples, longest); and `labels` (examples,).
    """
    texts = [torch.tensor(example.token_ids[: example.prompt_tokens]) for example in examples]
    pad_sequence = torch.nn.utils.rnn.pad_sequence
    return {
        # The mask hides the padding, so any id will do.
        "input_ids": pad_sequence(texts, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(text) for text in texts], batch_first=True),
        "labels": torch.tensor([example.token_ids[-1] for example in examples]),
    }


def convert_to_openvino(folder: Path) -> Any:
    """Return the OpenVINO graph of a model folder: from `input_ids` and `attention_mask` (texts, tokens) to scores."""
    import openvino
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(str(folder), dtype=torch.float32).eval()
    example = torch.ones((2, 8), dtype=torch.int64)
    with torch.no_grad():
        graph = openvino.convert_model(model, example_input={"input_ids": example, "attention_mask": example})
    for given, name in zip(graph.inputs, ("input_ids", "attention_mask"), strict=True):
        given.get_node().set_partial_shape(openvino.PartialShape([-1, -1]))
        given.set_names({name})
    graph.validate_nodes_and_infer_types()
    return graph

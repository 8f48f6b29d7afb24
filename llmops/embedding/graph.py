"""The model as OpenVINO computes it, written down from its weights: no torch, and nothing to convert.

It is BERT (Devlin et al., NAACL 2019) with 6 layers. A text's vector is the mean of the last layer over its tokens,
made one long: Sentence-BERT (Reimers and Gurevych, EMNLP 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset15 as op

from llmops.embedding.weights import Weights

LAYERS, HEADS, EPSILON = 6, 12, 1e-12

Model = Callable[[Sequence[Sequence[int]]], NDArray[np.float32]]


def open_model(weights: Weights, threads: int) -> Model:
    """What makes vectors of the token ids of texts, of shape (texts, dimensions).

    Args:
        weights: see `weights.read_weights`.
        threads: that compute.
    """
    # In 32 bits, a vector does not depend on what else is computed with it, to 1e-6. Pinned, this and the language
    # model would compute on the same cores while others are idle.
    properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
    compiled = openvino.Core().compile_model(_graph(weights), "CPU", properties)

    def embed(texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        lengths = [len(ids) for ids in texts]
        ids = np.zeros((len(texts), max(lengths)), np.int64)
        there = np.zeros(ids.shape, np.float32)
        for row, length in enumerate(lengths):
            ids[row, :length], there[row, :length] = texts[row], 1.0
        vectors: NDArray[np.float32] = compiled([ids, there])[0]
        return vectors

    return embed


def _graph(weights: Weights) -> Any:
    """Token ids and which of them are there, both of shape (texts, tokens), to vectors."""

    def weight(name: str) -> Any:
        return op.convert(op.constant(weights[name]), "f32")

    def normed(values: Any, name: str) -> Any:
        centred = op.mvn(values, _whole(-1), True, EPSILON, "inside_sqrt")
        return op.add(op.multiply(centred, weight(f"{name}.weight")), weight(f"{name}.bias"))

    def linear(values: Any, name: str) -> Any:
        return op.add(op.matmul(values, weight(f"{name}.weight"), False, True), weight(f"{name}.bias"))

    def heads(values: Any) -> Any:
        return op.transpose(op.reshape(values, _whole(0, 0, HEADS, -1), True), _whole(0, 2, 1, 3))

    ids, there = op.parameter([-1, -1], np.int64), op.parameter([-1, -1], np.float32)
    length = op.squeeze(op.gather(op.shape_of(ids), _whole(1), op.constant(0)), _whole(0))
    places = op.range(op.constant(0), length, op.constant(1), "i64")
    rows = [op.gather(weight(f"embeddings.{kind}_embeddings.weight"), at, op.constant(0))
            for kind, at in (("word", ids), ("position", places), ("token_type", op.constant(0)))]  # fmt: skip
    x = normed(op.add(op.add(rows[0], rows[1]), rows[2]), "embeddings.LayerNorm")
    absent = op.multiply(op.subtract(there, op.constant(np.float32(1))), op.constant(np.float32(1e9)))
    mask = op.unsqueeze(absent, _whole(1, 2))
    for n in range(LAYERS):
        layer = f"encoder.layer.{n}"
        asked = [heads(linear(x, f"{layer}.attention.self.{what}")) for what in ("query", "key", "value")]
        seen = op.transpose(op.scaled_dot_product_attention(*asked, mask), _whole(0, 2, 1, 3))
        seen = linear(op.reshape(seen, _whole(0, 0, -1), True), f"{layer}.attention.output.dense")
        x = normed(op.add(seen, x), f"{layer}.attention.output.LayerNorm")
        inner = op.gelu(linear(x, f"{layer}.intermediate.dense"), "erf")
        x = normed(op.add(linear(inner, f"{layer}.output.dense"), x), f"{layer}.output.LayerNorm")
    share = op.unsqueeze(there, _whole(2))
    mean = op.divide(op.reduce_sum(op.multiply(x, share), _whole(1)), op.reduce_sum(share, _whole(1)))
    return openvino.Model([op.normalize_l2(mean, _whole(1), EPSILON, "max")], [ids, there])


def _whole(*numbers: int) -> Any:
    return op.constant(np.array(numbers, np.int64))

"""How weights are rounded in a GGUF file, row by row, in blocks of 32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quantize
from numpy.typing import NDArray

Form = Literal["f16", "q8_0", "q4_1"]  #: in which the matrices are stored
Floats = NDArray[np.float32]

BLOCK = 32  #: weights of a row that share a scale
KINDS: Mapping[Form, Kind] = {"f16": Kind.F16, "q8_0": Kind.Q8_0, "q4_1": Kind.Q4_1}
FINER: Mapping[Form, Form] = {"f16": "f16", "q8_0": "q8_0", "q4_1": "q8_0"}  #: of the embedding and the output layer

_TOP = 15  #: largest integer of 4 bits


def rounded(weight: Floats, kind: Kind) -> NDArray[Any]:
    """The rows of a matrix as bytes of the file, or as 16-bit floats.

    Args:
        weight: of shape (out, in); `in` is a multiple of `BLOCK`.
        kind: one of `KINDS`.
    """
    if kind == Kind.F16:
        with np.errstate(over="ignore"):
            return weight.astype(np.float16)
    return _q4_1(weight) if kind == Kind.Q4_1 else np.asarray(quantize(weight, kind))


def _q4_1(weight: Floats) -> NDArray[np.uint8]:
    """w ≈ d·q + m, q an integer in 0 … 15, d and m in 16 bits, with m a whole multiple of d.

    OpenVINO keeps m as an integer of 4 bits, and rounds what is no multiple; llama.cpp takes it as it is. So rounded,
    both compute the same, but for the last bit of m. A block always has 0 among its levels.
    """
    blocks = weight.reshape(-1, BLOCK)
    low = np.minimum(blocks.min(1, keepdims=True), 0)
    high = np.maximum(blocks.max(1, keepdims=True), 0)
    step = ((high - low) / _TOP).astype(np.float16)
    width = np.where(step == 0, 1, step).astype(np.float32)
    zero = np.clip(np.rint(-low / width), 0, _TOP)
    whole = np.clip(np.rint(blocks / width) + zero, 0, _TOP).astype(np.uint8)
    least = (-zero * step.astype(np.float32)).astype(np.float16)
    packed = whole[:, : BLOCK // 2] | whole[:, BLOCK // 2 :] << 4
    parts = [step.view(np.uint8), least.view(np.uint8), packed]
    return np.concatenate(parts, axis=1).reshape(weight.shape[0], -1)

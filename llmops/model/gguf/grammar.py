"""JSON schemas that answers follow: tried and compiled before a request with one joins the batch.

OpenVINO compiles a schema in the step that gives its request the first token. One that it cannot compile makes that
step fail, after which the pipeline is of no use to anybody. So each new schema is first asked of a second pipeline,
whose model is a constant. Both have one tokenizer, which keeps what is compiled: the step finds it there.
"""

from __future__ import annotations

import re
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openvino_genai import ContinuousBatchingPipeline, LLMPipeline, StructuredOutputConfig, Tokenizer

#: Characters of schemas after which a pipeline is opened anew as soon as it is idle: nothing else lets go of what is
#: compiled, 0.15 kB a character as a rule and 5 kB at worst. A schema that makes it twice as many has to wait.
ROOM = 50_000

_SOURCE = re.compile(r"^.*\.cc:\d+: |^Check failed: \(.*?\) is false: ", re.DOTALL)


class SchemaRefused(Exception):
    """OpenVINO cannot hold an answer to this schema."""


class SchemasFull(Exception):
    """There is no room for another schema until nothing is computed for a moment."""


class Grammars:
    """The schemas that a pipeline knows."""

    def __init__(self, opened: ContinuousBatchingPipeline) -> None:
        self._tokenizer = opened.get_tokenizer()
        self._known: set[bytes] = set()
        self._chars = 0
        self._trial: LLMPipeline | None = None

    @property
    def full(self) -> bool:
        """Whether the pipeline is to be opened anew."""
        return self._chars > ROOM

    def has(self, schema: str) -> bool:
        """Whether it is compiled."""
        return sha256(schema.encode()).digest() in self._known

    def known(self, schema: str) -> StructuredOutputConfig:
        """What a request with this schema is given.

        Raises:
            SchemaRefused: with what OpenVINO says of it.
            SchemasFull: if there is no room for it now.
        """
        from openvino_genai import StructuredOutputConfig

        config, digest = StructuredOutputConfig(json_schema=schema), sha256(schema.encode()).digest()
        if digest not in self._known:
            if self._chars + len(schema) > 2 * ROOM:
                raise SchemasFull("many different schemas were asked for")
            self._try(config)
            self._known.add(digest)
            self._chars += len(schema)
        return config

    def _try(self, config: StructuredOutputConfig) -> None:
        from openvino_genai import GenerationConfig

        from llmops.model.gguf.pipeline import tensor

        self._trial = self._trial or _constant(self._tokenizer)
        try:
            self._trial.generate(tensor([0]), GenerationConfig(max_new_tokens=1, structured_output_config=config))
        except RuntimeError as error:
            raise SchemaRefused(_SOURCE.sub("", _SOURCE.sub("", str(error).strip()))) from error


def _constant(tokenizer: Tokenizer) -> LLMPipeline:
    """A pipeline that finds all tokens of a tokenizer alike, whatever it is asked."""
    import numpy as np
    import openvino
    from openvino import opset13
    from openvino_genai import LLMPipeline

    kinds: dict[str, tuple[list[int], Any]] = {
        "input_ids": ([-1, -1], np.int64),
        "attention_mask": ([-1, -1], np.int64),
        "position_ids": ([-1, -1], np.int64),
        "beam_idx": ([-1], np.int32),
    }
    inputs = []
    for name, (shape, kind) in kinds.items():
        inputs.append(opset13.parameter(shape, kind, name=name))
        inputs[-1].output(0).tensor.set_names({name})
    width = np.array([max(tokenizer.get_vocab().values()) + 1], dtype=np.int64)
    shape = opset13.concat([opset13.shape_of(inputs[0], output_type="i64"), opset13.constant(width)], 0)
    logits = opset13.broadcast(opset13.constant(np.float32(0)), shape)
    logits.output(0).tensor.set_names({"logits"})
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(openvino.Model([logits], inputs, "constant"), Path(folder) / "openvino_model.xml")
        (Path(folder) / "config.json").write_text("{}", encoding="utf-8")
        return LLMPipeline(folder, tokenizer, "CPU", ATTENTION_BACKEND="SDPA", INFERENCE_NUM_THREADS=1)

"""JSON schemas and structural tags of answers: each new one is compiled before a request with it joins the batch.

A structural tag is XGrammar's form of an answer that is text with JSON in some places, such as calls of functions.

OpenVINO compiles a schema in the step that computes its request's first token. If that fails, the pipeline answers
nobody any more. So a second pipeline, whose model is a constant, compiles it first. Both pipelines have one tokenizer,
which keeps compiled schemas: the step finds it there.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openvino_genai import LLMPipeline, StructuredOutputConfig, Tokenizer

#: Most characters of compiled schemas. Each takes 0.15 kB of memory as a rule, and 5 kB at worst.
MAX_SCHEMA_CHARACTERS = 100_000

_SOURCE = re.compile(r"\A.*\.(?:cc|cpp|hpp):\d+:\s*", re.DOTALL)  #: place in OpenVINO's source, before its message


def is_structural_tag(schema: str) -> bool:
    """Return True if the form of an answer is a structural tag, not a JSON schema."""
    return schema.startswith('{"type":"structural_tag",')


class GrammarError(Exception):
    """OpenVINO cannot compile this schema."""


class Grammars:
    """The schemas that a tokenizer has compiled."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._compiled = tokenizer, set[str]()
        self._compiler: LLMPipeline | None = None

    def has_room(self, schema: str) -> bool:
        """Return True if a schema is compiled or may be. If not, only another tokenizer has room."""
        return schema in self._compiled or sum(map(len, self._compiled)) + len(schema) <= MAX_SCHEMA_CHARACTERS

    def compile(self, schema: str) -> StructuredOutputConfig:
        """Return the setting of a request whose answer follows a schema.

        Raises:
            GrammarError: with OpenVINO's reason.
        """
        import numpy as np
        import openvino
        from openvino_genai import GenerationConfig, StructuredOutputConfig

        kind = "structural_tags_config" if is_structural_tag(schema) else "json_schema"
        config = StructuredOutputConfig(**{kind: schema})
        if schema not in self._compiled:
            self._compiler = self._compiler or _open_constant(self._tokenizer)
            try:
                self._compiler.generate(
                    openvino.Tensor(np.zeros((1, 1), dtype=np.int64)),
                    GenerationConfig(max_new_tokens=1, structured_output_config=config),
                )
            except RuntimeError as error:
                raise GrammarError(_SOURCE.sub("", str(error)).strip()) from error
            self._compiled.add(schema)
        return config


def _open_constant(tokenizer: Tokenizer) -> LLMPipeline:
    """Return a pipeline to which all tokens are equally likely."""
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
    inputs = [opset13.parameter(shape, kind, name=name) for name, (shape, kind) in kinds.items()]
    for node, name in zip(inputs, kinds, strict=True):
        node.output(0).tensor.set_names({name})
    width = np.array([max(tokenizer.get_vocab().values()) + 1], dtype=np.int64)
    shape = opset13.concat([opset13.shape_of(inputs[0], output_type="i64"), opset13.constant(width)], 0)
    logits = opset13.broadcast(opset13.constant(np.float32(0)), shape)
    logits.output(0).tensor.set_names({"logits"})
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(openvino.Model([logits], inputs, "constant"), Path(folder) / "openvino_model.xml")
        (Path(folder) / "config.json").write_text("{}", encoding="utf-8")
        return LLMPipeline(folder, tokenizer, "CPU", ATTENTION_BACKEND="SDPA", INFERENCE_NUM_THREADS=1)

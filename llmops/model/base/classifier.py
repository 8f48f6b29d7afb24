"""Inference with a classifier: an encoder that gives a text one of its labels, run by OpenVINO.

A servable has the graph in `openvino_model.xml`. With `calibration.json` the probabilities are calibrated, and a label
that is not sure enough is not given.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmops.prompts.encoder import read_format

if TYPE_CHECKING:
    from llmops.data.features.tokenize import Tokens
    from llmops.frame.records import Example

GRAPH_FILE = "openvino_model.xml"
CALIBRATION_FILE = "calibration.json"
UNKNOWN = -1  #: in place of the number of a label that the model does not know
MIN_PROBABILITY = 1e-9  #: that a likelihood is counted with
NEVER = 1.0  #: threshold with which no label is given, not even one of probability 1
BATCH = 32  #: texts that are computed together

Scores = NDArray[np.float32]  #: (texts, labels)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The calibration of a classifier, measured on validation examples."""

    temperature: float = 1.0  #: the scores are divided by it (Guo et al. 2017, arXiv:1706.04599)
    threshold: float = 0.0  #: least probability with which a label is given; `NEVER`: none is

    def compute_probabilities(self, scores: Scores) -> Scores:
        """Return the probabilities of all labels, (texts, labels)."""
        scaled = scores / self.temperature
        exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), np.float32)

    def is_sure(self, probability: float) -> bool:
        """Return True if the likeliest label of a text is given, which has this probability."""
        return self.threshold < NEVER and bool(probability >= self.threshold)


def format_threshold(threshold: float) -> str:
    """Return a threshold in six digits. It is rounded down, so that the text which it comes from reaches it."""
    return "1" if threshold >= NEVER else f"{math.floor(threshold * 1e6) / 1e6:g}"


class Classifier:
    """The model of one folder. It has the methods of `inference.TorchModel`; its answer to a text is one label.

    Args:
        folder: a servable; with `graph`, any folder that `AutoModelForSequenceClassification` loads.
        max_tokens: most tokens of a text; fewer if the model takes fewer.
        threads: threads that compute; 0: one per core.
        graph: what `encoder.convert_to_openvino` makes of the folder.
        threshold: in place of that of the calibration; see `serving.classify_threshold`.
    """

    def __init__(
        self,
        folder: Path,
        max_tokens: int = 0,
        threads: int = 0,
        graph: Any = None,
        threshold: float | None = None,
    ) -> None:
        self.format = read_format(folder, max_tokens)
        self.window, self.process_id = self.format.max_tokens, os.getpid()
        file = folder / CALIBRATION_FILE
        self.calibration = (
            Calibration(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else Calibration()
        )
        if threshold is not None:
            self.calibration = replace(self.calibration, threshold=threshold)
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # OpenVINO does without it
        import openvino

        core = openvino.Core()
        properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
        self._compiled = core.compile_model(
            graph or core.read_model(folder / GRAPH_FILE),
            "CPU",
            {k: v for k, v in properties.items() if k != "INFERENCE_NUM_THREADS" or v},
        )

    def compute_scores(self, texts: Sequence[Sequence[int]]) -> Scores:
        """Return the score of each label for texts as token ids."""
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))  # so that batches pad little
        scores = np.empty((len(texts), len(self.format.labels)), np.float32)
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            ids = np.zeros((len(chosen), max(len(texts[n]) for n in chosen)), np.int64)
            mask = np.zeros_like(ids)
            for row, n in enumerate(chosen):
                ids[row, : len(texts[n])], mask[row, : len(texts[n])] = texts[n], 1
            scores[chosen] = self._compiled({"input_ids": ids, "attention_mask": mask})[0]
        return scores

    def generate(
        self, requests: Sequence[Sequence[int]], max_new_tokens: int = 1, batch: int = BATCH
    ) -> list[list[int]]:
        """Return the number of the likeliest label of each text as token ids, `batch` at a time."""
        chunks = (requests[start : start + batch] for start in range(0, len(requests), batch))
        return [[int(number)] for chunk in chunks for number in self.compute_scores(chunk).argmax(axis=1)]

    def tokenize(self, items: Sequence[Example]) -> list[Tokens]:
        """Return the tokens of each item. The last one is -1 if the model does not know its label."""
        from llmops.data.features.tokenize import Tokens, tokenize_labelled  # serving has not what they import

        found = tokenize_labelled(self.format, items)
        encoded = self.format.encode([(item.question, item.context) for item in items])
        return [
            tokens or Tokens(item.id, [*ids, UNKNOWN], len(ids))
            for item, (tokens, _), (ids, _) in zip(items, found, encoded, strict=True)
        ]

    def compute_nats(self, examples: Sequence[Tokens]) -> list[tuple[float, int]]:
        """Return the negative log-likelihood of each example's label in nats, and 1, the number of its labels."""
        scores = self.compute_scores([example.token_ids[:-1] for example in examples])
        nats = -np.log(np.maximum(self.calibration.compute_probabilities(scores), MIN_PROBABILITY))
        numbers = [example.token_ids[-1] for example in examples]
        highest = -float(np.log(MIN_PROBABILITY))
        return [(highest if n == UNKNOWN else float(nats[row, n]), 1) for row, n in enumerate(numbers)]

    def find_confidence(self, texts: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Return the highest probability of each text's labels, and True if it is enough to give the label."""
        highest = self.classify(texts)[0].max(axis=1)
        return [(float(value), self.calibration.is_sure(value)) for value in highest]

    def give_labels(self, texts: Sequence[tuple[str, str]]) -> list[str]:
        """Return the likeliest label of each (question, context); empty if it is not sure enough."""
        probabilities, _ = self.classify(texts)
        return [
            self.format.labels[row.argmax()] if self.calibration.is_sure(row.max()) else "" for row in probabilities
        ]

    def close(self) -> None:
        """Free the memory."""
        self._compiled = None

    def classify(self, texts: Sequence[tuple[str, str]]) -> tuple[Scores, list[bool]]:
        """Return the probabilities of all labels for each (question, context), and True for each that was cut."""
        encoded = self.format.encode(texts)
        return self.calibration.compute_probabilities(self.compute_scores([ids for ids, _ in encoded])), [
            c for _, c in encoded
        ]


def write_calibration(calibration: Calibration, folder: Path) -> None:
    """Write the calibration of a servable."""
    (folder / CALIBRATION_FILE).write_text(json.dumps(asdict(calibration), indent=1) + "\n", encoding="utf-8")

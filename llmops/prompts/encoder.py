"""How an encoder that classifies, such as BERT, reads a text: its tokens, its limit and its labels.

The library `tokenizers` reads texts in training and in serving, so that a serving image needs no transformers.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

TOKENIZER_FILE = "tokenizer_config.json"
#: parts of the names of architectures that count positions from behind the number of the padding token
COUNT_FROM_PADDING = ("roberta", "camembert", "mpnet", "longformer", "ibert", "data2vec")


def is_encoder(folder: str | Path) -> bool:
    """Return True if the model of a folder reads a text in both directions and can have a head that classifies."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    )

    file = Path(folder) / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    known = MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys() & MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.keys()
    return config.get("model_type") in known and not config.get("is_decoder")


@dataclass(frozen=True, slots=True)
class EncoderFormat:
    """The tokenizer of a classifier, its labels in the order of their numbers, and the most tokens that it reads."""

    tokenizer: Tokenizer
    labels: tuple[str, ...]
    max_tokens: int

    def encode(self, texts: Sequence[tuple[str, str]]) -> list[tuple[list[int], bool]]:
        """Return the token ids of each (question, context), and True if the text was cut at `max_tokens`."""
        joined = [f"{question}\n{context}" if context else question for question, context in texts]
        return [(found.ids, bool(found.overflowing)) for found in self.tokenizer.encode_batch(joined)]


def read_format(folder: str | Path, max_tokens: int = 0) -> EncoderFormat:
    """Return the format of a classifier's folder. It reads at most `max_tokens`, or fewer if the model takes fewer.

    The model takes as many as it has positions, or fewer if its tokenizer has a lower `model_max_length`.
    """
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    file = Path(folder) / TOKENIZER_FILE
    settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    counts_from_padding = any(kin in config["model_type"] for kin in COUNT_FROM_PADDING)
    first = int(config.get("pad_token_id") or 0) + 1 if counts_from_padding else 0
    positions = int(config["max_position_embeddings"]) - first
    most = min(positions, int(settings.get("model_max_length") or positions))
    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(min(max_tokens or most, most))
    tokenizer.encode_special_tokens = True  # marks such as `[SEP]` in a text are text
    names = config["id2label"]
    return EncoderFormat(tokenizer, tuple(names[str(n)] for n in range(len(names))), min(max_tokens or most, most))

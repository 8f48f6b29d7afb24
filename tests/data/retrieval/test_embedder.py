"""Vectors are those of the published model, whatever is computed beside them."""

from contextlib import closing

import numpy as np
import pytest

from llmops.data.retrieval import minilm
from llmops.data.retrieval.embedder import BATCH_SIZE, Embedder
from llmops.frame.errors import ArtifactError

TEXTS = [
    "How do I return an item?",
    "ÜNÏCÖDÉ, 日本語, שלום and 🙂 in one text\x00",
    "x",
    "word " * (minilm.MAX_TOKENS - 2),
]


def test_vectors_are_those_of_the_published_model() -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = minilm.find_files()
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    read = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        last = model(**read).last_hidden_state
    mask = read["attention_mask"][..., None].float()
    expected = torch.nn.functional.normalize((last * mask).sum(1) / mask.sum(1), dim=1).numpy()
    with closing(Embedder(2)) as embedder:
        alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
        assert (alone * expected).sum(1).min() > 0.99999
        others = [f"another text with the number {number}" for number in range(BATCH_SIZE)]
        assert np.abs(embedder.embed([*TEXTS, *others])[: len(TEXTS)] - alone).max() < 1e-5
        assert np.abs(embedder.embed(["word " * 4_000]) - alone[-1]).max() < 1e-5  # the window's beginning counts
        assert embedder.embed([]).shape == (0, minilm.DIMENSIONS)
        marked = embedder._tokenizer.encode("a [SEP] b").ids
        assert marked.count(marked[-1]) == 1  # the mark in the text is text


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package_here")
    with pytest.raises(ArtifactError, match="no-such-package-here is missing"):
        Embedder().embed(["Hello"])

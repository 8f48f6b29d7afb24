"""Examples as mapped rows: the same as were written, without memory, copies with names or caches."""

import random
import tempfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.data.features import examples
from llmops.data.features.columns import MAPPED_SCHEMA
from llmops.data.features.examples import MappedRows, count_tokens, get_mapped_path, read_examples, read_offline
from llmops.data.features.tokenize import Tokens
from llmops.frame.errors import ArtifactError
from llmops.frame.records import Example, read_rows, write_rows


def test_tokens_are_mapped_and_not_held(tmp_path: Path) -> None:
    """20 MiB of tokens, all read in random order, as training does: Arrow counts no memory of its own for them."""
    path, many, length = tmp_path / "train.arrow", 10_000, 512
    with pa.ipc.new_stream(path, MAPPED_SCHEMA) as writer:
        ids = np.arange(many * length, dtype=np.int32)
        tokens = pa.ListArray.from_arrays(np.arange(0, len(ids) + 1, length, dtype=np.int32), ids)
        names = [str(n) for n in range(many)]
        writer.write_batch(pa.record_batch([names, [0] * many, tokens, [9] * many], schema=MAPPED_SCHEMA))
    del ids, tokens
    before = pa.total_allocated_bytes()
    rows = MappedRows(
        Dataset.from_file(str(path)).remove_columns("event_timestamp").rename_column("input_id", "id"), Tokens
    )
    assert count_tokens(rows) == [length] * many
    for n in random.Random(0).sample(range(many), many // 8):
        assert rows[n].token_ids[0] == n * length
    for start in range(0, many, 1000):
        assert rows[start : start + 8][-1].id == str(start + 7)
    assert pa.total_allocated_bytes() - before < 2 << 20


def test_the_mapped_rows_are_those_of_feasts_file_in_its_order(tmp_path: Path, make: Any) -> None:
    _, out = make.artifact(tmp_path)
    known = pq.read_table(out / "features.parquet").to_pylist()
    found = read_offline(out, "train")
    assert [(t.id, t.token_ids) for t in found] == [(row["input_id"], row["token_ids"]) for row in known]
    assert found[-1] == list(found)[-1] and found[2:4] == [found[2], found[3]]
    assert count_tokens(found) == count_tokens(list(found)) == [len(t.token_ids) for t in found]


def test_feast_is_asked_for_every_row_part_by_part(tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, out = make.artifact(tmp_path)
    monkeypatch.setattr(examples, "REQUEST_ROWS", 3)
    assert [t.id for t in read_offline(out, "train")] == [f"id{n}" for n in range(8)]
    table = pq.read_table(out / "features.parquet")
    pq.write_table(table.filter(pa.array([n != 6 for n in range(8)])), out / "features.parquet")
    with pytest.raises(ArtifactError, match="Feast does not know id6"):
        read_offline(out, "train")


def test_reading_writes_nothing_anywhere(tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading makes no copy that could keep an erased example, and a killed reader leaves no file."""
    _, out = make.artifact(tmp_path)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    tokens, rows = read_offline(out, "train"), read_examples(tmp_path / "annotate" / "train.parquet")
    assert [t.id for t in tokens] == [e.id for e in rows] and get_mapped_path(out, "train").is_file()
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(st.text(), st.text(), st.text()), max_size=9))
def test_examples_are_the_records_that_were_written(texts: list[tuple[str, str, str]]) -> None:
    """Surrogates cannot be written at all; everything else comes back, in order, by number and by slice."""
    texts = [tuple(t.encode("utf-8", "ignore").decode() for t in row) for row in texts]  # type: ignore[misc]
    fixed = {"group": "g", "split": "test", "source": "s", "location": "l", "position": "p"}
    names = ("question", "answer", "context")
    written = [Example(id=f"{n}", **dict(zip(names, row, strict=True)), **fixed) for n, row in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test.parquet"
        write_rows(path, written, Example)
        found = read_examples(path)
        assert list(found) == found[:] == read_rows(path, Example) == written and len(found) == len(written)
        assert [found[n] for n in range(len(written))] == written

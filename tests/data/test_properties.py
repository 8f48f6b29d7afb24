"""The data stages, whatever the data: the same documents give the same bytes, in whatever order they come."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmops.config import Annotate, Template
from llmops.data.annotate import stage as annotate
from llmops.errors import LlmopsError
from llmops.records import Document, content_id, write_rows

FILES = ("train.parquet", "validation.parquet", "test.parquet", "dropped.parquet", "findings.parquet", "train.txt")
TEMPLATES = {"goods": (Template(question="Price of {name}?", answer="{price} euros.", group="{name}"),)}

# Words that make duplicates, conflicts, personal data, bad pairs and near duplicates likely.
TEXTS = st.lists(
    st.sampled_from(
        ["Returns", "refund?", "a@b.com", "card 4111111111111111", "the", ":", "[Answer]", "one two three"]
    ),
    max_size=6,
).map(" ".join)


@st.composite
def documents(draw: st.DrawFn) -> list[Document]:
    rows = []
    for number in range(draw(st.integers(0, 14))):
        source = draw(st.sampled_from(["faq", "chat", "re", "goods"]))
        parts = {"question": draw(TEXTS), "answer": draw(TEXTS), "context": draw(st.sampled_from(["", "A page."]))}
        if source == "re":
            parts = {"question": draw(TEXTS), "same_as": draw(TEXTS)}
        if source == "goods":
            parts = {"fields": json.dumps({"name": draw(TEXTS), "price": draw(st.sampled_from(["", "5"]))})}
        group = draw(st.sampled_from(["", "t", "u", "a@b.com"]))
        rows.append(row(source, number, group=group, **parts))
    return rows


def row(source: str, number: int, **parts: str) -> Document:
    key = content_id(source, str(number))
    return Document(id=key, source=source, location=f"{source}.csv", position=f"row {number}", **parts)


BASE = [row("faq", 100 + i, question=f"Question {i}?", answer=f"Answer {i}.") for i in range(40)] + [
    row("goods", 100, fields=json.dumps({"name": "Tent", "price": "9"}))
]


def outputs(folder: Path, parts: list[list[Document]], config: Annotate) -> dict[str, str]:
    for number, part in enumerate(parts):
        write_rows(folder / "clean" / "documents" / f"part-{number:05d}.parquet", part, Document)
    (folder / "out").mkdir()
    try:
        metrics = annotate.run(config, clean=folder / "clean", out=folder / "out")
    except LlmopsError as error:
        return {"error": str(error).replace(str(folder), "")}
    hashes = {name: hashlib.sha256((folder / "out" / name).read_bytes()).hexdigest() for name in FILES}
    assert sorted(path.name for path in (folder / "out").iterdir()) == sorted(FILES)
    return {**hashes, "metrics": json.dumps(metrics)}


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(documents(), st.randoms(), st.sampled_from(["group", "wording"]), st.sampled_from([(), ("re", "chat")]))
def test_annotate_gives_the_same_bytes_whatever_the_order_of_documents_and_files(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Document], random: Random, by: str, sources: tuple[str, ...]
) -> None:
    config = Annotate(
        split_by=by, test_sources=sources, min_test_items=1, test=0.3, templates=TEMPLATES, redact=("EMAIL_ADDRESS",)
    )
    rows = rows + BASE
    once = outputs(tmp_path_factory.mktemp("once"), [rows], config)
    assert outputs(tmp_path_factory.mktemp("again"), [rows], config) == once
    shuffled = list(rows)
    random.shuffle(shuffled)
    cut = random.randint(0, len(rows))
    assert outputs(tmp_path_factory.mktemp("other"), [shuffled[:cut], shuffled[cut:]], config) == once

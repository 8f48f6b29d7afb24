"""Every kind of file against an empty file, half a file and a picture: quarantined with a reason, or read."""

from pathlib import Path

import pytest

from llmops.config import Collect, Source
from llmops.data.collect import stage as collect
from llmops.data.collect.readers.kinds import READERS
from llmops.frame.records import Document, DroppedRow, read_rows
from tests.data.test_bad_input import GOOD, OPTIONS, cut

PICTURE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
SOUND_IN_PART = {"html", "text", "csv"}  #: half a page is a page, and a header alone is a table without rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], dict[str, str]]:
    """Collect all files in one run. Return the files that gave documents, and the rule of each quarantined one."""
    root = tmp_path_factory.mktemp("kinds")
    for kind, (suffix, good) in GOOD.items():
        (root / kind).mkdir()
        for name, data in {"good": good, "empty": b"", "half": cut(good), "picture": PICTURE}.items():
            (root / kind / f"{name}.{suffix}").write_bytes(data)
    sources = tuple(
        Source(name=kind, kind=kind, location=f"{kind}/*", **OPTIONS.get(kind, {}))  # type: ignore[arg-type]
        for kind in GOOD
    )
    out = root / "out"
    out.mkdir()
    collect.run(Collect(root=root, sources=sources, cache=root / "cache"), interval="2026-01-31", out=out)
    dropped = read_rows(out / "quarantine.parquet", DroppedRow)
    documents = {f"{row.source}: {Path(row.location).stem}" for row in read_rows(out / "documents.parquet", Document)}
    return documents, {f"{row.source}: {Path(row.location).stem}": row.rule for row in dropped if row.detail}


def test_every_kind_of_file_is_among_them() -> None:
    assert GOOD.keys() == READERS.keys() - {"dataset"}  # a folder of Arrow files


@pytest.mark.parametrize("kind", GOOD)
def test_a_bad_file_costs_itself_alone(kind: str, rows: tuple[set[str], dict[str, str]]) -> None:
    documents, rules = rows
    assert f"{kind}: good" in documents
    assert f"{kind}: good" not in rules
    assert rules[f"{kind}: empty"] == "empty"
    assert rules[f"{kind}: picture"] in ("unreadable", "malformed", "encoding")
    assert (f"{kind}: half" in rules) == (kind not in SOUND_IN_PART)

"""Small files whose content does not fit into memory: only they are quarantined, the good file beside them is read.

The stage runs in a process of its own, whose address space is limited.
"""

import gzip
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from reportlab.pdfgen.canvas import Canvas

from tests.data.collect.readers.office import office_files as office

pytestmark = pytest.mark.journey  # some 15 s of processor time for 1.6 GiB

MIB = 1 << 20
ADDRESS_SPACE = (
    1408 * MIB
)  #: bytes; the interpreter and its libraries take some 700 MiB of them before anything is read
BOMB_MIB = 160  #: unzipped size of a bomb

ENVIRONMENT = os.environ | {
    "MALLOC_ARENA_MAX": "2",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "ARROW_IO_THREADS": "1",  # the stack of each thread counts, too
}

RUN = """
import json, resource, sys
from llmops.config import Config
from llmops.pipeline.pipeline import run_stage
from llmops.frame.records import Document, DroppedRow, read_rows
import llmops.data.collect.stage
kinds, space = sys.argv[1].split(), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (space, space))
sources = [{"name": kind, "kind": kind, "location": f"{kind}/*"} for kind in kinds]
config = Config.model_validate({"home": "home", "collect": {"root": ".", "sources": sources}})
out = run_stage("collect", config, "2026-01-31")
documents, dropped = read_rows(out / "documents.parquet", Document), read_rows(out / "quarantine.parquet", DroppedRow)
print(json.dumps({kind: {
    "good": [row.location for row in documents if row.source == kind and "good" in row.location],
    "bad": [f"{row.rule}: {row.detail}"[:300] for row in dropped if row.source == kind and "bad" in row.location],
} for kind in kinds}))
"""


def make_gzip_writer(*parts: tuple[bytes, int]) -> Callable[[Path], None]:
    """Return a function that writes a gzip file of parts, each repeated until it has that many MiB."""

    def write(path: Path) -> None:
        with gzip.open(path, "wb", compresslevel=1) as file:
            for unit, size in parts:
                block = unit * (MIB // len(unit) + 1) if size else unit
                for _ in range(max(size, 1)):
                    file.write(block)

    return write


def make_archive_writer(kind: str, unit: bytes, size: int) -> Callable[[Path], None]:
    """Return a function that writes an Office file with an added part: `unit`, repeated until it has `size` MiB."""

    def write(path: Path) -> None:
        path.write_bytes(office.make_archive({"x.xml": unit * (size * MIB // len(unit))}, office.GOOD[kind]))

    return write


def write_pdf(path: Path) -> None:
    packer = zlib.compressobj(1)
    stream = b"".join([*(packer.compress(b"(a) Tj\n" * (MIB // 7)) for _ in range(BOMB_MIB)), packer.flush()])
    path.write_bytes(
        b"%%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R>>endobj\n4 0 obj<</Length %d"
        b"/Filter/FlateDecode>>stream\n%b\nendstream endobj\ntrailer<</Root 1 0 R/Size 5>>\n%%%%EOF"
        % (len(stream), stream)
    )


GOOD: dict[str, bytes] = {
    "csv": b"q,a\n1,2\n",
    "json": b'[{"q": "1"}]',
    "jsonl": b'{"q": "1"}\n',
    "xml": b"<r><p><q>1</q></p></r>",
    "html": b"<h1>Q?</h1>A",
    "markdown": b"# Q?\nA",
    "chat": b"Customer: Q?\nAgent: A.",
    "text": b"text",
    **office.GOOD,
}
BOMBS: dict[str, list[tuple[Callable[[Path], None], str]]] = {
    "csv": [(make_gzip_writer((b"q,a\n", 0), (b"x", BOMB_MIB)), "malformed: line 2: the line is longer")],
    "json": [
        (make_gzip_writer((b'[{"q": "', 0), (b"x", BOMB_MIB)), "unreadable: it holds more than 16,777,216 characters"),
        (make_gzip_writer((b"[", 0), (b"{},", 15)), "malformed: line 1, column "),
    ],
    "jsonl": [(make_gzip_writer((b'{"q": "', 0), (b"x", BOMB_MIB)), "malformed: the line is longer")],
    "xml": [
        (
            make_gzip_writer((b"<r><p>", 0), (b"x", BOMB_MIB)),
            "unreadable: it holds more than 16,777,216 bytes in one record",
        ),
        (make_gzip_writer((b"<a>", 30)), "malformed: nested too deeply"),
    ],
    "html": [
        (make_gzip_writer((b"<h1>Q?</h1>", 0), (b"x", BOMB_MIB)), "unreadable: it holds more than 16,777,216 bytes"),
        (make_gzip_writer((b"<div>", 15)), "unreadable: it holds more than 1,048,576 tags"),
    ],
    "markdown": [
        (make_gzip_writer((b"# Q?\n", 0), (b"x", BOMB_MIB)), "unreadable: it holds more than 16,777,216 characters")
    ],
    "chat": [(make_gzip_writer((b"Customer: Q?\nAgent: ", 0), (b"x", BOMB_MIB)), "malformed: longer than")],
    "text": [(make_gzip_writer((b"x", BOMB_MIB)), "malformed: longer than")],
    "pdf": [(write_pdf, "empty: no text on this page")],
    "docx": [(make_archive_writer("docx", b"x", BOMB_MIB), "unreadable: it holds more than 67,108,864 bytes")],
    "pptx": [(make_archive_writer("pptx", b"x", BOMB_MIB), "unreadable: it holds more than 67,108,864 bytes")],
    "xlsx": [(make_archive_writer("xlsx", b"<a/>", 30), "unreadable: it holds more than 1,048,576 tags")],
    "odt": [(make_archive_writer("odt", b"x", BOMB_MIB), "unreadable: it holds more than 67,108,864 bytes")],
    "odp": [(make_archive_writer("odp", b"x", BOMB_MIB), "unreadable: it holds more than 67,108,864 bytes")],
    "ods": [(make_archive_writer("ods", b"<a/>", 30), "unreadable: it holds more than 1,048,576 tags")],
    "epub": [(make_archive_writer("epub", b"<p></p>", 30), "unreadable: it holds more than 1,048,576 tags")],
    "eml": [
        (make_gzip_writer((b"Subject: x\n\n", 0), (b"x", BOMB_MIB)), "unreadable: it holds more than 67,108,864 bytes"),
        (
            make_gzip_writer((b"Subject: x\n\n", 0), (b"\n", 60)),
            "unreadable: it holds more than 67,108,864 bytes or 1,048,576",
        ),
    ],
}


@pytest.fixture(scope="module")
def collected_rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[str]]]:
    """Run the stage over all files. Return the good rows of each kind, and the problems of its bombs."""
    root = tmp_path_factory.mktemp("bombs")
    for kind, bombs in BOMBS.items():
        (root / kind).mkdir()
        for number, (write, _) in enumerate(bombs):
            write(root / kind / f"bad{number}")
        if kind in GOOD:
            (root / kind / "good").write_bytes(GOOD[kind])
    canvas = Canvas(str(root / "pdf" / "good"))
    canvas.drawString(72, 700, "Text here.")
    canvas.save()
    command = [sys.executable, "-c", RUN, " ".join(BOMBS), str(ADDRESS_SPACE)]
    process = subprocess.run(command, cwd=root, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-2000:]
    rows: dict[str, dict[str, list[str]]] = json.loads(process.stdout.splitlines()[-1])
    return rows


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_costs_itself_alone(kind: str, collected_rows: dict[str, dict[str, list[str]]]) -> None:
    assert collected_rows[kind]["good"] == [f"{kind}/good"]
    for problem, (_, expected) in zip(collected_rows[kind]["bad"], BOMBS[kind], strict=True):
        assert problem.startswith(expected)

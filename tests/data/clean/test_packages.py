"""A worker on another host needs the packages that docs/data.md lists, and no more."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
WORKER = """
import importlib.metadata as metadata, re, sys
listed, folder = sys.argv[1].split(), sys.argv[2]
owners = metadata.packages_distributions()
def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()
allowed, queue = {"llmops"}, [plain(name) for name in listed]
while queue:
    name = queue.pop()
    if name not in allowed:
        allowed.add(name)
        try:
            queue += [plain(re.match(r"[\\w.-]+", r)[0]) for r in metadata.requires(name) or [] if "extra" not in r]
        except metadata.PackageNotFoundError:
            pass  # of another platform
class Absent:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in owners and allowed.isdisjoint(map(plain, owners[top])):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from dataclasses import fields
import polars as pl
import pyarrow as pa
from llmops.config import Clean
from llmops.data.clean import candidate_texts, merge
from llmops.data.clean.stage import tidy_documents
from llmops.data.clean.work_files import TableFile, WorkFiles
from llmops.frame.records import Document, get_schema
row = {**{field.name: "" for field in fields(Document)}, "fields": "{}", "source": "faq"}
row |= {"answer": "Bring it home."}
rows = [{**row, "id": f"{n:016x}", "question": f"How is bicycle {n} mended?"} for n in range(9)]
documents = pl.DataFrame(pa.Table.from_pylist(rows, schema=get_schema(Document)))
tidied, hashes = tidy_documents(documents, Clean(languages=("en",)), ())
work_files = WorkFiles(folder)
assert len(TableFile.write(work_files, "parts/0.arrow", [tidied, hashes]).read_table(work_files, 0)) == 9
"""


def run(packages: list[str], folder: Path) -> str:
    command = [sys.executable, "-c", WORKER, " ".join(packages), str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stderr.strip()


def test_the_packages_that_the_document_lists_are_those_that_a_worker_needs(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "data.md").read_text()
    found = re.search(r"driver's Python \([^)]*\) with\s+([^.;]+); for an object store", text)
    assert found
    listed = re.split(r",\s+|\s+and\s+", found[1])
    assert run(listed, tmp_path) == ""
    assert "No module named" in run([name for name in listed if name != "rensa"], tmp_path)

"""What a model has answered to the same test before: who is the same is not asked the same again.

An artifact of `evaluate` tells in `asked.json` what decided each model's answers, as a digest. A later one takes over
what has the same digest: the base's and the champion's, as long as the test stays as it is. What models answered with
passages before them is in another table, `grounded.parquet`, and told in another file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from llmops.artifacts import check_whole, file_sha256, write_json
from llmops.config import Evaluate
from llmops.errors import ArtifactError
from llmops.machine import cores, processor
from llmops.records import Example

Table = Literal["answers", "grounded"]  #: the file that has the answers, without its ending

#: Beside each: model → `digest` of what decided its answers, and `kept`: the artifact they are from, if any.
FILES: dict[Table, str] = {"answers": "asked.json", "grounded": "asked_grounded.json"}

#: variables of the environment by which libraries choose how they compute
KERNELS = (
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NVIDIA_TF32_OVERRIDE"),
)

Answers = tuple[list[str], list[tuple[float, int]]]  #: the answer to each item; nats and tokens of each reference
_COLUMNS: dict[Table, list[str]] = {
    "answers": ["id", "answer", "reference_nats", "reference_tokens"],
    "grounded": ["id", "answer"],
}


def digest(folder: Path, form: str, items: Sequence[Example], config: Evaluate) -> str:
    """What decides the answers of a model, but for the code and the libraries, as a digest.

    Args:
        folder: of the model; all of its files count.
        form: that it is put into to be asked; empty: it is asked as it is.
        items: that it is asked, in their order.
        config: how it is asked.
    """
    files = {str(file.relative_to(folder)): file_sha256(file) for file in _files(folder)}
    asked = [asdict(item) for item in items]
    machine = [processor(), cores(), {name: os.environ.get(name) for name in KERNELS}]
    document = json.dumps([files, form, asked, config.max_new_tokens, config.batch, machine])
    return sha256(document.encode()).hexdigest()


def find(
    table: Table, name: str, asked: str, items: Sequence[Example], before: Sequence[Path]
) -> tuple[Answers, Path] | None:
    """Answers whose digest is `asked`, and the artifact they are from; None if no artifact has them whole.

    Args:
        table: in which the answers are.
        name: of the model, here; in an earlier artifact it may have been another's, a champion was a candidate once.
        asked: from `digest`.
        items: that were asked.
        before: artifacts of this stage, made by the same code with the same libraries.
    """
    for path in before:
        try:
            known = json.loads((path / FILES[table]).read_text(encoding="utf-8"))
            names = [one for one in (name, *known) if known.get(one, {}).get("digest") == asked]
            if not names:
                continue
            check_whole(path)
            filters = [("model", "=", names[0]), *([("asked", "=", True)] if table == "grounded" else [])]
            rows = pq.read_table(path / f"{table}.parquet", columns=_COLUMNS[table], filters=filters).to_pylist()
        except (OSError, ValueError, TypeError, AttributeError, LookupError, ArtifactError, pa.ArrowException):
            continue  # damaged, or gone meanwhile: who is asked anew answers the same
        if [row["id"] for row in rows] == [item.id for item in items]:
            scored = rows if table == "answers" else []
            nats = [(float(row["reference_nats"]), int(row["reference_tokens"])) for row in scored]
            return ([row["answer"] for row in rows], nats), path
    return None


def _files(folder: Path) -> list[Path]:
    """All files below a folder, through links to folders, too."""
    found = (Path(place) / name for place, _, names in os.walk(folder, followlinks=True) for name in names)
    return sorted(file for file in found if file.is_file())


def note(out: Path, table: Table, digests: dict[str, str], kept: dict[str, Path]) -> None:
    """Write which answers of a table are from where, see `FILES`."""
    write_json(
        out / FILES[table],
        {name: {"digest": asked, "kept": kept[name].name if name in kept else ""} for name, asked in digests.items()},
    )

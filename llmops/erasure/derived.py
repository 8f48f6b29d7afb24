"""What is made of the rows of an artifact and has to be made anew when some of them are taken out."""

from __future__ import annotations

import shutil
from pathlib import Path

from llmops import artifacts, prompts
from llmops.data.index.files import PASSAGES
from llmops.erasure.plans import ErasurePlan
from llmops.errors import ArtifactError
from llmops.records import Example, read_rows


def write(folder: Path, plan: ErasurePlan) -> bool:
    """Write anew what is made of the rows that are left: the annotated text of the examples, the page of an evaluation,
    the words and vectors of the passages.

    An index that is damaged is deleted, for the next run to make it anew, and so is the rest of an artifact that
    somebody has begun to delete since the erasure began.

    Returns:
        Whether the artifact is still there.
    """
    if artifacts.is_gone(folder):
        return True
    if not artifacts.is_done(folder):
        return _delete(folder, plan, "was deleted meanwhile")
    if folder.parent.name in ("index", "indexes"):
        from llmops.data.index import database

        gone = [number for c in plan.changes if Path(c.path) == folder / PASSAGES for number in c.numbers]
        try:
            database.rewrite(folder, gone)
        except ArtifactError as error:
            return _delete(folder, plan, f"was damaged ({error}) and is deleted; the next run makes it anew")
    if folder.parent.name == "evaluate" and (folder / "report.html").exists():
        from llmops.model.evaluate import page

        page.write(folder, artifacts.read_record(folder).config["worst"])
    text = folder / "train.txt"
    if folder.parent.name == "annotate" and text.exists():
        examples = read_rows(folder / "train.parquet", Example)
        lines = [prompts.annotated(e.question, e.answer, e.context) for e in examples]
        artifacts.write_whole(text, "\n".join([*lines, ""]).encode())
    return True


def _delete(folder: Path, plan: ErasurePlan, why: str) -> bool:
    if folder.exists():
        shutil.rmtree(folder)
    plan.notes.append(f"{artifacts.ref(folder)} {why}")
    return False

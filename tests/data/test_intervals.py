"""From source to examples by `run_stage`: in any order, twice, interrupted anywhere, the bytes are identical.

Annotate is the exception to the order: a day honours what the days that ran before it have tested and trained. So days
are annotated for the first time in one order, and then again in any.
"""

import itertools
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from llmops import config
from llmops.config import Config
from llmops.frame import artifacts
from llmops.pipeline import pipeline

STAGES = ("collect", "clean", "annotate")
DAYS = ("2026-01-30", "2026-01-31")


def write_sources(folder: Path) -> None:
    folder.mkdir()
    for day, start in zip(DAYS, (0, 30), strict=True):
        numbers = range(start, start + 60)
        rows = [f"How do I repair model {n} of the {n % 7} series?,Call {n} and ask for part {n}." for n in numbers]
        rows += ["How do I repair model 3 of the 3 series?,call 3 and ask for part 3.", "broken"]
        (folder / f"{day}.csv").write_text("q,a\n" + "\n".join(rows), encoding="utf-8")
    (folder / "always.jsonl").write_text('{"q": "Who are you?", "a": "A shop for spare parts."}\n{oops\n')


def settings_for(home: Path, sources: Path) -> Config:
    fields = {"question": "q", "answer": "a"}
    daily = {"name": "daily", "kind": "csv", "location": "{date}.csv", "fields": fields}
    always = {"name": "always", "kind": "jsonl", "location": "always.jsonl", "fields": fields}
    overrides = {
        "home": str(home),
        "collect": {"root": str(sources), "sources": [daily, always]},
        "clean": {"master": "local[1]", "partitions": 2},
        "annotate": {"min_test_items": 5},
    }
    return config.load(overrides=overrides, environ={})


def contents(home: Path) -> dict[str, bytes]:
    """All files of all artifacts but their records, which hold times."""
    root = home / "artifacts"
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != artifacts.RECORD and not path.name.endswith(".lock")
    }


class Killed(BaseException):
    """What a killed process does to the code that runs: nothing after it happens."""


def broken(function: Callable[..., Any], after: int) -> Callable[..., Any]:
    """`function`, which is killed when it is called for the `after`-th time."""
    calls = itertools.count()

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == after:
            raise Killed
        return function(*args, **kwargs)

    return call


# Where a stage can be broken off: what each calls while it writes.
BREAKS = {
    "collect": ("data.collect.stage.read_extract", "data.row_file.RowFile.add", "frame.artifacts.commit"),
    "clean": (
        *(f"data.clean.stage.{name}" for name in ("_write_parts", "_find_duplicates", "merge_parts", "write_funnel")),
        *("data.clean.merge._fetch", "frame.artifacts.commit"),
    ),
    "annotate": (
        "data.annotate.stage.write_rows",
        "data.annotate.split_ledger.SplitLedger.write",
        "frame.artifacts.commit",
    ),
}
SEVERAL = ("RowFile.add", "_fetch", "write_rows")  #: of these, what is called again and again


@pytest.mark.journey
def test_every_order_repetition_and_interruption_ends_with_equal_bytes(session: SparkSession, tmp_path: Path) -> None:
    """The later day comes first, and every stage is killed at each of its steps, each time at another call."""
    write_sources(tmp_path / "sources")
    plain = settings_for(tmp_path / "plain", tmp_path / "sources")
    for day, stage in itertools.product(DAYS, STAGES):
        pipeline.run_stage(stage, plain, day)
    settings = settings_for(tmp_path / "home [1]*", tmp_path / "sources")  # the name of a home is no pattern
    for day in reversed(DAYS):
        for stage in STAGES[:-1]:
            kill_everywhere(stage, settings, day)
            pipeline.run_stage(stage, settings, day)
    for day in DAYS:
        kill_everywhere("annotate", settings, day)
        pipeline.run_stage("annotate", settings, day)
    for day, stage in itertools.product((DAYS[1], DAYS[0], DAYS[1]), STAGES):
        pipeline.run_stage(stage, settings, day)
    assert contents(settings.home) == contents(plain.home)


def kill_everywhere(stage: str, settings: Config, day: str) -> None:
    """Begin a stage as often as it has steps, and kill it at the first call of each, or on the second day the next."""
    for step in BREAKS[stage]:
        with pytest.MonkeyPatch.context() as patch:
            late = day == DAYS[1] and step.endswith(SEVERAL)
            step = f"llmops.{step}"
            patch.setattr(step, broken(pkgutil.resolve_name(step), after=int(late)))
            with pytest.raises(Killed):
                pipeline.run_stage(stage, settings, day)
        planned = pipeline.plan_stage(stage, settings, day)
        assert not planned.done
        left = planned.path / ".work" / "tables.tmp"  # as a process leaves it that cannot tidy up
        left.parent.mkdir(parents=True, exist_ok=True)
        left.write_bytes(b"texts")

"""From source to examples by `run_stage`: in any order, twice, interrupted anywhere, the bytes are identical.

Annotate is the exception to the order: a day honours what the days that ran before it have tested and trained. So days
are annotated for the first time in one order, and then again in any.
"""

from __future__ import annotations

import itertools
import pkgutil
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from llmops import artifacts, config, pipeline
from llmops.config import Config
from llmops.data import spark
from llmops.errors import ConfigError
from llmops.records import Document, read_rows
from llmops.schedule import intervals

STAGES = ("collect", "clean", "annotate")
DAYS = ("2026-01-30", "2026-01-31")


@pytest.fixture(scope="module")
def session() -> Iterator[SparkSession]:
    with spark.session(config.Clean(master="local[1]", driver_memory="512m", partitions=2)) as active:
        yield active


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for day, start in zip(DAYS, (0, 30), strict=True):
        numbers = range(start, start + 60)
        rows = [f"How do I repair model {n} of the {n % 7} series?,Call {n} and ask for part {n}." for n in numbers]
        rows += ["How do I repair model 3 of the 3 series?,call 3 and ask for part 3.", "broken"]
        (folder / f"{day}.csv").write_text("q,a\n" + "\n".join(rows), encoding="utf-8")
    (folder / "always.jsonl").write_text('{"q": "Who are you?", "a": "A shop for spare parts."}\n{oops\n')
    return folder


def settings_for(home: Path, sources: Path) -> Config:
    fields = {"question": "q", "answer": "a"}
    return config.load(
        overrides={
            "home": str(home),
            "collect": {
                "root": str(sources),
                "sources": [
                    {"name": "daily", "kind": "csv", "location": "{date}.csv", "fields": fields},
                    {"name": "always", "kind": "jsonl", "location": "always.jsonl", "fields": fields},
                ],
            },
            "clean": {"master": "local[1]", "partitions": 2},
            "annotate": {"min_test_items": 5},
        },
        environ={},
    )


def contents(home: Path) -> dict[str, bytes]:
    """All files of all artifacts but their records, which hold times."""
    root = home / "artifacts"
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != artifacts.RECORD and not path.name.endswith(".lock")
    }


@pytest.fixture(scope="module")
def expected(session: SparkSession, sources: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    home = tmp_path_factory.mktemp("expected")
    for day, stage in itertools.product(DAYS, STAGES):
        pipeline.run_stage(stage, settings_for(home, sources), day)
    return contents(home)


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


# Where a stage can be broken off: what each calls again and again while it writes.
BREAKS = {
    "collect": (
        "llmops.data.collect.stage.extract_rows",
        "llmops.data.row_file.RowFile.add",
        "llmops.artifacts.commit",
    ),
    "clean": (
        "llmops.data.clean.stage._write_tidied",
        "llmops.data.clean.stage._duplicates",
        "llmops.data.clean.stage.merged",
        "llmops.data.clean.merge._fetch",
        "llmops.data.clean.stage.write_funnel",
        "llmops.artifacts.commit",
    ),
    "annotate": (
        "llmops.data.annotate.stage.write_rows",
        "llmops.data.annotate.ledger.SplitLedger.write",
        "llmops.artifacts.commit",
    ),
}


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations([*DAYS, *DAYS]),
    kills=st.lists(
        st.sampled_from([(stage, step) for stage, steps in BREAKS.items() for step in steps]).flatmap(
            lambda where: st.tuples(st.just(where), st.integers(0, 3), st.sampled_from(DAYS))
        ),
        max_size=3,
    ),
)
def test_every_order_repetition_and_interruption_ends_with_the_same_bytes(
    order: list[str],
    kills: list[tuple[tuple[str, str], int, str]],
    session: SparkSession,
    sources: Path,
    expected: dict[str, bytes],
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    shutil.rmtree(home, ignore_errors=True)
    settings = settings_for(home, sources)
    for (stage, step), after, day in kills:
        earlier = DAYS[: DAYS.index(day)] if stage == "annotate" else ()
        for before in [*itertools.product(earlier, STAGES), *((day, s) for s in STAGES[: STAGES.index(stage)])]:
            pipeline.run_stage(before[1], settings, before[0])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(step, broken(pkgutil.resolve_name(step), after))
            try:
                pipeline.run_stage(stage, settings, day)
            except Killed:
                assert not pipeline.plan(stage, settings, day).done
    for day, stage in [*itertools.product(order, STAGES[:-1]), *((day, "annotate") for day in [*DAYS, *order])]:
        pipeline.run_stage(stage, settings, day)
    assert contents(home) == expected


def test_the_name_of_a_home_is_no_pattern(
    session: SparkSession, sources: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    home = tmp_path / "home [1]*"
    for stage in STAGES:
        pipeline.run_stage(stage, settings_for(home, sources), DAYS[0])
    made = contents(home)
    assert made and made.items() <= expected.items()


def asked(path: Path) -> set[str]:
    return {row.question for row in read_rows(path / "documents", Document)}


def test_a_row_of_the_evening_is_in_its_day_and_a_day_without_change_makes_nothing(
    session: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shop's answers and its database's changes of the day, over three days; somebody runs it by hand at noon."""
    rows = [f"How do I repair model {n} of the {n % 7} series?,Call {n} and ask for part {n}." for n in range(60)]
    (tmp_path / "faq.csv").write_text("q,a\n" + "\n".join(rows), encoding="utf-8")
    table = sqlite3.connect(tmp_path / "shop.db")
    table.execute("CREATE TABLE answers (id INTEGER PRIMARY KEY, q TEXT, a TEXT, changed TEXT)")

    def add(question: str, moment: str) -> None:
        table.execute("INSERT INTO answers (q, a, changed) VALUES (?, ?, ?)", (question, "Ask at the desk.", moment))
        table.commit()

    add("Where do I collect a lamp?", "2026-01-30 09:00:00")
    fields = {"question": "q", "answer": "a"}
    sources = [
        {"name": "faq", "kind": "csv", "location": "faq.csv", "fields": fields},
        {"name": "shop", "kind": "sql", "location": "sqlite:///shop.db", "query": "SELECT * FROM answers",
         "cursor": "changed", "key": ["id"], "fields": fields},
    ]  # fmt: skip
    settings = settings_for(tmp_path / "home", tmp_path)
    collect = settings.collect.model_validate(settings.collect.model_dump() | {"sources": sources})
    settings = settings.model_copy(update={"collect": collect})

    def run(today: str, day: str = "") -> dict[str, Path]:
        monkeypatch.setattr(intervals, "today", lambda: date.fromisoformat(today))
        return {name: pipeline.run_stage(name, settings, intervals.parse_interval(day)) for name in STAGES}

    first = run("2026-01-31")  # at noon, by hand: of the day before
    with pytest.raises(ConfigError, match="2026-01-31 has not ended"):
        run("2026-01-31", "2026-01-31")
    add("Where do I collect a vase?", "2026-01-31 20:00:00")
    second = run("2026-02-01")
    assert asked(second["clean"]) - asked(first["clean"]) == {"Where do I collect a vase?"}
    third, fourth = run("2026-02-02"), run("2026-02-03")
    assert len({path["collect"] for path in (first, second, third, fourth)}) == 4
    for name in ("clean", "annotate"):
        assert first[name] != second[name] == third[name] == fourth[name]
    twin = settings.model_copy(update={"home": tmp_path / "twin"})
    contents = {}
    for name in STAGES:  # the same documents, first read by another run on another machine
        made = pipeline.run_stage(name, twin, "2026-02-02")
        contents[name] = artifacts.read_record(made).content
    assert contents["collect"] == artifacts.read_record(third["collect"]).content
    assert contents["clean"] == artifacts.read_record(second["clean"]).content

"""A missing or unfit Java is named before Spark fails on it, and a worker that ended in words of ours."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from llmops.config import Clean
from llmops.data.spark import java_problem, session, set_partitions
from llmops.errors import TransientError


def test_shuffle_partitions_are_those_that_the_configuration_names() -> None:
    own = {"spark.sql.shuffle.partitions": "64"}
    for config, expected in (({}, 4), ({"spark": own}, "64"), ({"partitions": 7, "spark": own}, 7)):
        clean = Clean(**config)
        settings: dict[str, Any] = dict(clean.spark)  # as `session` hands them on
        context = SimpleNamespace(defaultParallelism=2)
        spark: Any = SimpleNamespace(conf=SimpleNamespace(set=settings.__setitem__), sparkContext=context)
        set_partitions(spark, clean, 1_000_000)
        assert settings["spark.sql.shuffle.partitions"] == expected


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo 'openjdk version \"1.8.0_392\"' >&2", "Java 8"),
        ('[ "$1" = -version ] || exit 1\necho \'openjdk version "21"\' >&2', "jdk.incubator.vector"),
        ("echo cannot load >&2; exit 1", "cannot load"),
        ("echo 'openjdk version \"17.0.21\"' >&2", ""),
    ],
)
def test_an_absent_or_unfit_java_is_named_before_spark_fails_on_it(tmp_path: Path, script: str, problem: str) -> None:
    assert "no java on the PATH" in java_problem({"PATH": str(tmp_path)})
    assert "JAVA_HOME" in java_problem({"JAVA_HOME": str(tmp_path / "none")})
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin" / "java").chmod(0o755)
    found = java_problem({"JAVA_HOME": str(tmp_path)})
    assert problem in found and bool(found) == bool(problem)


def test_a_worker_that_is_killed_is_told_and_may_do_it_at_the_next_try() -> None:
    """As the system does when memory is short; a master on this machine gives each task one try."""

    def end(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            os.kill(os.getpid(), signal.SIGKILL)
            yield batch

    config = Clean(master="local[1]", driver_memory="512m")
    with pytest.raises(TransientError, match=r"A worker of Spark ended .*Run again"), session(config) as active:
        active.range(1).mapInArrow(end, "id long").collect()

"""A worker of Spark that ended is told in words of ours."""

import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from llmops.config import Clean
from llmops.data.spark import open_spark_session, set_shuffle_partitions
from llmops.frame.errors import TransientError


def test_shuffle_partitions_are_those_that_the_configuration_names() -> None:
    own = {"spark.sql.shuffle.partitions": "64"}
    for config, expected in (({}, 4), ({"spark": own}, "64"), ({"partitions": 7, "spark": own}, 7)):
        clean = Clean(**config)
        settings: dict[str, Any] = dict(clean.spark)  # as `session` hands them on
        context = SimpleNamespace(defaultParallelism=2)
        spark: Any = SimpleNamespace(conf=SimpleNamespace(set=settings.__setitem__), sparkContext=context)
        set_shuffle_partitions(spark, clean, 1_000_000)
        assert settings["spark.sql.shuffle.partitions"] == expected


def test_a_worker_that_is_killed_is_told_and_may_do_it_at_the_next_try() -> None:
    """As the system does when memory is short; a master on this machine gives each task one try."""

    def end(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            os.kill(os.getpid(), signal.SIGKILL)
            yield batch

    config = Clean(master="local[1]", driver_memory="512m")
    with (
        pytest.raises(TransientError, match=r"A worker of Spark ended .*Run again"),
        open_spark_session(config) as active,
    ):
        active.range(1).mapInArrow(end, "id long").collect()

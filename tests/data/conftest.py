"""The Spark session that tests of the data stages share."""

from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession

from llmops.config import Clean
from llmops.data import spark


@pytest.fixture(scope="module")
def session() -> Iterator[SparkSession]:
    with spark.open_spark_session(Clean(master="local[2]", driver_memory="512m", partitions=2)) as active:
        yield active

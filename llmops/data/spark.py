"""The Spark session, and a clear error when Java is missing. pyspark is imported only when a session starts."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from llmops import ROOT
from llmops.config import Clean
from llmops.frame import doctor
from llmops.frame.errors import LlmopsError, TransientError, describe_error

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

BATCH_DOCUMENTS = (
    20_000  #: documents that a worker reads together: enough for fast columns, few enough for little memory
)
ROWS_PER_PARTITION = 250_000  #: documents, whose MinHash bands are then 64 MB
_SHUFFLE_PARTITIONS = "spark.sql.shuffle.partitions"
_WORKER_ENDED = re.compile(
    r"Python worker exited unexpectedly \(crashed\)|ExecutorLostFailure \(.+\)"
)  #: it crashed, or was killed


@contextmanager
def open_spark_session(config: Clean) -> Iterator[SparkSession]:
    """Yield a Spark session: the active one, or a new one that is stopped at the end.

    Raises:
        LlmopsError: if there is no Java that Spark can run on. An `LlmopsError` of a worker's task is raised as it was.
        TransientError: if a worker process ended in all of Spark's tries.
    """
    from pyspark.sql import SparkSession

    if active := SparkSession.getActiveSession():
        with _raise_worker_errors():
            yield active
        return
    if not (java := doctor.check_java(os.environ)).ok:
        raise LlmopsError(f"Spark needs Java {doctor.MIN_JAVA} or newer: {java.detail}; {java.remedy}.")
    builder = (
        SparkSession.builder.master(config.master)
        .appName("llmops-clean")  # Kubernetes names pods after it, without spaces
        .config("spark.driver.memory", config.driver_memory)
        .config("spark.sql.parquet.compression.codec", "zstd")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", BATCH_DOCUMENTS)
        .config("spark.executorEnv.POLARS_MAX_THREADS", 1)  # a worker runs on each core already
        .config("spark.executorEnv.RAYON_NUM_THREADS", 1)
        .config("spark.ui.enabled", False)
        .config("spark.ui.showConsoleProgress", False)
        .config("spark.log.level", "WARN")
    )
    local = config.master.startswith("local")
    if local:
        # The workers run this Python with the same packages, and listen on this machine alone.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        builder = (
            builder.config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.executorEnv.PYTHONPATH", str(ROOT))
        )
    elif python := config.spark.get("spark.pyspark.python"):  # only spark-submit reads this setting itself
        os.environ["PYSPARK_PYTHON"] = python
    for name, value in config.spark.items():
        builder = builder.config(name, value)
    with tempfile.TemporaryDirectory() as folder:
        spark = builder.getOrCreate()
        try:
            if not local:  # executors get the driver's code; the packages must be installed there
                archive = shutil.make_archive(str(Path(folder, "llmops")), "zip", ROOT, "llmops")
                spark.sparkContext.addPyFile(archive)
            with _raise_worker_errors():
                yield spark
        finally:
            spark.stop()


@contextmanager
def _raise_worker_errors() -> Iterator[None]:
    """Turn Spark's error into the `LlmopsError` that ended a worker's task, or `TransientError` if the worker died."""
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        words = describe_error(error)
        for module, name, text in re.findall(r"^(llmops(?:\.\w+)+)\.(\w+): (.+)$", words, re.MULTILINE):
            kind = getattr(import_module(module), name, None)
            if isinstance(kind, type) and issubclass(kind, LlmopsError):
                raise kind(text) from error
        if ended := _WORKER_ENDED.search(words):
            raise TransientError(
                f"A worker of Spark ended before its work did ({ended[0]}): somebody killed it, or the system, "
                "short of memory. Run again; if one ends again, give it more memory, or fewer cores by `clean.master`."
            ) from error
        raise


def set_shuffle_partitions(spark: SparkSession, config: Clean, rows: int) -> None:
    """Set the number of Spark's shuffle partitions so that each fits into a worker's memory; at least one per core.

    `clean.partitions` has precedence, then the number in `clean.spark`.
    """
    if not config.partitions and _SHUFFLE_PARTITIONS in config.spark:
        return
    by_rows = max(-(-rows // ROWS_PER_PARTITION), spark.sparkContext.defaultParallelism)
    spark.conf.set(_SHUFFLE_PARTITIONS, config.partitions or by_rows)

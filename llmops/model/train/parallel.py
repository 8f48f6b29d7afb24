"""One training over several processes, one per GPU, through torchrun's own launcher."""

import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from llmops.frame.errors import DiskFullError, TrainingError
from llmops.frame.printable import configure_logging

T = TypeVar("T")


def run_parallel(processes: int, function: Callable[..., T], *args: Any) -> T:
    """Call `function(*args)` in `processes` new processes that form a torch process group on this machine.

    Args:
        processes: how many; with GPUs, each has one of them.
        function: can be imported by name; its arguments and what it returns can be pickled.
        *args: its arguments.

    Returns:
        What the first process returns.

    Raises:
        TrainingError: if one process fails; the others are stopped. DiskFullError, if that is why.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id="train",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.2,
    )
    level = logging.getLogger().getEffectiveLevel()
    try:
        results: dict[int, T] = elastic_launch(config, _run_process)(level, processes, function, *args)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        message = failure.message["message"] if isinstance(failure.message, dict) else failure.message
        kind = DiskFullError if message.startswith(DiskFullError.__name__) else TrainingError
        raise kind(f"Process {rank} of {processes} failed. {message}") from error
    return results[0]


@record
def _run_process(level: int, processes: int, function: Callable[..., Any], *args: Any) -> Any:
    configure_logging("%(asctime)s %(message)s", datefmt="%H:%M:%S", level=level)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # otherwise what the host's name resolves to
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    return function(*args)

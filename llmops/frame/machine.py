"""This machine: its memory, cores and GPU, and how torch's threads wait for each other.

By default these threads spin for a long time. That is fastest alone, but two torch processes on two cores (a stage and
the serving app, for example) then drop to 1 % of their speed. Threads that sleep at once (OMP_WAIT_POLICY=PASSIVE) do
not block others, but lose almost half. A short spin is nearly as good as either. Training tokens/s on 2 cores, alone
and beside one busy process: default 452 and under 20; PASSIVE 252 and 253; a spin count of 10,000 449 and 157.
"""

import os
import subprocess
from collections.abc import Mapping, MutableMapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

GIB = 2**30  #: bytes


def shorten_thread_spin(environ: MutableMapping[str, str]) -> None:
    """Shorten the spin of GNU OpenMP's threads, which torch uses, unless the environment says how they wait.

    Call it before torch is loaded: torch reads the environment only then.
    """
    if "OMP_WAIT_POLICY" not in environ:
        environ.setdefault("GOMP_SPINCOUNT", "10000")


@cache
def describe_gpus() -> str:
    """Return names and compute capabilities of the NVIDIA GPUs, such as "NVIDIA L4 (8.9)", separated by commas.

    It is empty if torch computes on the CPU: without a GPU, with CUDA_VISIBLE_DEVICES hiding it, or with a CPU build of
    torch. Torch itself is not asked, because its import takes seconds.
    """
    try:
        built = version("torch")
    except PackageNotFoundError:
        return ""
    if built.endswith("+cpu") or os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return ""
    command = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):  # no driver, so no GPU for torch either
        return ""
    kinds = {" (".join(part.strip() for part in line.rsplit(",", 1)) + ")" for line in output.splitlines() if line}
    return ", ".join(sorted(kinds))


def get_total_memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory of this machine, or the limit of its container, used or not."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = (root / name).read_text(encoding="ascii").strip()
        except OSError:  # another version, or none
            continue
        limits += [int(text)] if text != "max" else []
    return min(limits)


def count_cores(root: Path = Path("/")) -> int:
    """Return the number of cores that this process may use, limited by its container's share."""
    shares = [float(len(os.sched_getaffinity(0)))]
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            text = " ".join((root / "sys/fs/cgroup" / name).read_text(encoding="ascii") for name in names).split()
        except OSError:  # another version, or none
            continue
        shares += [int(text[0]) / int(text[1])] if text[0] not in ("max", "-1") else []
    return max(1, round(min(shares)))


def count_threads(environ: Mapping[str, str] = os.environ) -> int:
    """Return the number of compute threads of a model: one per core, or fewer by `OMP_NUM_THREADS`."""
    limit = environ.get("OMP_NUM_THREADS", "")
    return min(count_cores(), int(limit)) if limit.isdecimal() and int(limit) else count_cores()

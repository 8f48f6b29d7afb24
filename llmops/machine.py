"""This machine: the unit of its memory, its GPU, and how torch's threads wait for each other.

By default those threads spin for a long time. Alone on the machine that is fastest, but two torch processes on two
cores (a stage and the serving app, say) then fall to 1 % of their speed, each spinning away what the other needs.
Threads that sleep at once (OMP_WAIT_POLICY=PASSIVE) never starve anybody, and lose almost half. A short spin is nearly
as good as either. Training tokens/s on 2 cores, alone and beside one busy process: default 452 and under 20; PASSIVE
252 and 253; a spin count of 10,000 449 and 157.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, MutableMapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

GIB = 2**30  #: bytes


def spin_briefly(environ: MutableMapping[str, str]) -> None:
    """Let the threads of GNU's OpenMP, which torch uses, spin briefly, unless the environment says how they wait.

    To be called before torch is loaded, which reads the environment only then.
    """
    if "OMP_WAIT_POLICY" not in environ:
        environ.setdefault("GOMP_SPINCOUNT", "10000")


@cache
def gpu() -> str:
    """Name and compute capability of the machine's NVIDIA GPUs, such as "NVIDIA L4 (8.9)"; several kinds with commas.

    Empty where torch computes on the CPU: without a GPU, with one that CUDA_VISIBLE_DEVICES hides, or with a build of
    torch that has no CUDA. Torch itself would have to be imported to be asked, which takes seconds.
    """
    try:
        built = version("torch")
    except PackageNotFoundError:
        return ""
    if built.endswith("+cpu") or os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return ""
    command = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):  # no driver, so no GPU for torch either
        return ""
    kinds = {" (".join(part.strip() for part in line.rsplit(",", 1)) + ")" for line in said.splitlines() if line}
    return ", ".join(sorted(kinds))


def total_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this machine has, or that its container may use of it, however much of it is in use.

    Args:
        root: where `/proc` and `/sys` are; control groups of version 1 and 2 are read.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = (root / name).read_text(encoding="ascii").strip()
        except OSError:  # another version, or none
            continue
        limits += [int(text)] if text != "max" else []
    return min(limits)


def cores(root: Path = Path("/")) -> int:
    """Processes that can compute at the same time: the cores that this one may use, and what its container has of them.

    Args:
        root: where `/sys` is; control groups of version 1 and 2 are read.
    """
    shares = [float(len(os.sched_getaffinity(0)))]
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            text = " ".join((root / "sys/fs/cgroup" / name).read_text(encoding="ascii") for name in names).split()
        except OSError:  # another version, or none
            continue
        shares += [int(text[0]) / int(text[1])] if text[0] not in ("max", "-1") else []
    return max(1, round(min(shares)))


def threads(environ: Mapping[str, str] = os.environ) -> int:
    """Return how many threads a model computes with: one per core, or fewer if `OMP_NUM_THREADS` says so."""
    told = environ.get("OMP_NUM_THREADS", "")
    return min(cores(), int(told)) if told.isdecimal() and int(told) else cores()

"""This machine: the unit of its memory, and how torch's threads wait for each other.

By default those threads spin for a long time. Alone on the machine that is fastest, but two torch processes on two
cores (a stage and the serving app, say) then fall to 1 % of their speed, each spinning away what the other needs.
Threads that sleep at once (OMP_WAIT_POLICY=PASSIVE) never starve anybody, and lose almost half. A short spin is nearly
as good as either. Training tokens/s on 2 cores, alone and beside one busy process: default 452 and under 20; PASSIVE
252 and 253; a spin count of 10,000 449 and 157.
"""

from __future__ import annotations

from collections.abc import MutableMapping

GIB = 2**30  #: bytes


def spin_briefly(environ: MutableMapping[str, str]) -> None:
    """Let the threads of GNU's OpenMP, which torch uses, spin briefly, unless the environment says how they wait.

    To be called before torch is loaded, which reads the environment only then.
    """
    if "OMP_WAIT_POLICY" not in environ:
        environ.setdefault("GOMP_SPINCOUNT", "10000")

"""What every benchmark takes and how it tells its figures: a table for a person, with `--json` one object besides.

The object is the last line of the output: `{"name", "machine", "arms": {arm: {figure: value}}, "ratios":
{claim: value}, "failed": {arm: reason}}`; what is not finite is null. A ratio is there if both its arms were measured.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from peers import Peer

Figures = Mapping[str, float]
Arms = Mapping[str, Figures]  #: arm → figure → value
Cell = tuple[str, str]  #: an arm and a figure of it


def parser(file: str, doc: str | None, quick: str) -> argparse.ArgumentParser:
    """The command line of the benchmark in `file`, with what `--quick` means there; its name is that of the file."""
    made = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    made.add_argument("--quick", action="store_true", help=quick)
    made.add_argument("--json", action="store_true", help="the last line is one JSON object")
    made.set_defaults(name=Path(file).stem)
    return made


def divided(arms: Arms, claims: Mapping[str, tuple[Cell, Cell]]) -> dict[str, float]:
    """The ratio of every claim whose two figures are there."""

    def at(cell: Cell) -> float | None:
        return arms.get(cell[0], {}).get(cell[1])

    found = {claim: (at(top), at(bottom)) for claim, (top, bottom) in claims.items()}
    return {claim: top / bottom for claim, (top, bottom) in found.items() if top is not None and bottom}


def machine(packages: Iterable[str] = (), peers: Iterable[Peer] = ()) -> dict[str, Any]:
    """What the figures were measured on, and with which versions."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    for peer in peers:
        versions |= peer.version()
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "gpu": _gpu(),
        "versions": versions,
    }


def machine_name(found: Mapping[str, Any]) -> str:
    """The words for a machine, the same whenever something is measured on it."""
    parts = [found["processor"], f"{found['cores']} cores", f"{found['memory_gib']} GiB", found["gpu"]]
    return ", ".join(part for part in parts if part)


def finish(
    options: argparse.Namespace,
    arms: Arms,
    ratios: Figures,
    failed: Mapping[str, str] | None = None,
    packages: Sequence[str] = (),
    peers: Sequence[Peer] = (),
) -> None:
    """Print the arms with all their figures, those that failed with the reason, the ratio of every claim, and with
    `--json` all of it as one object.

    Raises:
        SystemExit: if no arm was measured.
    """
    failed, on = failed or {}, machine(packages, peers)
    columns = list(dict.fromkeys(figure for figures in arms.values() for figure in figures))
    wide = max(map(len, [*arms, *failed]), default=0)
    told = ", ".join(f"{name} {number}" for name, number in on["versions"].items())
    print(f"\n{machine_name(on)}\n{told}\n\n{'':<{wide}}" + "".join(f"{column:>14}" for column in columns))
    for arm, figures in arms.items():
        cells = (f"{shown(figures[c]):>14}" if c in figures else " " * 14 for c in columns)
        print(f"{arm:<{wide}}" + "".join(cells))
    for arm, reason in failed.items():
        print(f"{arm:<{wide}}  not measured: {reason}")
    print()
    for claim, ratio in ratios.items():
        print(f"{claim}: {ratio:.2f}")
    if not arms:
        sys.exit(f"{options.name}: no arm was measured")
    if options.json:
        numbers = {arm: _finite(figures) for arm, figures in arms.items()}
        print(
            json.dumps(
                {"name": options.name, "machine": on, "arms": numbers, "ratios": _finite(ratios), "failed": failed}
            )
        )


def shown(value: float) -> str:
    """A figure as tables show it."""
    return f"{value:,.0f}" if abs(value) >= 100 or isinstance(value, int) else f"{value:.3f}"


def _finite(figures: Figures) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def _processor() -> str:
    """Its name; where the kernel tells none, that of its family."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return " ".join(names[0].split()) if names else platform.machine()


def _gpu() -> str:
    """The names of the GPUs, as the driver tells them."""
    if not shutil.which("nvidia-smi"):
        return ""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True)
    names = done.stdout.strip().splitlines() if done.returncode == 0 else []
    return " + ".join(sorted(name.strip() for name in names))

"""How every benchmark tells its figures: a table for a person, and with `--json` one object in the last line."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version

import psutil

Arms = Mapping[str, Mapping[str, float]]  #: arm → figure → value


def machine(packages: tuple[str, ...] = ()) -> str:
    """What the figures were measured on."""
    parts = [platform.machine(), f"{os.cpu_count()} cores", f"{psutil.virtual_memory().total / 2**30:.0f} GiB"]
    return ", ".join([*parts, f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)])


def finish(name: str, arms: Arms, ratios: Mapping[str, float], as_json: bool, packages: tuple[str, ...] = ()) -> None:
    """Print the arms with all their figures, the ratio of every claim, and with `as_json` all of it as one object."""
    columns = list(dict.fromkeys(figure for figures in arms.values() for figure in figures))
    wide = max(map(len, arms))
    print(f"\n{machine(packages)}\n\n{'':<{wide}}" + "".join(f"{column:>14}" for column in columns))
    for arm, figures in arms.items():
        cells = (f"{_shown(figures[c]):>14}" if c in figures else " " * 14 for c in columns)
        print(f"{arm:<{wide}}" + "".join(cells))
    print()
    for claim, ratio in ratios.items():
        print(f"{claim}: {ratio:.2f}")
    if as_json:
        print(json.dumps({"name": name, "machine": machine(packages), "arms": arms, "ratios": ratios}))


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"

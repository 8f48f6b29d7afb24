"""The page of all benchmarks on all machines, from what was kept of them.

Kept is, for every machine by its name and every benchmark by its, the day, the load that was there before (processes,
as the kernel averages them over a minute), and either the object that it printed or the error that ended it. The next
run on a machine replaces what it measures anew and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from report import shown

Run = Mapping[str, Any]  #: `date`, `load`, `machine`, and `error` or what else the benchmark printed
Kept = dict[str, dict[str, Run]]  #: machine → benchmark → run

BUSY = 2  #: processes a core, more than the benchmark before leaves in the average

HEAD = """# Benchmarks

Written by `make bench`, which runs every benchmark in its quick form; figures of other machines stay as they are. A
benchmark makes the environments of its peers itself and gives all arms the same work in one run. So compare within a
machine. `python benchmarks/run_all.py --full NAME` takes longer and varies less; such a run says "in full". The same
figures, unrounded, are in [benchmarks.json](benchmarks.json).
"""


def merge(kept: Kept, machine: str, name: str, run: Run) -> Kept:
    """What is kept once a benchmark has run on a machine."""
    return {**kept, machine: {**kept.get(machine, {}), name: run}}


def render(kept: Kept, titles: Mapping[str, str]) -> str:
    """The page in Markdown.

    Args:
        titles: what every benchmark measures, in the order of the page.
    """
    machines = sorted(kept)
    parts = [HEAD, "## Machines\n", _machines(kept, machines)]
    for name, title in titles.items():
        runs = {machine: kept[machine][name] for machine in machines if name in kept[machine]}
        parts += [f"## {name}\n", f"{title}\n", *_benchmark(runs)]
    return "\n".join(parts)


def one_line(text: str) -> str:
    """A reason as it is kept: in one line, without the folders of the machine."""
    return re.sub(r"(?<![\w:/.])/(?:[\w.@+-]+/)+", "", " ".join(text.split()))


def _machines(kept: Kept, machines: Sequence[str]) -> str:
    """When and with which versions; those of the latest run, where a machine's differ."""
    versions: dict[str, dict[str, str]] = {}
    dates: dict[str, str] = {}
    for machine in machines:
        runs = sorted(kept[machine].values(), key=lambda run: run["date"])
        dates[machine] = " to ".join(dict.fromkeys((runs[0]["date"], runs[-1]["date"])))
        versions[machine] = {}
        for run in runs:
            versions[machine] |= run["machine"]["versions"]
    known = dict.fromkeys(name for found in versions.values() for name in found)
    rows = [["measured", *(dates[machine] for machine in machines)]]
    rows += [[name, *(versions[machine].get(name, "") for machine in machines)] for name in known]
    return _table(["", *machines], rows)


def _benchmark(runs: Mapping[str, Run]) -> list[str]:
    """Its ratios, the machines side by side, and then the figures of each."""
    parts = []
    claims = dict.fromkeys(claim for run in runs.values() for claim in run.get("ratios", {}))
    if claims:
        rows = [[claim, *(_cell(run.get("ratios", {}).get(claim)) for run in runs.values())] for claim in claims]
        parts.append(_table(["ratio", *runs], rows))
    for machine, run in runs.items():
        parts.append(f"**{machine}**, {run['date']}{'' if run.get('quick', True) else ', in full'}{_busy(run)}:\n")
        parts.append(f"It failed: {_escaped(run['error'])}\n" if "error" in run else _figures(run))
    return parts or ["Not measured yet.\n"]


def _busy(run: Run) -> str:
    """What to know of a run beside which other work ran: all figures are worse, and ratios vary."""
    cores = run["machine"]["cores"]
    if run["load"] <= BUSY * cores:
        return ""
    return f", on a busy machine: {run['load']:.0f} processes were running on its {cores} cores before"


def _figures(run: Run) -> str:
    columns = list(dict.fromkeys(figure for figures in run["arms"].values() for figure in figures))
    rows = [[arm, *(_cell(figures.get(c)) for c in columns)] for arm, figures in run["arms"].items()]
    missing = "".join(
        f"Not measured, {_escaped(arm)}: {_escaped(why)}\n\n" for arm, why in run.get("failed", {}).items()
    )
    return _table(["arm", *columns], rows) + ("\n" + missing.rstrip("\n") + "\n" if missing else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines) + "\n"


def _cell(value: float | None) -> str:
    return "" if value is None else shown(value)


def _escaped(text: str) -> str:
    return re.sub(r"([|<>\[\]*_`\\])", r"\\\1", text)

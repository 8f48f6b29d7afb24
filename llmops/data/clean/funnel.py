"""The funnel of cleaning: the number of documents of each source after each rule, as numbers, table and plot."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llmops.frame.artifacts import write_atomically

#: rules in the order in which they are applied; the funnel shows them in this order
RULE_ORDER = (
    "missing", "too_short", "too_long", "symbols", "repetition", "language", "duplicate", "near_duplicate",
)  # fmt: skip


def write_funnel(counts: Iterable[tuple[str, str | None, int]], out: Path) -> dict[str, Any]:
    """Write `report.md` and `funnel.png`. Return the metrics `in`, `kept`, `dropped` per rule, and all by source."""
    by_source: defaultdict[str, Counter[str]] = defaultdict(Counter)
    total: Counter[str] = Counter()
    for source, rule, number in counts:
        by_source[source][rule or "kept"] += number
        total[rule or "kept"] += number
    used = [rule for rule in RULE_ORDER if total[rule]]
    rows = [_format_row(name, by_source[name], used) for name in sorted(by_source)] + [
        _format_row("**all**", total, used)
    ]
    head = ["source", "read", *(rule.replace("_", " ") for rule in used), "kept", "share kept"]
    rule = "|---|" + "---:|" * (len(head) - 1)
    table = "\n".join(["| " + " | ".join(head) + " |", rule, *rows])
    text = (
        f"# What cleaning kept\n\n{table}\n\n![Documents left after each rule](funnel.png)\n\nEvery dropped document, "
    )
    write_atomically(out / "report.md", (text + "with the rule and the detail, is in `dropped/`.\n").encode())
    _plot(total, used, out / "funnel.png")
    read = sum(total.values())
    return {
        "in": read,
        "kept": total["kept"],
        "dropped": {rule: total[rule] for rule in sorted(used)},
        "sources": {name: {"in": sum(c.values()), "kept": c["kept"]} for name, c in sorted(by_source.items())},
    }


def _format_row(name: str, counts: Counter[str], used: list[str]) -> str:
    read, kept = sum(counts.values()), counts["kept"]
    cells = [name, f"{read:,}", *(f"{counts[rule]:,}" for rule in used), f"{kept:,}", f"{kept / read:.1%}"]
    return "| " + " | ".join(cells) + " |"


def _plot(total: Counter[str], used: list[str], path: Path) -> None:
    from matplotlib.figure import Figure

    steps, left = [("read", sum(total.values()), 0)], sum(total.values())
    for rule in used:
        left -= total[rule]
        steps.append((f"after {rule.replace('_', ' ')}", left, total[rule]))
    figure = Figure(figsize=(8, 0.9 + 0.45 * len(steps)), layout="constrained")
    axes = figure.subplots()
    names = [name for name, _, _ in steps][::-1]
    axes.barh(names, [n for _, n, _ in steps][::-1], color="#2f6f8f")
    axes.barh(names, [d for _, _, d in steps][::-1], left=[n for _, n, _ in steps][::-1], color="#d9a441")
    for y, (_, n, dropped) in enumerate(steps[::-1]):
        axes.annotate(f"{n:,}" + (f"  (−{dropped:,})" if dropped else ""), (n + dropped, y), (4, 0),
                      textcoords="offset points", va="center", fontsize=9)  # fmt: skip
    axes.set_xlim(0, sum(total.values()) * 1.22)
    axes.set_xlabel("documents")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": None})

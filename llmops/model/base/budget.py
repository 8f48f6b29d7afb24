"""Whether the machine has what the stages need, said before any work starts, and what would fit where it has not."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmops.errors import TrainingError
from llmops.model.base.memory import Memory, Settings, Stage, needs
from llmops.model.base.shape import Shape

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """What a stage needs of one kind of memory, and what is there, in GiB."""

    stage: Stage
    kind: str  #: "GPU" or "RAM"
    needed: float
    there: float

    @property
    def ok(self) -> bool:
        """Whether it fits."""
        return self.needed <= self.there


def budget(stages: Sequence[Stage], shape: Shape, settings: Settings, there: Memory) -> list[Row]:
    """A row for each stage and kind of memory."""
    rows: list[Row] = []
    for stage in stages:
        need = needs(stage, shape, settings, gpu=there.gpu > 0)
        rows += [Row(stage, "GPU", need.gpu, there.gpu)] if there.gpu else []
        rows.append(Row(stage, "RAM", need.ram, there.ram))
    return rows


def need_memory(stages: Sequence[Stage], shape: Shape, settings: Settings, there: Memory) -> None:
    """Say what the stages need, and refuse to start what would not fit.

    Raises:
        TrainingError: with what is short, and what would fit.
    """
    rows = budget(stages, shape, settings, there)
    for row in rows:
        log.info("memory: %s needs %.1f GiB of %.1f (%s)", row.stage, row.needed, row.there, row.kind)
    if short := [row for row in rows if not row.ok]:
        said = "; ".join(f"{r.stage} needs {r.needed:.1f} GiB ({r.kind}), {r.there:.1f} are there" for r in short)
        raise TrainingError(f"Not enough memory: {said}. {advice(short[0], shape, settings, there)}")


def advice(short: Row, shape: Shape, settings: Settings, there: Memory) -> str:
    """What would make a stage fit that does not: NF4, fewer examples at once, or a smaller model."""

    def fits(changed: Settings) -> bool:
        return all(row.ok for row in budget([short.stage], shape, changed, there))

    if short.stage in ("tune", "train"):
        if settings.method == "lora" and fits(replace(settings, method="qlora")):
            return "It fits with the base in NF4: train.method: qlora."
        for examples in range(settings.examples // 2, 0, -1):
            if settings.examples % examples == 0 and fits(replace(settings, examples=examples)):
                return f"It fits with fewer examples at once: train.micro_batch: {examples}."
    fewer = (
        ("serving.max_batch", "slots"), ("serving.max_context", "context"), ("the stage's batch", "batch")
    )  # fmt: skip
    for name, field in fewer if short.stage not in ("tune", "train", "merge") else ():
        value = getattr(settings, field) // 4
        if value and fits(replace(settings, **{field: value})):
            return f"It fits with a smaller {name}, such as {value}."
    held = 0.55 if short.stage in ("tune", "train") and settings.method == "qlora" else 2.0
    billions = max(0.1, (short.there - 2) * 2**30 / held / 1e9 / 1.2)
    return f"Take a smaller model, of about {billions:.1f} billion parameters (select.model), or a larger machine."

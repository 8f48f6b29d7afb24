"""Tiny stages in the place of the real ones, told what to do by files, in every process of a real Airflow.

`$CONTROL/<interval>.json` says for a stage how it behaves on that day: {"collect": "hang"}. What happened is a line in
`$CONTROL/log`: time, stage, interval, word.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmops.config import Config
from llmops.frame import time_limit
from llmops.frame.errors import SourceError, SourceUnavailableError
from llmops.pipeline import pipeline

CONTROL = Path(os.environ["CONTROL"])
RUN_STAGE = pipeline.run_stage
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(sys.argv[1], "a") as file: file.write(f"{os.getpid()}\\n")
signal.pause()
"""


def note(stage: str, interval: str, word: str) -> None:
    with open(CONTROL / "log", "a") as file:
        file.write(f"{time.time()} {stage} {interval} {word}\n")


def said(stage: str, interval: str) -> list[str]:
    lines = (line.split() for line in (CONTROL / "log").read_text().splitlines())
    return [word for _, *where, word in lines if where == [stage, interval]]


def behaviour(stage: str, interval: str) -> str:
    file = CONTROL / f"{interval}.json"
    return str(json.loads(file.read_text()).get(stage, "")) if file.is_file() else ""


def behave(stage: str, interval: str) -> None:
    note(stage, interval, "started")
    how = behaviour(stage, interval)
    if how.startswith("hang"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen([sys.executable, "-c", STUBBORN, str(CONTROL / f"{interval}.pids")])
        mutex, lock = ctypes.create_string_buffer(64), ctypes.PyDLL(None).pthread_mutex_lock
        lock(mutex), lock(mutex)
    if how == "fail":
        raise SourceError("source faq yields nothing")
    if how == "fail once" and len(said(stage, interval)) == 1:
        raise SourceUnavailableError("the shop's server is away")
    if how == "wait":
        while not (CONTROL / f"{interval}.go").exists():
            time.sleep(0.1)
    if how.startswith("take"):
        time.sleep(float(how.split()[1]))


def collect(config: Any, *, interval: str, out: Path) -> dict[str, Any]:
    behave("collect", interval)
    (out / "interval").write_text(interval)
    note("collect", interval, "built")
    return {}


def following(stage: str) -> types.FunctionType:
    def run(config: Any, *, out: Path, **inputs: Path) -> dict[str, Any]:
        interval = (next(iter(inputs.values())) / "interval").read_text()
        behave(stage, interval)
        (out / "interval").write_text(interval)
        if stage == "release":
            decision = {"model": "support-bot", "version": "v1", "outcome": "promoted"}
            (out / "decision.json").write_text(json.dumps(decision))
        note(stage, interval, "built")
        return {}

    return run  # type: ignore[return-value]


def run_stage(name: str, config: Config, interval: str, *args: Any, **more: Any) -> Path:
    """Run a stage as the pipeline does, with a limit of 3 s on a day on which it hangs."""
    if behaviour(name, interval).startswith("hang"):
        schedule = config.schedule.model_copy(update={"timeouts": {name: 0.05}})
        config = config.model_copy(update={"schedule": schedule})
    return RUN_STAGE(name, config, interval, *args, **more)


def replace(names: Sequence[str] = ("collect", "annotate", "train", "release")) -> None:
    """Put stand-ins in the place of these stages, one after another, and leave out all others."""
    time_limit.GRACE_S = 2.0
    pipeline.run_stage = run_stage
    pipeline.stage_inputs.check_base = lambda config, select: None  # a stand-in takes no base model
    stages: dict[str, pipeline.Stage] = {}
    for name in names:
        module = types.ModuleType(f"stand_in_{name}")
        module.run = following(name) if stages else collect  # type: ignore[attr-defined]
        sys.modules[module.__name__] = module
        first, heavy = not stages, pipeline.STAGES[name].heavy
        stages[name] = pipeline.Stage(module.__name__, tuple(stages)[-1:], interval=first, heavy=heavy)
    pipeline.STAGES = stages

"""What is served where no model is good enough: the base as it is, answering from the documents.

The first candidate of a model may be worse than its base, and then nothing would be served. With `grounding.enabled`,
the base with the documents is a candidate of its own: the stages from `tune` to `release` run once more with
`train.enabled` off, and the gate decides on it as on any other.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmops import pipeline
from llmops.config import Config
from llmops.errors import GovernanceError, LlmopsError
from llmops.pipeline import Plan, plan, run_stage
from llmops.registry.registry import registry_of
from llmops.registry.view import BASE

log = logging.getLogger(__name__)

AGAIN = ("tune", "train", "compress", "evaluate", "govern", "release")  #: the stages that run once more


def fall_back(config: Config, interval: str, done: Mapping[str, Path], run: str = "", attempt: int = 1) -> Path:
    """Release the base with the documents if a trained candidate was compared with the base and not promoted.

    Whether it was is decided by its decision, so that every try and every later run ends alike; where a trained version
    is the champion, by that.

    Args:
        config: of the run.
        interval: of the run.
        done: its artifacts by stage, up to `release`.
        run: the orchestrator's run id, kept in the records.
        attempt: which try of the orchestrator's this is.

    Returns:
        The artifact of `release` that decides what is deployed: the one of `done`, or the one that was made here.
    """
    if not _applies(config, done):
        return done["release"]
    why = "%s was %s: to have something to serve, the base is judged with the documents"
    log.info(why, *(_decision(done)[name] for name in ("version", "outcome")))
    untrained, made = _untrained(config), {name: path for name, path in done.items() if name not in AGAIN}
    for name in AGAIN:
        try:
            made[name] = run_stage(name, untrained, interval, made, run=run, attempt=attempt)
        except GovernanceError as error:
            log.warning("The base is not served either. %s", error)
            return done["release"]
    return made["release"]


def plans(config: Config, interval: str) -> dict[str, Plan | LlmopsError | None]:
    """The plan of each stage, or what stands in its way; None: it depends on what a stage before it will make.

    What comes after `release` is planned by what decides it, see `fall_back`.
    """
    known: dict[str, Path] = {}
    found: dict[str, Plan | LlmopsError | None] = {}
    for name, stage in pipeline.STAGES.items():
        found[name] = None
        if known.keys() >= set(stage.inputs):
            try:
                found[name] = todo = plan(name, config, interval, known)
                known |= {name: todo.path} if todo.done else {}
                if name == "release" and todo.done and _applies(config, known):
                    del known[name]
                    known |= _planned(_untrained(config), interval, known)
            except LlmopsError as error:
                found[name] = error
    return found


def _planned(untrained: Config, interval: str, done: Mapping[str, Path]) -> dict[str, Path]:
    """The release of the base, if it is made."""
    made = {name: path for name, path in done.items() if name not in AGAIN}
    for name in AGAIN:
        todo = plan(name, untrained, interval, made)
        if not todo.done:
            return {}
        made[name] = todo.path
    return {"release": made["release"]}


def _applies(config: Config, done: Mapping[str, Path]) -> bool:
    """Whether a trained candidate was compared with the base and not promoted, and documents may do better."""
    if not (config.train.enabled and config.grounding.enabled and (done["train"] / "adapter").is_dir()):
        return False
    decision = _decision(done)
    if decision["opponent"] != BASE or decision["outcome"] == "promoted":
        return False
    champion = registry_of(config).champion()
    return champion is None or not champion.adapter.is_dir()  # else somebody has promoted one since


def _decision(done: Mapping[str, Path]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((done["release"] / "decision.json").read_text(encoding="utf-8"))
    return found


def _untrained(config: Config) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update={"enabled": False})})

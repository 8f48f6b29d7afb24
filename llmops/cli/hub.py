"""The Hub part of `llmops models`: push, check, and a reminder after an alias was moved."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from llmops.cli.command import who
from llmops.config import Config
from llmops.release.registry.registry import Registry


def push(settings: Config, registry: Registry, *, check: bool, as_json: bool) -> int:
    """Make the Hub equal to the registry, or with `check` only compare. Return 1 if it differs afterwards."""
    from llmops.release.push_to_hub import dataset, sync

    hub, events, states = settings.push_to_hub, settings.events, dict[str, dict[str, Any]]()
    if hub.repo or not hub.dataset:
        states["model"] = sync.read_state(registry, hub) if check else sync.push(registry, hub, events, by=who())
    if hub.dataset:
        root = settings.artifacts
        states["dataset"] = (
            dataset.read_state(registry, root, hub) if check else dataset.push(registry, root, hub, events, by=who())
        )
    if as_json:
        print(json.dumps(states.get("model", {}) | {key: state for key, state in states.items() if key == "dataset"}))
    else:
        for state in states.values():
            _tell(state, "examples" if state is states.get("dataset") else "model")
    return 0 if all(state["equal"] for state in states.values()) else 1


def _tell(state: Mapping[str, Any], what: str) -> None:
    print(f"main of {state['repo']}: {state['main'] or f'no {what}'}; champion: {state['champion'] or 'none'}")
    for word in ("pushed", "behind"):
        if state.get(word):
            print(f"{word}: {', '.join(state[word])}")


def remind(settings: Config) -> None:
    """Print a reminder that the Hub does not follow an alias moved by hand."""
    if repos := [repo for repo in (settings.push_to_hub.repo, settings.push_to_hub.dataset) if repo]:
        print(
            f"{' and '.join(repos)} on the Hub has not followed: `llmops models push` brings it along, or the "
            "pipeline's next run.",
            file=sys.stderr,
        )

"""The Hub part of `llmops models`: push, check, and a reminder after an alias was moved."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from llmops.cli.command import get_user
from llmops.config import Config
from llmops.release.registry.registry import Registry


def push(settings: Config, registry: Registry, *, check: bool, as_json: bool) -> int:
    """Make the Hub equal to the registry, or with `check` only compare. Return 1 if it differs afterwards."""
    from llmops.release.push_to_hub import dataset, sync

    hub, events, states = settings.push_to_hub, settings.events, dict[str, dict[str, Any]]()
    if hub.repo or not hub.dataset:
        states["model"] = sync.read_state(registry, hub) if check else sync.push(registry, hub, events, by=get_user())
    if hub.dataset:
        root = settings.artifacts
        if check:
            states["dataset"] = dataset.read_state(registry, root, hub)
        else:
            states["dataset"] = dataset.push(registry, root, hub, events, by=get_user())
    if as_json:
        print(json.dumps(states.get("model", {}) | {key: state for key, state in states.items() if key == "dataset"}))
    else:
        for state in states.values():
            _print_state(state, "examples" if state is states.get("dataset") else "model")
    return 0 if all(state["equal"] for state in states.values()) else 1


def _print_state(state: Mapping[str, Any], noun: str) -> None:
    print(f"main of {state['repo']}: {state['main'] or f'no {noun}'}; champion: {state['champion'] or 'none'}")
    for word in ("pushed", "behind"):
        if state.get(word):
            print(f"{word}: {', '.join(state[word])}")


def remind(settings: Config) -> None:
    """Print a reminder that the Hub does not follow an alias moved by hand."""
    if repos := [repo for repo in (settings.push_to_hub.repo, settings.push_to_hub.dataset) if repo]:
        print(
            f"{' and '.join(repos)} on the Hub is not updated: `llmops models push` updates it, or the pipeline's next "
            "run.",
            file=sys.stderr,
        )

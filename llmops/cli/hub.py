"""The Hub part of `llmops models`: push, check, and a reminder after an alias was moved."""

import json
import sys

from llmops.cli.command import get_user
from llmops.cli.output import print_line
from llmops.config import Config
from llmops.release.registry.registry import Registry


def push(settings: Config, registry: Registry, *, check: bool, as_json: bool) -> int:
    """Put the champion on the Hub, or with `check` only compare. Return 1 if the Hub differs afterwards."""
    from llmops.release.push_to_hub import sync

    hub = settings.push_to_hub
    state = sync.read_state(registry, hub) if check else sync.push(registry, hub, settings.events, by=get_user())
    if as_json:
        print_line(json.dumps(state))
    else:
        print_line(f"main of {state['repo']}: {state['main'] or 'no model'}; champion: {state['champion'] or 'none'}")
        for word in ("pushed", "behind"):
            if state.get(word):
                print_line(f"{word}: {', '.join(state[word])}")
    return 0 if state["equal"] else 1


def remind(settings: Config) -> None:
    """Print a reminder that the Hub does not follow an alias moved by hand."""
    if repo := settings.push_to_hub.repo:
        print_line(
            f"{repo} on the Hub is not updated: `llmops models push` updates it, or the pipeline's next run.",
            to=sys.stderr,
        )

"""The stage push_to_hub: copies the champion to the Hub (`sync`).

    python -m llmops run push_to_hub

The result lives on the Hub and follows the registry's aliases, which change between runs. A finished artifact therefore
proves nothing: `is_current` asks the Hub at every run.
"""

import json
from pathlib import Path
from typing import Any

from llmops.config import PushToHub
from llmops.frame.artifacts import write_json
from llmops.release.push_to_hub import sync
from llmops.release.registry.registry import Registry
from llmops.state.database import database_at


def run(
    config: PushToHub, *, release: Path, deploy: Path, events: Path, registry: Path, database: str, out: Path
) -> dict[str, Any]:
    """Push, and write `push.json`: repository, version on `main` and pushed refs.

    If no repository is configured, `push.json` says so. `deploy` must have proved that the champion answers.

    Raises:
        RegistryError: if there is no token, the Hub refuses, or the repository has content of other origin.
    """
    state: dict[str, Any] = {"state": "pushed" if config.repo else "no repository"}
    if config.repo:
        state |= sync.push(_open_registry(release, registry, database), config, events, by="pipeline")
    write_json(out / "push.json", state)
    return state


def is_current(
    config: PushToHub, *, release: Path, deploy: Path, events: Path, registry: Path, database: str, out: Path
) -> bool:
    """Return True if the Hub still has the champion, or no repository is configured."""
    return not config.repo or bool(sync.read_state(_open_registry(release, registry, database), config)["equal"])


def _open_registry(release: Path, folder: Path, database: str) -> Registry:
    decision = json.loads((release / "decision.json").read_text(encoding="utf-8"))
    return Registry(folder, str(decision["model"]), database_at(database))

"""Versions as the gate publishes them, and a registry of two that it has passed."""

import json
from pathlib import Path

from llmops.config import Config
from llmops.release.registry.registry import Registry, registry_of

FACTS = ("compared_with", "base_model", "base_revision", "licence", "quantisation", "interval", "run", "dataset")


def facts(**known: str) -> dict[str, str]:
    """Return what is known of a version."""
    return {**dict.fromkeys(FACTS, "x"), "status": "promoted", **known}


def put_version(config: Config, name: str = "v1", **known: str) -> Path:
    """Put a version where the registry keeps them, and tell its database nothing; returns the folder."""
    path = config.registry / config.release.name / "versions" / name
    (path / "servable").mkdir(parents=True)
    (path / "version.json").write_text(json.dumps(facts(**{"name": name, "compress": "x", "created": "x", **known})))
    return path


def two_versions(config: Config) -> Registry:
    """Return a registry where v1 is the champion; v2 has passed the gate, too, but did not become it."""
    registry, servable = registry_of(config), config.home / "servable"
    servable.mkdir()
    for n in (1, 2):
        known = facts(status="rejected", compress=f"c{n}")
        version = registry.publish(known, {"servable": servable}, lambda v: {}, by="test", why="too few")
        registry.decide(version.name, "gate", "promoted", by="test", why="passed")
    registry.promote("v1")
    return registry

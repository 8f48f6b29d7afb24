"""A registry of two versions that the gate has passed."""

from __future__ import annotations

from llmops.config import Config
from llmops.registry.registry import Registry, registry_of

FACTS = ("base_model", "base_revision", "licence", "quantisation", "interval", "run", "dataset")


def two_versions(config: Config) -> Registry:
    """Return a registry where v1 is the champion; v2 has passed the gate, too, but did not become it."""
    registry, servable = registry_of(config), config.home / "servable"
    servable.mkdir()
    for n in (1, 2):
        facts = dict.fromkeys((*FACTS, "compared_with"), "x") | {"status": "rejected", "compress": f"c{n}"}
        version = registry.publish(facts, {"servable": servable}, lambda v: {}, by="test", why="too few")
        registry.decide(version.name, "gate", "promoted", by="test", why="passed")
    registry.promote("v1")
    return registry

"""The aliases of a registry and their history: one file, replaced atomically, and one line for every change.

`aliases.json` maps an alias to a version; `canary` to an object with its version, share and start, so that a canary and
its share are never read half. Whoever calls `move` holds the registry's lock; readers need none.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmops.artifacts import write_json
from llmops.errors import RegistryError

log = logging.getLogger(__name__)

CANARY = "canary"

Entries = Mapping[str, Any]  #: what `aliases.json` holds


@dataclass(frozen=True, slots=True)
class Canary:
    """A version that answers a share of the callers, beside the champion."""

    version: str
    share: float  #: of the callers, above 0 and below 1
    started: str  #: ISO time, UTC, with microseconds: names this trial


def read(folder: Path) -> dict[str, Any]:
    """The content of `aliases.json`; empty before anything is published.

    Raises:
        RegistryError: if it is damaged.
    """
    path = folder / "aliases.json"
    try:
        entries: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        canary(entries)
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise RegistryError(f"{path} is damaged ({error}); restore it from the last line of history.jsonl.") from error
    return entries


def names(entries: Entries) -> dict[str, str]:
    """Alias → version."""
    return {alias: value["version"] if alias == CANARY else value for alias, value in entries.items()}


def canary(entries: Entries) -> Canary | None:
    """The canary, if there is one."""
    return Canary(**entries[CANARY]) if CANARY in entries else None


def with_canary(entries: Entries, trial: Canary | None) -> dict[str, Any]:
    """The entries with this canary, or without any."""
    others = {alias: value for alias, value in entries.items() if alias != CANARY}
    return {**others, CANARY: asdict(trial)} if trial else others


def history(folder: Path) -> list[dict[str, Any]]:
    """Every change, oldest first: time, by, why, the entries after it, and the numbers of a decision."""
    path = folder / "history.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def move(
    folder: Path, before: Entries, after: Entries, by: str, why: str, numbers: Mapping[str, Any] | None = None
) -> None:
    """Replace the entries, if they change, and write down who did it and why.

    A canary is compared with one champion: another champion ends it.
    """
    if before.get("champion") != after.get("champion"):
        after = with_canary(after, None)
    if before == after:
        return
    write_json(folder / "aliases.json", after)
    entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "by": by, "why": why, "aliases": after}
    if numbers:
        entry["numbers"] = numbers
    with open(folder / "history.jsonl", "a", encoding="utf-8") as handle:
        handle.write(json.dumps(entry, ensure_ascii=False) + "\n")
        handle.flush()
        os.fsync(handle.fileno())
    log.info("%s: aliases are now %s (%s, %s)", folder.name, after, by, why)

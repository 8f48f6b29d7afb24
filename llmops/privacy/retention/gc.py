"""Remove what nothing needs any more: `llmops gc`, and the last task of the daily run.

    llmops gc --dry-run

`plan` decides. No stage may run meanwhile; those that begin wait, for seconds. It may be killed at any moment, and the
next one goes on.
"""

import logging
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from llmops.config import Config
from llmops.events.datasets import RETENTION
from llmops.events.events import emit
from llmops.events.kept_texts import prune_texts
from llmops.events.sinks.local import LocalStore
from llmops.pipeline import sameness
from llmops.privacy.retention import plan, removal
from llmops.privacy.retention.plan import Item, Plan
from llmops.release.registry.registry import Registry
from llmops.state.database import database_of

log = logging.getLogger(__name__)


def gc(config: Config, *, by: str = "", dry_run: bool = False, now: datetime | None = None) -> Plan:
    """Remove the data that the section `retention` does not keep, or with `dry_run` only plan it; return the plan.

    Raises:
        HomeInUse: if a stage is running.
        LlmopsError: if an erasure was interrupted.
    """
    sameness.check_erased(config)
    if dry_run:
        return plan.make(config, now)
    if (config.events / "store.db").is_file():
        LocalStore(config.events, config.monitoring).prune(now)  # deliveries prune, too; this is for when none come
    with removal.alone(config):
        removal.finish(config)
        made = plan.make(config, now)
        when = datetime.now(UTC).isoformat(timespec="seconds")
        for item in made.going:
            log.info("removing %s %s: %s", item.kind, item.name, item.why)
            _remove(config, item, by, when)
        removal.finish(config)
    prune_texts(config.events, config.monitoring.keep_text_days, now)  # where no app runs that would do it
    if made.going:
        _announce(config, made, by)
    return made


def _remove(config: Config, item: Item, by: str, when: str) -> None:
    if item.kind in ("artifact", "unfinished"):
        removal.remove(item.paths[0], when)
    elif item.kind == "version":
        registry = Registry(config.registry, item.model, database_of(config))
        names, path = [tree.name for tree in item.paths], item.paths[0].parent
        registry.retire(item.name, names, removal.trash(path), by=by, why=item.why)
    else:
        for path in item.paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            _remove_empty(path.parent, config)


def _remove_empty(folder: Path, config: Config) -> None:
    ends = {config.home, config.collect.cache, config.registry, config.home / "logs", config.home / "airflow"}
    with suppress(OSError):  # one that still holds something
        while folder not in ends:
            folder.rmdir()
            folder = folder.parent


def _announce(config: Config, made: Plan, by: str) -> None:
    kinds = [item.kind for item in made.going]
    fields = {
        "event.action": "gc",
        "event.outcome": "success",
        "user.name": by,
        "llmops.retention.freed": made.frees,
        "llmops.retention.artifacts": kinds.count("artifact"),
        "llmops.retention.versions": [f"{item.model} {item.name}" for item in made.going if item.kind == "version"],
    }
    emit(config.events, RETENTION, fields)

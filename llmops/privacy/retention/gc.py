"""Remove data that nothing needs any more: `llmops gc`, and the last task of the daily run.

    llmops gc --dry-run

`plan` decides. No stage may run meanwhile; stages that begin wait for seconds. After a kill at any moment, the next
removal continues.
"""

import logging
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from llmops.config import Config
from llmops.events.datasets import RETENTION
from llmops.events.events import emit
from llmops.events.sinks.local import LocalStore
from llmops.events.text_pruning import prune_texts
from llmops.pipeline import stage_inputs
from llmops.privacy.retention import plan, removal
from llmops.privacy.retention.plan import DataItem, RemovalPlan
from llmops.release.registry.registry import Registry
from llmops.state.database import database_of

log = logging.getLogger(__name__)


def collect_garbage(config: Config, *, by: str = "", dry_run: bool = False, now: datetime | None = None) -> RemovalPlan:
    """Remove the data that the section `retention` does not keep, or with `dry_run` only plan it; return the plan.

    Raises:
        HomeInUse: if a stage is running.
        LlmopsError: if an erasure was interrupted.
    """
    stage_inputs.check_no_erasure(config)
    if dry_run:
        return plan.make_plan(config, now)
    if (config.events / "store.db").is_file():
        LocalStore(config.events, config.monitoring).prune(now)  # deliveries prune, too, if there are any
    with removal.lock_home(config):
        removal.finish(config)
        found = plan.make_plan(config, now)
        when = datetime.now(UTC).isoformat(timespec="seconds")
        for item in found.removals:
            log.info("removing %s %s: %s", item.kind, item.name, item.why)
            _remove(config, item, by, when)
        removal.finish(config)
    prune_texts(config.events, config.monitoring.keep_text_days, now)  # the app does it, too, if one runs
    if found.removals:
        _emit_removal(config, found, by)
    return found


def _remove(config: Config, item: DataItem, by: str, when: str) -> None:
    if item.kind in ("artifact", "unfinished"):
        removal.remove(item.paths[0], when)
    elif item.kind == "version":
        registry = Registry(config.registry, item.model, database_of(config))
        names, path = [tree.name for tree in item.paths], item.paths[0].parent
        registry.retire(item.name, names, removal.get_trash_path(path), by=by, why=item.why)
    else:
        for path in item.paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            _remove_empty(path.parent, config)


def _remove_empty(folder: Path, config: Config) -> None:
    ends = {config.home, config.collect.cache, config.registry, config.home / "logs", config.home / "airflow"}
    with suppress(OSError):  # the folder is not empty
        while folder not in ends:
            folder.rmdir()
            folder = folder.parent


def _emit_removal(config: Config, done: RemovalPlan, by: str) -> None:
    kinds = [item.kind for item in done.removals]
    fields = {
        "event.action": "gc",
        "event.outcome": "success",
        "user.name": by,
        "llmops.retention.freed": done.freed_bytes,
        "llmops.retention.artifacts": kinds.count("artifact"),
        "llmops.retention.versions": [f"{item.model} {item.name}" for item in done.removals if item.kind == "version"],
    }
    emit(config.events, RETENTION, fields)

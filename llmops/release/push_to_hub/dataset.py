"""The push of the annotated set: a data set repository of the Hub with the champion's training examples and a card.

    main    the champion's examples, for `datasets.load_dataset`; empty while there is no champion
    tag v3  the examples of version v3 when they were first pushed; a tag never moves

The rules of the model's push apply (see `sync`): a change is one atomic commit, nothing of other origin is overwritten,
and the next push continues where it stopped. Only versions that were champion have examples there. The frozen test is
pushed only if configured, and no data whose licence forbids passing it on.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from jinja2 import UndefinedError

from llmops.config import PushToHub
from llmops.events.datasets import HUB_DATASET
from llmops.events.events import emit
from llmops.frame import artifacts
from llmops.frame.errors import ArtifactError, RegistryError
from llmops.frame.records import split_licences
from llmops.release.lineage import read_lineage
from llmops.release.push_to_hub import dataset_card, sync
from llmops.release.push_to_hub.hub import MAIN, Content, Hub
from llmops.release.push_to_hub.ownership import VERSION_FILE, check_ownership
from llmops.release.registry.registry import Registry
from llmops.release.registry.version import Version

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")


def push(registry: Registry, root: Path, config: PushToHub, events: Path, *, by: str) -> dict[str, Any]:
    """Make the repository hold the champion's examples. Return the state as from `read_state`, and the refs `pushed`.

    Raises:
        RegistryError: if there is no token, the Hub refuses, the repository has content of other origin, the examples
            are gone or damaged, or a source may not be passed on. Nothing was changed then.
    """
    hub, pushed = Hub(config.dataset, "dataset"), list[str]()
    _find_differences(registry, root, config, hub, update=False)  # raises refusals before a repository is created
    for changed in hub.run_passes(
        lambda: _find_differences(registry, root, config, hub, update=True), create_private=config.private
    ):
        pushed += changed
        state = {**sync.describe_state(registry, hub, changed), "pushed": pushed}
        if state["equal"]:
            break
    fields = {f"llmops.hub.{name}": value for name, value in state.items()}
    emit(events, HUB_DATASET, {"event.action": "push", "event.outcome": "success", "user.name": by, **fields})
    return state


def read_state(registry: Registry, root: Path, config: PushToHub) -> dict[str, Any]:
    """Return the repository's state: `repo`, `endpoint`, `main` (whose examples), `champion`, `behind`, `equal`.

    Raises:
        RegistryError: like `push`.
    """
    hub = Hub(config.dataset, "dataset")
    return sync.describe_state(registry, hub, _find_differences(registry, root, config, hub, update=False))


def _find_differences(registry: Registry, root: Path, config: PushToHub, hub: Hub, *, update: bool) -> list[str]:
    """Return the branches and tags that differ. With `update`, update them, too."""
    # Read the refs before the registry: if another process then pushes a later champion, our commits have a stale
    # parent and are refused.
    branches, tags = hub.list_refs()
    champion = registry.aliases().get("champion", "")
    main, head = hub.list_files(branches[MAIN]) if MAIN in branches else {}, branches.get(MAIN, "")
    check_ownership(hub, registry, head, main, tags, sync.read_versions(registry)[0])
    different, files = list[str](), dict[str, Content]()
    if champion:
        version = registry.get(champion)
        lost = not artifacts.is_done(_find_annotate(version, root))
        if lost and (version.erasures or not version.dataset):  # erased, or nothing was trained: empty the repository
            files = {VERSION_FILE: version.path / VERSION_FILE}
        elif lost and sync.has_version(main, {VERSION_FILE: version.path / VERSION_FILE}):
            log.info("the examples of %s are not on this machine any more; %s keeps them", champion, config.dataset)
            return []
        else:
            files = collect_files(version, root, config, sync.find_overrides(registry).get(champion, ""))
    if champion or VERSION_FILE in main:
        added, removed = sync.diff_files(main, files, known=False)
        if added or removed:
            different.append(MAIN)
            message = f"examples of {champion}" if champion else "there is no champion"
            head = hub.commit(MAIN, head, added, removed, message) if update else head
    if champion and champion not in tags:
        different.append(champion)
        if update:
            hub.create_tag(champion, head)
    return different


def collect_files(version: Version, root: Path, config: PushToHub, override: str = "") -> dict[str, Content]:
    """Return the repository's files for a version's examples, by path.

    `override` is the reason if it was made champion against the gate.

    Raises:
        RegistryError: if the examples are gone or damaged or may not be passed on, or the card cannot be written.
    """
    try:
        sync.check_status(version)
        annotate = _find_annotate(version, root)
        paths = _check_splits(annotate, SPLITS if config.dataset_test else SPLITS[:-1])
        _check_licences(paths, config)
        card = dataset_card.render(version, config.dataset, annotate, paths, override)
    except ArtifactError as error:
        raise RegistryError(f"The examples of {version.name} cannot be pushed: {error}") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, UndefinedError) as error:
        raise RegistryError(
            f"The card of the examples of {version.name} cannot be written, because decision.json or lineage.json in "
            f"{version.path} or a record is damaged ({error!r}); restore it."
        ) from error
    files: dict[str, Content] = {f"data/{split}-00000-of-00001.parquet": path for split, path in paths.items()}
    return {**files, VERSION_FILE: version.path / VERSION_FILE, "README.md": card.encode()}


def _find_annotate(version: Version, root: Path) -> Path:
    return root / str(read_lineage(version)["dataset"]["artifact"])


def _check_splits(annotate: Path, splits: tuple[str, ...]) -> dict[str, Path]:
    """Return the files of the splits that have examples. Raise `ArtifactError` if one differs from its record."""
    record = artifacts.read_record(annotate)
    paths = {split: annotate / f"{split}.parquet" for split in splits}
    for path in paths.values():
        if not path.is_file() or artifacts.compute_sha256(path) != record.files.get(path.name):
            raise ArtifactError(f"{path} is missing or was changed; delete {annotate} and run annotate again.")
    return {split: path for split, path in paths.items() if pq.read_metadata(path).num_rows}


def _check_licences(paths: Mapping[str, Path], config: PushToHub) -> None:
    """Raise if a source may not be passed on: a publication cannot be undone."""
    allowed = {name.casefold() for name in config.dataset_licences} - {""}
    refused: Counter[tuple[str, str]] = Counter()
    for path in paths.values():
        for row in dataset_card.count_rows(path, ["source", "licence"]):
            for licence in split_licences(row["licence"]):
                if licence.casefold() not in allowed:
                    refused[row["source"], licence] += row["rows"]
    if refused:
        named = ", ".join(
            f"{source} ({licence or 'no licence'}, {rows} examples)"
            for (source, licence), rows in sorted(refused.items())
        )
        raise RegistryError(
            f"Nothing is pushed to {config.dataset}, because these sources may not be passed on: {named}. Leave them "
            "out of the collection, set their `licence` in collect.sources, or, if you may, add the licence to "
            "push_to_hub.dataset_licences."
        )

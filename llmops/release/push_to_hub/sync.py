"""The push of the registry to a Hub repository: the champion, and no other model, is on `main` at any time.

    main             the champion; no model while there is none
    tag v3           version v3 when it was first pushed; a tag never moves
    branch v3.x      version v3 with later changes of its card, such as an erasure

The branch is named like a maintenance branch, because Git finds a branch and a tag of one name ambiguous. The order is
the champion's branch, its tag, `main`, then branch and tag of every other version. Each change is one atomic commit. A
failure therefore leaves a whole `main`, the next push continues from there, and a version that cannot be pushed does
not block the others. A commit names its parent: if two processes push at once, one is refused and reads again.

If a registry does not know the version on `main` (because its home or database is another one), nothing is changed.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.utils.sha import git_hash
from jinja2 import UndefinedError

from llmops.config import PushToHub
from llmops.events.datasets import HUB
from llmops.events.events import emit
from llmops.frame.artifacts import compute_sha256
from llmops.frame.errors import HubUnavailableError, RegistryError
from llmops.release.card import render_for_hub
from llmops.release.push_to_hub.hub import MAIN, Content, File, Hub
from llmops.release.push_to_hub.ownership import (
    PATHS_NEVER_DELETED,
    VERSION_FILE,
    check_ownership,
    matches_any,
    read_held_version,
)
from llmops.release.registry.registry import Registry
from llmops.release.registry.version import Version, read_version

log = logging.getLogger(__name__)

#: files of a version that are pushed; test items (`answers.parquet`) and feature stores (`features/`) stay
_FILES = (VERSION_FILE, "lineage.json", "evaluation.json", "governance.json", "decision.json", "compression.json")
_FOLDERS = ("adapter", "servable")


def push(registry: Registry, config: PushToHub, events: Path, *, by: str) -> dict[str, Any]:
    """Make the repository equal to the registry. Return the state as from `read_state`, and the refs `pushed`.

    It works in passes: each compares all refs and updates those that differ. The last one finds none. `Hub.run_passes`
    creates the repository if it is missing, and begins another pass if another process has pushed meanwhile.

    Raises:
        RegistryError: if there is no token, the Hub refuses, the repository has content that this registry does not
            know, or a version could not be pushed (the others then were).
    """
    hub, pushed = _open_hub(config), list[str]()
    passes = hub.run_passes(lambda: _find_differences(registry, hub, update=True), create_private=config.private)
    for changed, failed in passes:
        pushed += changed
        # Refs that this pass changed count as behind until a pass changes none. Failed versions are behind by name.
        behind = [*(failed or changed)]
        state = {**describe_state(registry, hub, behind), "pushed": pushed}
        if failed:
            _announce(events, state, by, "failure")
            raise _make_error(config.repo, failed)
        if state["equal"]:
            _announce(events, state, by, "success")
            break
    return state


def read_state(registry: Registry, config: PushToHub) -> dict[str, Any]:
    """Return the repository's state: `repo`, `endpoint`, `main` (its version), `champion`, `behind`, `equal`.

    `behind` lists the branches and tags that a push would change. `equal` means that nothing is behind.

    Raises:
        RegistryError: like `push`.
    """
    hub = _open_hub(config)
    behind, failed = _find_differences(registry, hub, update=False)
    if failed:
        raise _make_error(config.repo, failed)
    return describe_state(registry, hub, behind)


def _open_hub(config: PushToHub) -> Hub:
    if not config.repo:
        raise RegistryError("Nothing is pushed: push_to_hub.repo names no Hub repository.")
    return Hub(config.repo)


def _find_differences(registry: Registry, hub: Hub, *, update: bool) -> tuple[list[str], dict[str, str]]:
    """Return the branches and tags that differ, and version → error. With `update`, update them, too."""
    # Read the refs before the registry: if another process then pushes a later champion, our commits have a stale
    # parent and are refused.
    branches, tags = hub.list_refs()
    champion = registry.aliases().get("champion", "")
    known, failed = read_versions(registry)
    versions = sorted((v for v in known if v.servable.is_dir()), key=lambda version: version.name != champion)
    if champion and champion not in {version.name for version in versions} | failed.keys():
        raise RegistryError(f"{champion} is champion and has no model in {registry.folder}; restore it.")
    main = hub.list_files(branches[MAIN]) if MAIN in branches else {}
    check_ownership(hub, registry, branches.get(MAIN, ""), main, tags, known)
    different, overrides = list[str](), find_overrides(registry)

    def update_branch(
        branch: str, head: str, pushed: Mapping[str, File], files: Mapping[str, Content], message: str
    ) -> str:
        added, removed = diff_files(pushed, files, known=has_version(pushed, files))
        if not added and not removed:
            return head
        different.append(branch)
        return hub.commit(branch, head, added, removed, message) if update else head

    def update_version(version: Version) -> None:
        branch, files = f"{version.name}.x", collect_files(version, hub.repo, overrides.get(version.name, ""))
        message = f"{version.name}: {version.status} against {version.compared_with or 'another champion'}"
        if branch in branches or update:
            head = branches.get(branch) or hub.create_branch(branch)
            head = update_branch(branch, head, hub.list_files(head), files, message)
        else:
            head = ""
            different.append(branch)
        if version.name not in tags:
            different.append(version.name)
            if update:
                hub.create_tag(version.name, head)
        if version.name == champion:
            update_branch(MAIN, branches.get(MAIN, ""), main, files, f"{version.name} is champion")

    if VERSION_FILE in main and not champion:  # an older release of this software put other versions on `main`, too
        update_branch(MAIN, branches[MAIN], main, {}, "there is no champion")
    for version in versions:
        try:
            update_version(registry.get(version.name))  # read again: the gate may have decided meanwhile
        except HubUnavailableError:  # the other versions would fail, too
            raise
        except RegistryError as error:
            failed[version.name] = str(error)
    return different, failed


def read_versions(registry: Registry) -> tuple[list[Version], dict[str, str]]:
    """Return the versions, oldest first, and name → error of the unreadable ones."""
    versions, failed = list[Version](), dict[str, str]()
    for name in registry.names():
        try:
            versions.append(registry.get(name))
        except RegistryError as error:
            failed[name] = str(error)
    return versions, failed


def collect_files(version: Version, repo: str, override: str = "") -> dict[str, Content]:
    """Return the repository's files for a version, by path.

    `override` is the reason if it was made champion against the gate.

    Raises:
        RegistryError: if a file for its card is missing or damaged, or the files contradict the gate's last decision.
    """
    check_status(version)
    files: dict[str, Content] = {name: version.path / name for name in _FILES if (version.path / name).is_file()}
    for folder in _FOLDERS:
        paths = (path for path in (version.path / folder).rglob("*") if path.is_file())
        files |= {path.relative_to(version.path).as_posix(): path for path in paths}
    try:
        card = render_for_hub(version, repo, override)
    except OSError as error:
        raise RegistryError(f"{error.filename} cannot be read ({error.strerror}); restore it.") from error
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration, UndefinedError) as error:
        raise RegistryError(
            f"README.md, lineage.json or servable/tokenizer_config.json in {version.path} is damaged ({error!r}); "
            "restore it."
        ) from error
    return {**files, "README.md": card.encode()}


def check_status(version: Version) -> None:
    """Check that a version's files agree with the gate's last decision.

    Raises:
        RegistryError: if they do not.
    """
    if (status := read_version(version.path).status) != version.status:
        raise RegistryError(
            f"its files say {status}, but the gate's last decision is {version.status}, because its publication was "
            "interrupted; run the stage release again."
        )


def diff_files(
    pushed: Mapping[str, File], files: Mapping[str, Content], *, known: bool
) -> tuple[dict[str, Content], list[str]]:
    """Return the files to add or replace and the paths to delete, to turn the `pushed` files into `files`.

    If the version is `known` to be the same, its large files are compared by size only.
    """
    added = {path: content for path, content in files.items() if not _is_same(pushed.get(path), content, known)}
    return added, sorted(path for path in pushed.keys() - files.keys() if not matches_any(path, PATHS_NEVER_DELETED))


def has_version(pushed: Mapping[str, File], files: Mapping[str, Content]) -> bool:
    """Return True if a commit has the files of this version, by its `version.json`."""
    return VERSION_FILE in files and _is_same(pushed.get(VERSION_FILE), files[VERSION_FILE], known=False)


def _is_same(pushed: File | None, content: Content, known: bool) -> bool:
    """Return True if both files are equal. A large file of a `known` version is compared by size."""
    if pushed is None:
        return False
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if pushed.size != size:
        return False
    if not pushed.sha256:
        return pushed.blob == git_hash(content if isinstance(content, bytes) else content.read_bytes())
    return known or (isinstance(content, Path) and pushed.sha256 == compute_sha256(content))


def find_overrides(registry: Registry) -> dict[str, str]:
    """Return version → reason, for versions that were made champion against the gate."""
    return {
        decision["version"]: str(decision["why"])
        for decision in registry.decisions()
        if (decision["kind"], decision["outcome"]) == ("override", "champion")
    }


def _make_error(repo: str, failed: Mapping[str, str]) -> RegistryError:
    return RegistryError(
        f"{repo} could not be brought fully up to date: " + "; ".join(f"{name}: {why}" for name, why in failed.items())
    )


def describe_state(registry: Registry, hub: Hub, behind: list[str]) -> dict[str, Any]:
    """Return the state of a repository, as `read_state` describes it. `behind` are the differing refs."""
    branches, _ = hub.list_refs()
    main = hub.list_files(branches[MAIN]) if MAIN in branches else {}
    name = str(read_held_version(hub, branches[MAIN]).get("name")) if VERSION_FILE in main else ""
    champion = registry.aliases().get("champion", "")
    return {
        "repo": hub.repo,
        "endpoint": hub.endpoint,
        "main": name,
        "champion": champion,
        "behind": behind,
        "equal": not behind and name == champion,
    }


def _announce(events: Path, state: Mapping[str, Any], by: str, outcome: str) -> None:
    fields = {f"llmops.hub.{name}": value for name, value in state.items()}
    emit(events, HUB, {"event.action": "push", "event.outcome": outcome, "user.name": by, **fields})

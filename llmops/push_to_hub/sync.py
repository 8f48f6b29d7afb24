"""Make a Hub repository equal to the registry: the champion on `main`, and no other model there, not for a moment.

    main             the champion, and only the champion; no model while there is none
    tag v3           the version v3 as it was pushed first: a tag never moves
    branch v3.x      the version v3 with what its card was told since, such as an erasure

The branch is named like a maintenance branch, since a branch and a tag of one name are ambiguous to Git. The order is
the champion's branch, its tag and `main`, then branch and tag of every other version; each change is one atomic
commit. So a failure anywhere leaves a whole `main`, doing it again goes on from there, and a version that cannot be
pushed keeps no other back. A commit names the one that it follows: of two that push at the same time, one is refused
and reads anew.

A registry that does not know what is on `main`, since its home or its database is another one, changes nothing there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.utils.sha import git_hash
from jinja2 import UndefinedError

from llmops.artifacts import file_sha256
from llmops.config import PushToHub
from llmops.errors import HubUnavailableError, RegistryError
from llmops.monitoring.datasets import HUB
from llmops.monitoring.events import emit
from llmops.push_to_hub.hub import MAIN, Content, File, Hub
from llmops.push_to_hub.ours import KEPT, VERSION, among, check_ours, held_at
from llmops.registry.registry import Registry
from llmops.registry.version import Version, read_version
from llmops.release.card import for_hub

log = logging.getLogger(__name__)

#: What of a version leaves home. Test items with their texts (`answers.parquet`) and stores (`features/`) do not.
_FILES = (VERSION, "lineage.json", "evaluation.json", "governance.json", "decision.json", "compression.json")
_FOLDERS = ("adapter", "servable")


def push(registry: Registry, config: PushToHub, events: Path, *, by: str) -> dict[str, Any]:
    """Make the repository equal to the registry; returns what `look` does, and which refs were `pushed`.

    Args:
        registry: what the repository is to hold.
        config: names the repository.
        events: the events folder, for the event `llmops.hub`.
        by: who does it, for the event.

    Raises:
        RegistryError: if there is no token, the Hub refuses, it holds what this registry does not know, or a version
            could not be pushed; the others then were.
    """
    hub, pushed = _hub(config), list[str]()
    for changed, failed in hub.rounds(config.private, lambda: _compare(registry, hub, change=True)):
        pushed += changed
        state = {**state_of(registry, hub, [*(failed or changed)]), "pushed": pushed}
        if failed:
            _announce(events, state, by, "failure")
            raise _not_all(config.repo, failed)
        if state["equal"]:
            _announce(events, state, by, "success")
            break
    return state


def look(registry: Registry, config: PushToHub) -> dict[str, Any]:
    """What the repository holds: `repo`, `endpoint`, `main` (its version), `champion`, `behind`, `equal`.

    `behind` names the branches and tags that a push would change; `equal` is that nothing is behind.

    Raises:
        RegistryError: as `push` does.
    """
    hub = _hub(config)
    behind, failed = _compare(registry, hub, change=False)
    if failed:
        raise _not_all(config.repo, failed)
    return state_of(registry, hub, behind)


def _hub(config: PushToHub) -> Hub:
    """The configured repository, asked with the environment's token.

    Raises:
        RegistryError: if one of the two is lacking.
    """
    if not config.repo:
        raise RegistryError("Nothing is pushed: push_to_hub.repo names no Hub repository.")
    return Hub(config.repo)


def _compare(registry: Registry, hub: Hub, *, change: bool) -> tuple[list[str], dict[str, str]]:
    """Go through all branches and tags; returns those that differ, after changing them if `change`, and version → why
    it cannot be pushed."""
    branches, tags = hub.refs()  # before the registry: whoever pushes a later champion then makes our commit fail
    champion = registry.aliases().get("champion", "")
    known, failed = read_versions(registry)
    versions = sorted((v for v in known if v.servable.is_dir()), key=lambda version: version.name != champion)
    if champion and champion not in {version.name for version in versions} | failed.keys():
        raise RegistryError(f"{champion} is champion and has no model in {registry.folder}; restore it.")
    main = hub.tree(branches[MAIN]) if MAIN in branches else {}
    check_ours(hub, registry, branches.get(MAIN, ""), main, tags, known)
    different, overrides = list[str](), champions_by_override(registry)

    def bring(branch: str, head: str, there: Mapping[str, File], files: Mapping[str, Content], message: str) -> str:
        added, gone = difference(there, files, known=holds(there, files))
        if not added and not gone:
            return head
        different.append(branch)
        return hub.commit(branch, head, added, gone, message) if change else head

    def bring_version(version: Version) -> None:
        branch, files = f"{version.name}.x", contents(version, hub.repo, overrides.get(version.name, ""))
        message = f"{version.name}: {version.status} against {version.compared_with or 'another champion'}"
        if branch in branches or change:
            head = branches.get(branch) or hub.branch(branch)
            head = bring(branch, head, hub.tree(head), files, message)
        else:
            head = ""
            different.append(branch)
        if version.name not in tags:
            different.append(version.name)
            if change:
                hub.tag(version.name, head)
        if version.name == champion:
            bring(MAIN, branches.get(MAIN, ""), main, files, f"{version.name} is champion")

    if VERSION in main and not champion:  # what was pushed before only champions were
        bring(MAIN, branches[MAIN], main, {}, "there is no champion")
    for version in versions:
        try:
            bring_version(registry.get(version.name))  # the gate may have another word on it since
        except HubUnavailableError:  # it will not take the others, either
            raise
        except RegistryError as error:
            failed[version.name] = str(error)
    return different, failed


def read_versions(registry: Registry) -> tuple[list[Version], dict[str, str]]:
    """The versions, oldest first, and those that cannot be read → why."""
    versions, failed = list[Version](), dict[str, str]()
    for name in registry.names():
        try:
            versions.append(registry.get(name))
        except RegistryError as error:
            failed[name] = str(error)
    return versions, failed


def contents(version: Version, repo: str, override: str = "") -> dict[str, Content]:
    """The files that the repository holds of a version, by path.

    Args:
        version: with its files.
        repo: the repository's name.
        override: why it was made champion though the gate had not passed it; empty if it was not.

    Raises:
        RegistryError: if a file is missing or damaged that its card is made of, or they tell something else than what
            the gate said last.
    """
    check_told(version)
    files: dict[str, Content] = {name: version.path / name for name in _FILES if (version.path / name).is_file()}
    for folder in _FOLDERS:
        found = (path for path in (version.path / folder).rglob("*") if path.is_file())
        files |= {path.relative_to(version.path).as_posix(): path for path in found}
    try:
        card = for_hub(version, repo, override)
    except OSError as error:
        raise RegistryError(f"{error.filename} cannot be read ({error.strerror}); restore it.") from error
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration, UndefinedError) as error:
        raise RegistryError(
            f"README.md, lineage.json or servable/tokenizer_config.json in {version.path} is damaged ({error!r}); "
            "restore it."
        ) from error
    return {**files, "README.md": card.encode()}


def check_told(version: Version) -> None:
    """Make sure that the files of a version tell what the gate said of it last.

    Raises:
        RegistryError: if they do not.
    """
    if (told := read_version(version.path).status) != version.status:
        raise RegistryError(
            f"its files say {told}, and it is {version.status} by the gate, as publishing it was cut off; run the "
            "stage release again."
        )


def difference(
    there: Mapping[str, File], here: Mapping[str, Content], *, known: bool
) -> tuple[dict[str, Content], list[str]]:
    """What has to be added or replaced, and what deleted, so that a commit's files become those that are here.

    Of a version that is `known` to be the same the large files do not change: their size is enough.
    """
    added = {path: content for path, content in here.items() if not _same(there.get(path), content, known)}
    return added, sorted(path for path in there.keys() - here.keys() if not among(path, KEPT))


def holds(there: Mapping[str, File], here: Mapping[str, Content]) -> bool:
    """Whether a commit's files are those of the same version, by its `version.json`."""
    return VERSION in here and _same(there.get(VERSION), here[VERSION], known=False)


def _same(there: File | None, here: Content, known: bool) -> bool:
    """Whether a file of the repository holds what is here; a large one that is `known` is judged by its size."""
    if there is None:
        return False
    size = len(here) if isinstance(here, bytes) else here.stat().st_size
    if there.size != size:
        return False
    if not there.sha256:
        return there.blob == git_hash(here if isinstance(here, bytes) else here.read_bytes())
    return known or (isinstance(here, Path) and there.sha256 == file_sha256(here))


def champions_by_override(registry: Registry) -> dict[str, str]:
    """Version → why it was last made champion though the gate had not passed it."""
    return {
        decision["version"]: str(decision["why"])
        for decision in registry.decisions()
        if (decision["kind"], decision["outcome"]) == ("override", "champion")
    }


def _not_all(repo: str, failed: Mapping[str, str]) -> RegistryError:
    return RegistryError(f"Not all of {repo} follows: " + "; ".join(f"{name}: {why}" for name, why in failed.items()))


def state_of(registry: Registry, hub: Hub, behind: list[str]) -> dict[str, Any]:
    """How a repository stands to the registry, when `behind` are the refs that differ: see `look`."""
    branches, _ = hub.refs()
    main = hub.tree(branches[MAIN]) if MAIN in branches else {}
    name = str(held_at(hub, branches[MAIN]).get("name")) if VERSION in main else ""
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

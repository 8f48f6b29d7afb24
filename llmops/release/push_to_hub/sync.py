"""The push of the champion to a Hub repository: the champion, and no other model, is on `main` at any time.

    main      the champion; no model while there is none
    tag v3    version v3 when it was first pushed; a tag never moves

A change of `main` is one atomic commit, and the tag follows it. A failure therefore leaves a whole `main`, and the next
push continues from there. A commit names its parent: if two processes push at once, one is refused and reads again.

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
from llmops.release.push_to_hub.hub import MAIN, ChangedMeanwhile, Content, File, Hub
from llmops.release.push_to_hub.ownership import PATHS_NEVER_DELETED, VERSION_FILE, check_ownership, matches_any
from llmops.release.registry.registry import Registry
from llmops.release.registry.version import Version, read_version

log = logging.getLogger(__name__)

_PASSES = 10  #: most passes of a push; an undisturbed one needs two

#: files of a version that are pushed; test items (`answers.parquet`) and feature stores (`features/`) stay
_FILES = (VERSION_FILE, "lineage.json", "evaluation.json", "governance.json", "decision.json", "compression.json")
_FOLDERS = ("adapter", "servable")


def push(registry: Registry, config: PushToHub, events: Path, *, by: str) -> dict[str, Any]:
    """Put the champion on `main` and tag it. Return the state as from `read_state`, and the refs `pushed`.

    It works in passes: each updates what differs, and the last one finds no difference. A pass begins again if another
    process has changed the repository meanwhile. The repository is created if it is missing.

    Raises:
        RegistryError: if there is no token, the Hub refuses, the repository has content that this registry does not
            know, or the champion's files are damaged.
        HubUnavailableError: if the Hub does not answer, or others change the repository all the time.
    """
    hub, pushed = _open_hub(config), list[str]()
    for _ in range(_PASSES):
        try:
            hub.create(config.private)
            state = _compare(registry, hub, update=True)
        except ChangedMeanwhile as error:
            log.info("%s was changed meanwhile and is read again: %s", hub.repo, error)
            continue
        pushed += state["behind"]
        if state["equal"]:
            fields = {"repo": hub.repo, "endpoint": hub.endpoint, "main": state["main"], "pushed": pushed}
            document = {f"llmops.hub.{name}": value for name, value in fields.items()}
            emit(events, HUB, {"event.action": "push", "event.outcome": "success", "user.name": by, **document})
            return {**state, "pushed": pushed}
    raise HubUnavailableError(
        f"{hub.repo} at {hub.endpoint} still differs from the registry after {_PASSES} passes; try again."
    )


def read_state(registry: Registry, config: PushToHub) -> dict[str, Any]:
    """Return the repository's state: `repo`, `endpoint`, `main` (its version), `champion`, `behind`, `equal`.

    `behind` lists the branch and the tag that a push would change. `equal` means that nothing is behind.

    Raises:
        RegistryError: like `push`.
    """
    return _compare(registry, _open_hub(config), update=False)


def _open_hub(config: PushToHub) -> Hub:
    if not config.repo:
        raise RegistryError("Nothing is pushed: push_to_hub.repo names no Hub repository.")
    return Hub(config.repo)


def _compare(registry: Registry, hub: Hub, *, update: bool) -> dict[str, Any]:
    """Return the state before any change. With `update`, update what is behind."""
    # Read the refs before the registry: if another process then pushes a later champion, our commit has a stale parent
    # and is refused.
    branches, tags = hub.list_refs()
    champion, head, behind, files = registry.champion(), branches.get(MAIN, ""), list[str](), dict[str, Content]()
    main = hub.list_files(head) if head else {}
    held = check_ownership(hub, registry, champion, head, main, tags)
    name = champion.name if champion else ""
    if champion:
        files = _collect_files(champion, hub.repo, registry.overrides().get(name, ""))
    if champion or held:
        added, removed = _diff_files(main, files)
        if added or removed:
            behind.append(MAIN)
            message = f"{name} is champion" if champion else "there is no champion"
            head = hub.commit(MAIN, head, added, removed, message) if update else head
    if champion and name not in tags:
        behind.append(name)
        if update:
            hub.create_tag(name, head)
    return {
        "repo": hub.repo,
        "endpoint": hub.endpoint,
        "main": held,
        "champion": name,
        "behind": behind,
        "equal": not behind,
    }


def _collect_files(version: Version, repo: str, override: str) -> dict[str, Content]:
    """Return the repository's files for a version, by path.

    `override` is the reason if it was made champion against the gate.

    Raises:
        RegistryError: if its model or a file for its card is missing or damaged, or the files contradict the gate's
            last decision.
    """
    if not version.servable.is_dir():
        raise RegistryError(f"{version.name} is champion and has no model in {version.path}; restore it.")
    if (status := read_version(version.path).status) != version.status:
        raise RegistryError(
            f"{version.name} is not pushed: its files say {status}, but the gate's last decision is {version.status}, "
            "because its publication was interrupted; run the stage release again."
        )
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


def _diff_files(pushed: Mapping[str, File], files: Mapping[str, Content]) -> tuple[dict[str, Content], list[str]]:
    """Return the files to add or replace and the paths to delete, to turn the `pushed` files into `files`.

    If both are the same version by `version.json`, large files are compared by size only.
    """
    known = VERSION_FILE in files and _is_same(pushed.get(VERSION_FILE), files[VERSION_FILE], known=False)
    added = {path: content for path, content in files.items() if not _is_same(pushed.get(path), content, known)}
    return added, sorted(path for path in pushed.keys() - files.keys() if not matches_any(path, PATHS_NEVER_DELETED))


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

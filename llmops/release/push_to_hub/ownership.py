"""Checks that a Hub repository belongs to this registry, so that nobody else's model is overwritten."""

import json
from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

from llmops.frame.errors import RegistryError
from llmops.release.push_to_hub.hub import File, Hub
from llmops.release.registry.registry import Registry
from llmops.release.registry.version import Version

VERSION_FILE = "version.json"

#: files that no version has: they come from the Hub or from people; `.gitattributes` lists the large files
PATHS_NEVER_DELETED = (".gitattributes", ".gitignore", "LICENSE*", "NOTICE*")
_HARMLESS = (*PATHS_NEVER_DELETED, "README.md")  #: files that a repository created by hand may have


def check_ownership(
    hub: Hub,
    registry: Registry,
    champion: Version | None,
    head: str,
    main: Mapping[str, File],
    tags: Mapping[str, str],
) -> str:
    """Return the name of the version on `main`, which has these files at the commit `head`; empty if there is none.

    Raises:
        RegistryError: if `main`, or the tag of the champion's name, has content of another registry.
    """
    foreign = sorted(path for path in main if not matches_any(path, _HARMLESS))
    where = f"{hub.repo} at {hub.endpoint}"
    if foreign and VERSION_FILE not in main:
        raise RegistryError(
            f"{where} holds files that were not pushed from here ({', '.join(foreign[:3])}): name another repository "
            "in push_to_hub.repo, or delete them there."
        )
    name = ""
    if VERSION_FILE in main:
        held = _read_version(hub, head)
        name = str(held.get("name"))
        if not _is_known(registry, name, held):
            raise RegistryError(
                f"main of {where} holds {name}, made {held.get('created')}, which the registry in {registry.folder} "
                "and its database do not know; nothing there is changed. Set LLMOPS_HOME, release.registry and "
                "state.url to those it was pushed from. If it is another model's, name another repository in "
                "push_to_hub.repo, or delete that one there."
            )
    if champion and champion.name in tags:
        tagged = _read_version(hub, tags[champion.name])
        if not _is_same(champion, tagged):
            raise RegistryError(
                f"The tag {champion.name} of {where} is another model's, made {tagged.get('created')} and not "
                f"{champion.created}. Tags never move: name another repository in push_to_hub.repo, or delete that "
                "tag there if nobody needs it."
            )
    return name


def _is_known(registry: Registry, name: str, held: Mapping[str, Any]) -> bool:
    """Return True if the version on `main` is this registry's: its folder is here, or the gate decided on it here.

    The name alone proves nothing, as every model has a v1. If the database knows neither the version nor any champion,
    it is not the database that the version was pushed from.
    """
    if name not in registry.names():
        decided = [decision["numbers"].get("compress") for decision in registry.decisions(name)]
        return bool(held.get("compress")) and held["compress"] in decided
    named = {name for change in registry.history() for name in change["aliases"].values()}
    return _is_same(registry.get(name), held) and (name in named or "champion" in registry.aliases())


def _read_version(hub: Hub, revision: str) -> dict[str, Any]:
    """Return the `version.json` of a commit, branch or tag."""
    try:
        document = json.loads(hub.read(VERSION_FILE, revision))
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise RegistryError(
            f"{VERSION_FILE} of {hub.repo} at {revision} was not pushed from here: it is no JSON object."
        )
    return document


def _is_same(version: Version, held: Mapping[str, Any]) -> bool:
    return (held.get("compress"), held.get("created")) == (version.compress, version.created)


def matches_any(path: str, patterns: tuple[str, ...]) -> bool:
    """Return True if a path matches one of the patterns."""
    return any(fnmatch(path, pattern) for pattern in patterns)

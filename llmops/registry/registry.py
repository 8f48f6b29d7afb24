"""The local model registry: numbered versions, and aliases that move together.

    {root}/{name}/aliases.json            champion, candidate, previous, canary → version; one file, replaced atomically
    {root}/{name}/history.jsonl           every change of an alias: time, who, why
    {root}/{name}/canary/                 what the replicas of the app have counted in the canary's trial
    {root}/{name}/versions/v1/            version.json, README.md (model card), adapter/, servable/, evaluation.json, …

A version is built in `.v1.partial` and renamed when it is whole: what has a version's name is complete. Changes hold
the registry's lock; readers need none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmops.artifacts import locked, write_whole
from llmops.config import Config
from llmops.errors import RegistryError
from llmops.registry import aliases as alias_file
from llmops.registry.aliases import Canary, names, with_canary
from llmops.registry.version import Version, build_version, document, read_version

BASE = "base"  #: what the first version is compared with: the untuned base model


class Registry:
    """The versions and aliases of the model `name` below the folder `root`."""

    def __init__(self, root: Path, name: str) -> None:
        self.folder = root / name

    def aliases(self) -> dict[str, str]:
        """Alias → version; empty before anything is published."""
        return names(alias_file.read(self.folder))

    def versions(self) -> list[Version]:
        """All versions, oldest first."""
        return [self._read(f"v{number}") for number in self._numbers()]

    def get(self, version_or_alias: str) -> Version:
        """A version by its name or by an alias.

        Raises:
            RegistryError: if there is none, naming those there are.
        """
        name = self.aliases().get(version_or_alias, version_or_alias)
        if name in {f"v{number}" for number in self._numbers()}:
            return self._read(name)
        known = ", ".join([*(f"v{n}" for n in self._numbers()), *sorted(self.aliases())]) or "none yet"
        raise RegistryError(f"{self.folder.name} has no version or alias {version_or_alias!r}; there are: {known}.")

    def champion(self) -> Version | None:
        """The version that is served, if there is one."""
        name = self.aliases().get("champion")
        return self._read(name) if name else None

    def canary(self) -> Canary | None:
        """The version that answers a share of the callers, if there is one."""
        return alias_file.canary(alias_file.read(self.folder))

    def served(self) -> tuple[Version | None, Version | None, Canary | None]:
        """Champion, canary and the canary's trial, as they are at one moment."""
        entries = alias_file.read(self.folder)
        champion, canary = entries.get("champion"), alias_file.canary(entries)
        return self._read(champion) if champion else None, self._read(canary.version) if canary else None, canary

    def made_from(self, compress: str) -> Version | None:
        """The version that was made from the compress artifact with this fingerprint, if there is one."""
        return next((version for version in self.versions() if version.compress == compress), None)

    def opponent(self, compress: str) -> Path | None:
        """Folder of the version that a candidate is compared with; None stands for the base model.

        If a version was made from this compress artifact and decided on, it is what that was compared with, so that a
        re-run finds its finished work; else it is today's champion.
        """
        version = self.made_from(compress)
        if version is None or not version.compared_with:
            champion = self.champion()
            return champion.path if champion else None
        return None if version.compared_with == BASE else self.get(version.compared_with).path

    def publish(
        self,
        facts: Mapping[str, Any],
        trees: Mapping[str, Path],
        documents: Callable[[Version], Mapping[str, str]],
        *,
        by: str,
        why: str,
    ) -> Version:
        """Add a version and let `candidate`, and if it was promoted `champion`, point to it.

        Publishing the same compress artifact again gives the version there is, its status and documents brought up to
        date. A promotion over something that is not the champion any more does not count: the status becomes
        "inconclusive", `compared_with` empty, and the champion stays. A version that has been champion before does not
        become it again by a re-run: who rolled it back decided that.

        Args:
            facts: the fields of `Version` but name, path and created; `erasures` only where there are some.
            trees: folders and files that go into the version under these names: hard links, or copies across disks.
            documents: gives the text files of the version, by file name; called when its number and status are known.
            by, why: for the history.
        """
        with self._changing():
            known = self.made_from(facts["compress"])
            name = known.name if known else self._next()
            path = self.folder / "versions" / name
            created = known.created if known else datetime.now(UTC).isoformat(timespec="seconds")
            erasures = known.erasures if known else ()
            version = Version(**{"erasures": erasures, **facts}, name=name, path=path, created=created)
            aliases = alias_file.read(self.folder)
            champion = aliases.get("champion", "")
            fresh = version.status == "promoted" and champion != name and not self._was_champion(name)
            if fresh and champion != version.compared_with.replace(BASE, ""):
                fresh = False
                version = replace(version, status="inconclusive", compared_with="")
            files = {**documents(version), "version.json": document(version)}
            if known:
                for file, text in files.items():
                    write_whole(path / file, text.encode())
            else:
                build_version(path, trees, files)
            changed = {**aliases, "candidate": name}
            if fresh:
                changed |= {"champion": name, **({"previous": champion} if champion else {})}
            self._move(aliases, changed, by, why)
        return version

    def promote(
        self,
        version: str,
        *,
        by: str = "admin",
        why: str = "promoted by hand",
        trial: str = "",
        numbers: Mapping[str, Any] | None = None,
    ) -> Version:
        """Make a version the champion; the champion there was becomes `previous`, and a canary's trial is over.

        Args:
            version: its name, or an alias.
            by, why, numbers: for the history.
            trial: only if the canary's trial that started then still goes on.
        """
        with self._changing():
            aliases = alias_file.read(self.folder)
            going = alias_file.canary(aliases)
            if trial and (going is None or going.started != trial):
                raise RegistryError(f"The canary's trial of {trial} is over; {version} is not promoted by it.")
            chosen = self._with_model(version)
            champion = aliases.get("champion", "")
            if champion != chosen.name:
                previous = {"previous": champion} if champion else {}
                self._move(aliases, {**aliases, "champion": chosen.name, **previous}, by, why, numbers)
        return chosen

    def start_canary(self, version: str, share: float, *, by: str = "admin", why: str = "started by hand") -> Canary:
        """Let a version answer a share of the callers; it replaces a canary there is.

        Asking for what is there already changes nothing. Another share starts the trial anew.

        Raises:
            RegistryError: if there is no such version, it is the champion or has no model, there is no champion to
                compare it with, or the share is not above 0 and below 1.
        """
        if not 0 < share < 1:
            raise RegistryError(f"A canary's share is above 0 and below 1, not {share:g}; to give it all, promote it.")
        with self._changing():
            chosen, aliases = self._with_model(version), alias_file.read(self.folder)
            if "champion" not in aliases:
                raise RegistryError(f"{self.folder.name} has no champion to compare a canary with; promote a version.")
            if aliases["champion"] == chosen.name:
                raise RegistryError(f"{chosen.name} is the champion; a canary is another version.")
            going = alias_file.canary(aliases)
            if going and (going.version, going.share) == (chosen.name, share):
                return going
            canary = Canary(chosen.name, share, datetime.now(UTC).isoformat(timespec="microseconds"))
            for counts in (self.folder / "canary").glob("*.json"):
                counts.unlink(missing_ok=True)  # not the folder, which replicas are writing into
            self._move(aliases, with_canary(aliases, canary), by, why)
        return canary

    def stop_canary(
        self,
        *,
        by: str = "admin",
        why: str = "stopped by hand",
        trial: str = "",
        numbers: Mapping[str, Any] | None = None,
    ) -> Canary | None:
        """End the canary's trial; the champion answers everybody. Returns what was ended, None if there was nothing.

        Args:
            by, why, numbers: for the history.
            trial: only if the canary's trial that started then still goes on.
        """
        with self._changing():
            aliases = alias_file.read(self.folder)
            going = alias_file.canary(aliases)
            if going is None or (trial and going.started != trial):
                return None
            self._move(aliases, with_canary(aliases, None), by, why, numbers)
        return going

    def rollback(self, *, by: str = "admin", why: str = "rolled back by hand") -> Version:
        """Swap `champion` and `previous`; doing it twice changes nothing but that a canary's trial is over.

        Raises:
            RegistryError: if there was no champion before, or its model is gone.
        """
        with self._changing():
            aliases = alias_file.read(self.folder)
            if "previous" not in aliases:
                raise RegistryError(f"{self.folder.name} has no previous champion to go back to.")
            chosen = self._with_model("previous")
            swapped = {**aliases, "champion": chosen.name, "previous": aliases["champion"]}
            self._move(aliases, swapped, by, why)
        return chosen

    def mark(self, version: str, erasure: Mapping[str, Any], card: Callable[[str, Version], str]) -> Version:
        """Note that rows a version was trained on have been forgotten since; noting it again changes nothing.

        Args:
            version: its name.
            erasure: `time` (ISO, UTC) and how many training `examples`; never whose.
            card: gives the text of the model card from the one there is, for the version with its new mark.
        """
        with self._changing():
            known = self.get(version)
            if dict(erasure) not in known.erasures:
                known = replace(known, erasures=(*known.erasures, dict(erasure)))
            readme = known.path / "README.md"
            write_whole(readme, card(readme.read_text(encoding="utf-8"), known).encode())
            write_whole(known.path / "version.json", document(known).encode())
        return known

    def history(self) -> list[dict[str, Any]]:
        """Every change of an alias, oldest first: time, by, why, the aliases after it, and a decision's numbers."""
        return [{**change, "aliases": names(change["aliases"])} for change in alias_file.history(self.folder)]

    def ended(self, trial: str) -> dict[str, Any]:
        """The change that ended a canary's trial, as in `history`; empty if it goes on or never was."""
        with self._changing():  # the line of a change comes after the change itself
            changes = alias_file.history(self.folder)
        trials = [alias_file.canary(change["aliases"]) for change in changes]
        after = [n + 1 for n, canary in enumerate(trials) if canary and canary.started == trial]
        return changes[after[-1]] if after and after[-1] < len(changes) else {}

    def _was_champion(self, name: str) -> bool:
        return any(change["aliases"].get("champion") == name for change in self.history())

    def _next(self) -> str:
        used = [name for change in self.history() for name in change["aliases"].values()]  # also of removed versions
        return f"v{max([*self._numbers(), *(int(name[1:]) for name in used)], default=0) + 1}"

    def _numbers(self) -> list[int]:
        folder = self.folder / "versions"
        names = (p.name[1:] for p in folder.iterdir() if p.name.startswith("v")) if folder.is_dir() else ()
        return sorted(int(name) for name in names if name.isdecimal())

    def _read(self, name: str) -> Version:
        return read_version(self.folder / "versions" / name)

    def _with_model(self, version: str) -> Version:
        chosen = self.get(version)
        if not chosen.servable.is_dir():
            raise RegistryError(f"{chosen.name} has no model at {chosen.servable}; it cannot be served.")
        return chosen

    def _move(
        self,
        before: alias_file.Entries,
        after: alias_file.Entries,
        by: str,
        why: str,
        numbers: Mapping[str, Any] | None = None,
    ) -> None:
        alias_file.move(self.folder, before, after, by, why, numbers)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with locked(self.folder / "registry"):
            yield


def registry_of(config: Config) -> Registry:
    """The registry that a configuration names."""
    return Registry(config.release.registry, config.release.name)

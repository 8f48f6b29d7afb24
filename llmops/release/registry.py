"""The local model registry: numbered versions, and aliases that move together.

    {root}/{name}/aliases.json            champion, candidate, previous → version; one file, replaced atomically
    {root}/{name}/history.jsonl           every change of an alias: time, who, why
    {root}/{name}/versions/v1/            version.json, README.md (model card), adapter/, servable/, evaluation.json, …

A version is built in `.v1.partial` and renamed when it is whole: what has a version's name is complete. Changes hold
the registry's lock; readers need none.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmops.artifacts import link, locked, write_json, write_whole
from llmops.errors import RegistryError

log = logging.getLogger(__name__)

BASE = "base"  #: what the first version is compared with: the untuned base model


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One published model; all but `path` is the content of its `version.json`."""

    name: str  #: v1, v2, …
    path: Path
    status: str  #: what the gate decided: promoted | rejected | inconclusive
    compared_with: str  #: "base" or a version; empty when the comparison no longer counts and must be made again
    compress: str  #: fingerprint of the compress artifact that it was made from
    base_model: str
    base_revision: str
    licence: str
    quantisation: str
    interval: str  #: ISO date of the data interval
    run: str  #: the orchestrator's run id
    dataset: str  #: SHA-256 of the training split
    created: str  #: ISO time, UTC
    erasures: tuple[Mapping[str, Any], ...] = ()  #: rows it was trained on that were forgotten since: time, examples

    @property
    def servable(self) -> Path:
        """Folder of the model that is served."""
        return self.path / "servable"

    @property
    def adapter(self) -> Path:
        """Folder of the LoRA adapter."""
        return self.path / "adapter"


class Registry:
    """The versions and aliases of the model `name` below the folder `root`."""

    def __init__(self, root: Path, name: str) -> None:
        self.folder = root / name

    def aliases(self) -> dict[str, str]:
        """Alias → version; empty before anything is published."""
        try:
            aliases: dict[str, str] = json.loads((self.folder / "aliases.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise RegistryError(
                f"{self.folder / 'aliases.json'} is damaged ({error}); restore it from the last line of history.jsonl."
            ) from error
        return aliases

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
            aliases = self.aliases()
            champion = aliases.get("champion", "")
            fresh = version.status == "promoted" and champion != name and not self._was_champion(name)
            if fresh and champion != version.compared_with.replace(BASE, ""):
                fresh = False
                version = replace(version, status="inconclusive", compared_with="")
            files = {**documents(version), "version.json": _json(version)}
            if known:
                for file, text in files.items():
                    write_whole(path / file, text.encode())
            else:
                self._build(path, trees, files)
            changed = {**aliases, "candidate": name}
            if fresh:
                changed |= {"champion": name, **({"previous": champion} if champion else {})}
            self._move(aliases, changed, by, why)
        return version

    def promote(self, version: str, *, by: str = "admin", why: str = "promoted by hand") -> Version:
        """Make a version the champion; the champion there was becomes `previous`."""
        with self._changing():
            chosen, aliases = self.get(version), self.aliases()
            if not chosen.servable.is_dir():
                raise RegistryError(f"{chosen.name} has no model at {chosen.servable}; it cannot be served.")
            champion = aliases.get("champion", "")
            if champion != chosen.name:
                previous = {"previous": champion} if champion else {}
                self._move(aliases, {**aliases, "champion": chosen.name, **previous}, by, why)
        return chosen

    def rollback(self, *, by: str = "admin", why: str = "rolled back by hand") -> Version:
        """Swap `champion` and `previous`; doing it twice changes nothing.

        Raises:
            RegistryError: if there was no champion before.
        """
        with self._changing():
            aliases = self.aliases()
            if "previous" not in aliases:
                raise RegistryError(f"{self.folder.name} has no previous champion to go back to.")
            chosen = self.get("previous")
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
            write_whole(known.path / "version.json", _json(known).encode())
        return known

    def history(self) -> list[dict[str, Any]]:
        """Every change of an alias, oldest first: time, by, why, and the aliases after it."""
        path = self.folder / "history.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]

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
        path = self.folder / "versions" / name
        try:
            values = json.loads((path / "version.json").read_text(encoding="utf-8"))
            return Version(**{**values, "erasures": tuple(values.get("erasures", ()))}, path=path)
        except FileNotFoundError:
            raise RegistryError(f"{path} has no version.json: it is no version, or was damaged; remove it.") from None
        except (ValueError, TypeError) as error:
            raise RegistryError(f"{path / 'version.json'} is damaged: {error}.") from error

    def _build(self, path: Path, trees: Mapping[str, Path], files: Mapping[str, str]) -> None:
        partial = path.with_name(f".{path.name}.partial")
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        for name, source in trees.items():
            if source.is_dir():
                shutil.copytree(source, partial / name, copy_function=link)
            else:
                link(source, partial / name)
        for name, text in files.items():
            write_whole(partial / name, text.encode())
        partial.rename(path)

    def _move(self, before: Mapping[str, str], after: Mapping[str, str], by: str, why: str) -> None:
        if before == after:
            return
        write_json(self.folder / "aliases.json", after)
        entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "by": by, "why": why, "aliases": after}
        with open(self.folder / "history.jsonl", "a", encoding="utf-8") as handle:
            handle.write(json.dumps(entry, ensure_ascii=False) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        log.info("%s: aliases are now %s (%s, %s)", self.folder.name, after, by, why)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with locked(self.folder / "registry"):
            yield


def _json(version: Version) -> str:
    values = {f.name: getattr(version, f.name) for f in fields(version) if f.name != "path"}
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"

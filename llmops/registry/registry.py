"""The model registry: numbered versions, which are folders, and aliases that move together, in the database.

    {root}/{name}/versions/v1/            version.json, README.md (model card), adapter/, servable/, evaluation.json, …

A version is built in a partial folder and renamed when it is whole: what has a version's name is complete. A change of
aliases is one transaction of the database; readers wait for nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from llmops.artifacts import locked, write_whole
from llmops.config import Config
from llmops.registry import aliases as table
from llmops.registry import decisions
from llmops.registry.aliases import Canary, Change, Entries, with_canary, with_champion
from llmops.registry.moves import RegistryMoves, moment
from llmops.registry.version import Version, add_missing, build_partial, document
from llmops.registry.view import BASE
from llmops.state.database import database_of


class Registry(RegistryMoves):
    """The versions of the model `name` below the folder `root`, and its aliases in the database."""

    def publish(
        self,
        facts: Mapping[str, Any],
        trees: Mapping[str, Path],
        documents: Callable[[Version], Mapping[str, str]],
        *,
        by: str,
        why: str,
        numbers: Mapping[str, Any] | None = None,
        canary: float = 0.0,
        also: Callable[[sa.Connection, Version], None] | None = None,
    ) -> Version:
        """Add a version and let `candidate`, and if it was promoted `champion`, point to it.

        Publishing the same compress artifact again gives the version there is, its status and documents brought up to
        date. A promotion over something that is not the champion any more does not count: the status becomes
        "inconclusive", `compared_with` empty, and the champion stays. A version that has been champion before, or on
        trial, is not moved by a re-run: whoever rolled it back, or its trial, decided that. Where the gate has another
        word on one that is on trial, and does not pass it any more, its trial ends, unless it was begun with a reason.

        Args:
            facts: the fields of `Version` but name, path, created and erasures.
            trees: folders and files that go into the version under these names: hard links, or copies across disks.
            documents: gives the text files of the version, by file name; called when its number and status are known,
                and again if another champion came meanwhile.
            by, why: for the history, and the gate's decision.
            numbers: of the gate's decision; nobody is told those of one that does not count.
            canary: share of the callers that a promoted version answers first, as a canary, if there is a champion; its
                trial decides then. One that goes on is left alone. 0: it becomes the champion at once.
            also: what is to be written in the same transaction; if it raises, nothing is published.
        """
        with locked(self.folder / "registry"):  # copying takes time; the database is not to wait for it
            while True:
                champion = self.aliases().get("champion", "")
                known, version, fresh = self._judged(facts, champion)
                files = {**documents(version), "version.json": document(version)}
                partial = None
                if known:
                    add_missing(version.path, trees)  # what becomes the champion has its model
                else:
                    partial = build_partial(version.path, trees, files)
                with self.changing() as connection:
                    entries = table.read(connection, self.name)
                    if entries.get("champion", "") != champion:
                        continue  # what the documents say is not true any more
                    if also:
                        also(connection, version)
                    if partial:
                        partial.rename(version.path)
                    else:
                        for file, text in files.items():
                            write_whole(version.path / file, text.encode())
                    if not version.compared_with:
                        why, numbers = void(facts["compared_with"]), None
                    decided: dict[str, Any] = {"by": by, "why": why, "numbers": numbers}
                    decisions.write(connection, self.name, version.name, "gate", version.status, **decided)
                    after = {**entries, "candidate": version.name}
                    if fresh and not table.tried(connection, self.name, version.name):
                        after = _first_moved(after, version.name, canary)
                    elif self._lost_its_leave(connection, version, entries):
                        after = with_canary(after, None)
                        why = f"its trial ends, as the gate does not pass it any more: {why}"
                    self._move(connection, after, Change("publish", version.name, by, why))
                return version

    def mark(self, version: str, erasure: Mapping[str, Any], card: Callable[[str, Version], str]) -> Version:
        """Note that rows a version was trained on have been forgotten since; noting it again changes nothing.

        From here on it cannot become the champion or be tried, and a trial of it is over. The champion goes on until
        another version takes its place.

        Args:
            version: its name.
            erasure: `time` (ISO, UTC), how many training `examples`, and the `receipt`; never whose.
            card: gives the text of the model card from the one there is, for the version with its new mark.
        """
        with locked(self.folder / "registry"):
            known = self.get(version)
            if dict(erasure) not in known.erasures:
                known = replace(known, erasures=(*known.erasures, dict(erasure)))
            readme = known.path / "README.md"
            write_whole(readme, card(readme.read_text(encoding="utf-8"), known).encode())
            write_whole(known.path / "version.json", document(known).encode())
        if (going := self.canary()) and going.version == version:
            self.stop_canary(by="erasure", why=_erased(known), trial=going.started)
        return known

    def _judged(self, facts: Mapping[str, Any], champion: str) -> tuple[Version | None, Version, bool]:
        """The version that was made from this before, what it is to be, and whether the gate's word is to move it."""
        known = self.made_from(facts["compress"])
        name = known.name if known else self._next()
        created = known.created if known else datetime.now(UTC).isoformat(timespec="seconds")
        erasures = known.erasures if known else ()
        path = self.folder / "versions" / name
        version = Version(**facts, erasures=erasures, name=name, path=path, created=created)
        fresh = version.status == "promoted" and champion != name and not self._was_champion(name)
        if fresh and champion != version.compared_with.replace(BASE, ""):
            return known, replace(version, status="inconclusive", compared_with=""), False
        return known, version, fresh

    def _lost_its_leave(self, connection: sa.Connection, version: Version, entries: Entries) -> bool:
        """Whether a version that is on trial is neither passed by the gate any more nor there for a reason."""
        going = table.canary(entries)
        if going is None or going.version != version.name or version.status == "promoted":
            return False
        return not table.trial_settings(connection, self.name, going.started).get("override")


def _erased(version: Version) -> str:
    return f"{version.name} was trained on rows of a person who was forgotten since"


def registry_of(config: Config) -> Registry:
    """The registry that a configuration names."""
    return Registry(config.release.registry, config.release.name, database_of(config))


def void(opponent: str) -> str:
    """Why a promotion does not count if its opponent is not the champion any more."""
    return f"{opponent} is not the champion any more; run the pipeline again to compare with the new one"


def _first_moved(entries: Entries, version: str, share: float) -> dict[str, Any]:
    """The entries when a version that the gate passed is first moved: canary, or champion at once."""
    if not (entries.get("champion") and share):
        return with_champion(entries, version)
    return dict(entries) if table.canary(entries) else with_canary(entries, Canary(version, share, moment()))

"""The model registry: numbered versions, which are folders, and aliases in the database.

    {root}/{name}/versions/v1/            version.json, README.md (model card), adapter/, servable/, evaluation.json, …

A version is built in a partial folder and renamed at the end, so a folder with a version's name is complete. A change
of aliases is one transaction of the database. Readers never wait.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from llmops.config import Config
from llmops.frame.artifacts import hold_lock, write_atomically
from llmops.release.registry import aliases, decisions
from llmops.release.registry.aliases import AliasChange, Canary, Entries, replace_canary, replace_champion
from llmops.release.registry.moves import RegistryMoves, make_trial_start
from llmops.release.registry.version import Version, build_partial, format_version, restore_missing
from llmops.release.registry.view import BASE
from llmops.state.database import database_of


class Registry(RegistryMoves):
    """The registry of the model `name`: versions below the folder `root`, aliases in the database."""

    def publish(
        self,
        facts: Mapping[str, Any],
        trees: Mapping[str, Path],
        make_files: Callable[[Version], Mapping[str, str]],
        *,
        by: str,
        why: str,
        numbers: Mapping[str, Any] | None = None,
        canary: float = 0.0,
        on_publish: Callable[[sa.Connection, Version], None] | None = None,
    ) -> Version:
        """Add a version and point `candidate` to it, and `champion` if it was promoted.

        For the same compress artifact the existing version is updated instead. A promotion over a version that is no
        longer champion does not count: the status becomes "inconclusive", `compared_with` empty, and the champion
        stays. A re-run moves no alias to a version that was champion or on trial before, because its trial or a
        rollback has decided. If the gate no longer passes a version on trial, its trial ends unless it has an override.

        Args:
            facts: the fields of `Version` except name, path, created and erasures.
            trees: name → folder or file for the version: hard-linked, or copied across disks.
            make_files: returns the version's text files, by name. It is called once number and status are known, and
                again if the champion changes meanwhile.
            by: who publishes, for the history and the gate's decision.
            why: the reason, likewise.
            numbers: figures of the gate's decision; not stored if the decision does not count.
            canary: share of the callers for a canary before promotion, if there is a champion; 0: promote at once. A
                running trial is left alone.
            on_publish: called in the same transaction. If it raises, nothing is published.
        """
        with hold_lock(self.folder / "registry"):  # copying is slow, and must not block the database
            while True:
                champion = self.aliases().get("champion", "")
                known, version, may_move = self._assess(facts, champion)
                files = {**make_files(version), "version.json": format_version(version)}
                partial = None
                if known:
                    restore_missing(version.path, trees)  # a new champion needs its model
                else:
                    partial = build_partial(version.path, trees, files)
                with self.transaction() as connection:
                    entries = aliases.read(connection, self.name)
                    if entries.get("champion", "") != champion:
                        continue  # the files are outdated: make them again
                    if on_publish:
                        on_publish(connection, version)
                    if partial:
                        partial.rename(version.path)
                    else:
                        for file, text in files.items():
                            write_atomically(version.path / file, text.encode())
                    if not version.compared_with:
                        why, numbers = explain_void(facts["compared_with"]), None
                    decided: dict[str, Any] = {"by": by, "why": why, "numbers": numbers}
                    decisions.write(connection, self.name, version.name, "gate", version.status, **decided)
                    after = {**entries, "candidate": version.name}
                    if may_move and not aliases.was_tried(connection, self.name, version.name):
                        after = _apply_promotion(after, version.name, canary)
                    elif self._must_end_trial(connection, version, entries):
                        after = replace_canary(after, None)
                        why = f"its trial ends, as the gate does not pass it any more: {why}"
                    self._move(connection, after, AliasChange("publish", version.name, by, why))
                return version

    def record_erasure(self, version: str, erasure: Mapping[str, Any], card: Callable[[str, Version], str]) -> Version:
        """Record that rows which a version was trained on were erased. A repetition changes nothing.

        It can no longer become champion or canary, and a trial of it ends. A champion stays until it is replaced.

        `erasure` has `time` (ISO, UTC), number of training `examples`, and `receipt`, but no name of the person. `card`
        returns the new model card from the old one and the changed version.
        """
        with hold_lock(self.folder / "registry"):
            known = self.get(version)
            if dict(erasure) not in known.erasures:
                known = replace(known, erasures=(*known.erasures, dict(erasure)))
            readme = known.path / "README.md"
            write_atomically(readme, card(readme.read_text(encoding="utf-8"), known).encode())
            write_atomically(known.path / "version.json", format_version(known).encode())
        if (running := self.canary()) and running.version == version:
            why = f"{known.name} was trained on rows of a person who was forgotten since"
            self.stop_canary(by="erasure", why=why, trial=running.started)
        return known

    def _assess(self, facts: Mapping[str, Any], champion: str) -> tuple[Version | None, Version, bool]:
        """Return the existing version of these facts, its new state, and True if its aliases may move."""
        known = self.find_by_compress(facts["compress"])
        name = known.name if known else self._make_next_name()
        created = known.created if known else datetime.now(UTC).isoformat(timespec="seconds")
        erasures = known.erasures if known else ()
        path = self.folder / "versions" / name
        version = Version(**facts, erasures=erasures, name=name, path=path, created=created)
        champions = {change["aliases"].get("champion") for change in self._read_changes()}
        may_move = version.status == "promoted" and name not in champions | {champion}
        if may_move and champion != version.compared_with.replace(BASE, ""):
            return known, replace(version, status="inconclusive", compared_with=""), False
        return known, version, may_move

    def _must_end_trial(self, connection: sa.Connection, version: Version, entries: Entries) -> bool:
        running = aliases.get_canary(entries)
        if running is None or running.version != version.name or version.status == "promoted":
            return False
        return not aliases.read_trial_settings(connection, self.name, running.started).get("override")


def registry_of(config: Config) -> Registry:
    """Return the registry of a configuration."""
    return Registry(config.release.registry, config.release.name, database_of(config))


def explain_void(opponent: str) -> str:
    """Return why a promotion does not count: its opponent is not the champion any more."""
    return f"{opponent} is not the champion any more; run the pipeline again to compare with the new one"


def _apply_promotion(entries: Entries, version: str, share: float) -> dict[str, Any]:
    if not (entries.get("champion") and share):
        return replace_champion(entries, version)
    if aliases.get_canary(entries):
        return dict(entries)
    return replace_canary(entries, Canary(version, share, make_trial_start()))

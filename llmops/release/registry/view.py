"""The reading side of the registry: versions (folders), aliases, history and decisions (database)."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from llmops.frame.errors import RegistryError
from llmops.release.registry import aliases, decisions
from llmops.release.registry.aliases import Canary, Entries, get_versions
from llmops.release.registry.version import Version, read_version
from llmops.state.database import Database

log = logging.getLogger(__name__)

BASE = "base"  #: opponent of the first version: the untuned base model


class RegistryView:
    """A registry for reading: versions of the model `name` below `root`, aliases in the database."""

    def __init__(self, root: Path, name: str, database: Database) -> None:
        self.folder, self.name, self.database = root / name, name, database

    def aliases(self) -> dict[str, str]:
        """Return alias → version; empty before anything is published."""
        return get_versions(self._read_entries())

    def versions(self) -> list[Version]:
        """Return all versions, oldest first."""
        statuses = self._read_entries_and_statuses()[1]
        return [self._with_status(name, statuses) for name in self.names()]

    def names(self) -> list[str]:
        """Return the names of all version folders, readable or not, oldest first."""
        return [f"v{number}" for number in self._list_numbers()]

    def get(self, version_or_alias: str) -> Version:
        """Return a version by its name or an alias.

        Raises:
            RegistryError: if there is none, naming the existing ones.
        """
        with self.database.read() as connection:
            return self._get(connection, version_or_alias, aliases.read(connection, self.name))

    def champion(self) -> Version | None:
        """Return the champion, if there is one."""
        entries, statuses = self._read_entries_and_statuses()
        return self._with_status(entries["champion"], statuses) if "champion" in entries else None

    def canary(self) -> Canary | None:
        """Return the canary, if there is one."""
        return aliases.get_canary(self._read_entries())

    def read_served(self) -> tuple[Version | None, Version | None, Canary | None]:
        """Return champion, canary and the canary's trial, read at one moment.

        If the canary's folder is unreadable, return its trial without it. The champion keeps serving.
        """
        entries, statuses = self._read_entries_and_statuses()
        trial, canary = aliases.get_canary(entries), None
        champion = self._with_status(entries["champion"], statuses) if "champion" in entries else None
        if trial:
            try:
                canary = self._with_status(trial.version, statuses)
            except (RegistryError, OSError):
                log.exception("The canary %s cannot be read", trial.version)
        return champion, canary, trial

    def find_by_compress(self, compress: str) -> Version | None:
        """Return the version made from the compress artifact with this fingerprint, if there is one."""
        return next((version for version in self.versions() if version.compress == compress), None)

    def find_opponent(self, compress: str) -> Path | None:
        """Return the folder of the version that a candidate is compared with; None means the base model.

        If this compress artifact has a version with a decision, return the opponent of that decision, even if its
        folder is gone, so that a re-run finds its finished work. Otherwise, or if the opponent's model was removed and
        another version is champion, return the champion. No database is created.
        """
        if not self.database.exists and not self._list_numbers():
            return None
        version = self.find_by_compress(compress)
        if version and version.compared_with == BASE:
            return None
        champion = self.champion()
        if version and version.compared_with:
            path = self.folder / "versions" / version.compared_with
            is_removed = path.is_dir() and read_version(path).removed_at
            if not is_removed or champion is None or champion.name == version.name:
                return path
        return champion.path if champion else None

    def decisions(self, version: str = "") -> list[dict[str, Any]]:
        """Return all decisions, or those on one version, oldest first: see `decisions.read`."""
        with self.database.read() as connection:
            return decisions.read(connection, self.name, version)

    def overrides(self) -> dict[str, str]:
        """Return version → reason of its last override."""
        return {d["version"]: d["why"] for d in self.decisions() if d["kind"] == "override"}

    def trial_override(self) -> str:
        """Return the override of the running trial; empty if there is none, or no trial."""
        with self.database.read() as connection:
            if (running := aliases.get_canary(aliases.read(connection, self.name))) is None:
                return ""
            return str(aliases.read_trial_settings(connection, self.name, running.started).get("override", ""))

    def history(self) -> list[dict[str, Any]]:
        """Return all changes of aliases, oldest first: time, by, why, aliases afterwards, numbers and override."""
        return [{**change, "aliases": get_versions(change["aliases"])} for change in self._read_changes()]

    def find_starter(self, trial: str) -> str:
        """Return who started a canary's trial or A/B test; empty if there never was such a trial."""
        for change in self._read_changes():
            canary = aliases.get_canary(change["aliases"])
            if canary and canary.started == trial:
                return str(change["by"])
        return ""

    def find_end(self, trial: str) -> dict[str, Any]:
        """Return the change that ended a canary's trial, as in `history`; empty if it is running or never was."""
        changes = self._read_changes()
        canaries = [aliases.get_canary(change["aliases"]) for change in changes]
        after = [n + 1 for n, canary in enumerate(canaries) if canary and canary.started == trial]
        return changes[after[-1]] if after and after[-1] < len(changes) else {}

    def _make_next_name(self) -> str:
        named = [name for change in self.history() for name in change["aliases"].values()]  # includes removed versions
        return f"v{max([*self._list_numbers(), *(int(name[1:]) for name in named)], default=0) + 1}"

    def _list_numbers(self) -> list[int]:
        folder = self.folder / "versions"
        names = (p.name[1:] for p in folder.iterdir() if p.name.startswith("v")) if folder.is_dir() else ()
        return sorted(int(name) for name in names if name.isdecimal())

    def _with_status(self, name: str, statuses: Mapping[str, str]) -> Version:
        """Return a version with its status from the database; the file may be older than the decision."""
        version = read_version(self.folder / "versions" / name)
        if name in statuses:
            return replace(version, status=statuses[name])
        return replace(version, status=decisions.UNDECIDED, compared_with="")

    def _get(self, connection: sa.Connection, version_or_alias: str, entries: Entries) -> Version:
        by_alias = get_versions(entries)
        name = by_alias.get(version_or_alias, version_or_alias)
        if name in self.names():
            return self._with_status(name, decisions.read_statuses(connection, self.name))
        known = ", ".join([*self.names(), *sorted(by_alias)]) or "none yet"
        raise RegistryError(f"{self.name} has no version or alias {version_or_alias!r}; there are: {known}.")

    def _get_usable(self, connection: sa.Connection, version: str, entries: Entries) -> Version:
        chosen = self._get(connection, version, entries)
        if not chosen.servable.is_dir():
            raise RegistryError(
                f"{chosen.name} has no model at {chosen.servable}; it cannot be served.{_explain_removal(chosen)}"
            )
        if chosen.erasures and get_versions(entries).get("champion") != chosen.name:
            raise RegistryError(
                f"{chosen.name} was trained on rows of a person who was forgotten since (receipt "
                f"{chosen.erasures[-1]['receipt']}); it is not used again. Run the pipeline for a version without them."
            )
        return chosen

    def _read_entries_and_statuses(self) -> tuple[dict[str, Any], dict[str, str]]:
        with self.database.read() as connection:
            return aliases.read(connection, self.name), decisions.read_statuses(connection, self.name)

    def _read_entries(self) -> dict[str, Any]:
        with self.database.read() as connection:
            return aliases.read(connection, self.name)

    def _read_changes(self) -> list[dict[str, Any]]:
        with self.database.read() as connection:
            return aliases.read_history(connection, self.name)


def _explain_removal(version: Version) -> str:
    if not version.removed_at:
        return ""
    return (
        f" `llmops gc` removed it on {version.removed_at[:10]}: put it back from a backup, or run its day again with "
        f"the configuration of that time, `llmops run all --interval {version.interval}`."
    )

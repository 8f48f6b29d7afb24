"""The reading side of the registry: versions (folders), aliases, history and decisions (database)."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from llmops.frame.errors import RegistryError
from llmops.release.registry import aliases as table
from llmops.release.registry import decisions
from llmops.release.registry.aliases import Canary, Entries, names
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
        return names(self._entries())

    def versions(self) -> list[Version]:
        """Return all versions, oldest first."""
        said = self._entries_and_statuses()[1]
        return [self._with_status(name, said) for name in self.names()]

    def names(self) -> list[str]:
        """Return the names of all version folders, readable or not, oldest first."""
        return [f"v{number}" for number in self._numbers()]

    def get(self, version_or_alias: str) -> Version:
        """Return a version by its name or an alias.

        Raises:
            RegistryError: if there is none, naming the existing ones.
        """
        with self.database.read() as connection:
            return self._get(connection, version_or_alias, table.read(connection, self.name))

    def champion(self) -> Version | None:
        """Return the champion, if there is one."""
        entries, said = self._entries_and_statuses()
        return self._with_status(entries["champion"], said) if "champion" in entries else None

    def canary(self) -> Canary | None:
        """Return the canary, if there is one."""
        return table.canary(self._entries())

    def served(self) -> tuple[Version | None, Version | None, Canary | None]:
        """Return champion, canary and the canary's trial, read at one moment.

        If the canary's folder is unreadable, return its trial without it. The champion keeps serving.
        """
        entries, said = self._entries_and_statuses()
        trial, tried = table.canary(entries), None
        champion = self._with_status(entries["champion"], said) if "champion" in entries else None
        if trial:
            try:
                tried = self._with_status(trial.version, said)
            except (RegistryError, OSError):
                log.exception("The canary %s cannot be read", trial.version)
        return champion, tried, trial

    def made_from(self, compress: str) -> Version | None:
        """Return the version made from the compress artifact with this fingerprint, if there is one."""
        return next((version for version in self.versions() if version.compress == compress), None)

    def opponent(self, compress: str) -> Path | None:
        """Return the folder of the version that a candidate is compared with; None means the base model.

        If this compress artifact has a version with a decision, it is the opponent of that decision, even if its folder
        is gone, so that a re-run finds its finished work. Otherwise, or if the opponent's model was removed and another
        version is champion, it is the current champion. Asking never creates a database.
        """
        if self.database.absent and not self._numbers():
            return None
        version = self.made_from(compress)
        if version and version.compared_with == BASE:
            return None
        champion = self.champion()
        if version and version.compared_with:
            path = self.folder / "versions" / version.compared_with
            removed = path.is_dir() and read_version(path).removed
            if not removed or champion is None or champion.name == version.name:
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
            going = table.canary(table.read(connection, self.name))
            return str(table.trial_settings(connection, self.name, going.started).get("override", "")) if going else ""

    def history(self) -> list[dict[str, Any]]:
        """Return all changes of aliases, oldest first: time, by, why, aliases afterwards, numbers and override."""
        return [{**change, "aliases": names(change["aliases"])} for change in self._changes()]

    def ended(self, trial: str) -> dict[str, Any]:
        """Return the change that ended a canary's trial, as in `history`; empty if it is running or never was."""
        changes = self._changes()
        trials = [table.canary(change["aliases"]) for change in changes]
        after = [n + 1 for n, canary in enumerate(trials) if canary and canary.started == trial]
        return changes[after[-1]] if after and after[-1] < len(changes) else {}

    def _next(self) -> str:
        used = [name for change in self.history() for name in change["aliases"].values()]  # includes removed versions
        return f"v{max([*self._numbers(), *(int(name[1:]) for name in used)], default=0) + 1}"

    def _numbers(self) -> list[int]:
        folder = self.folder / "versions"
        names = (p.name[1:] for p in folder.iterdir() if p.name.startswith("v")) if folder.is_dir() else ()
        return sorted(int(name) for name in names if name.isdecimal())

    def _with_status(self, name: str, said: Mapping[str, str]) -> Version:
        """Return a version with its status from the database; the file may be older than the decision."""
        version = read_version(self.folder / "versions" / name)
        if name in said:
            return replace(version, status=said[name])
        return replace(version, status=decisions.UNDECIDED, compared_with="")

    def _get(self, connection: sa.Connection, version_or_alias: str, entries: Entries) -> Version:
        aliases = names(entries)
        name = aliases.get(version_or_alias, version_or_alias)
        if name in self.names():
            return self._with_status(name, decisions.statuses(connection, self.name))
        known = ", ".join([*self.names(), *sorted(aliases)]) or "none yet"
        raise RegistryError(f"{self.name} has no version or alias {version_or_alias!r}; there are: {known}.")

    def _usable(self, connection: sa.Connection, version: str, entries: Entries) -> Version:
        chosen = self._get(connection, version, entries)
        if not chosen.servable.is_dir():
            raise RegistryError(f"{chosen.name} has no model at {chosen.servable}; it cannot be served.{_hint(chosen)}")
        if chosen.erasures and names(entries).get("champion") != chosen.name:
            raise RegistryError(
                f"{chosen.name} was trained on rows of a person who was forgotten since (receipt "
                f"{chosen.erasures[-1]['receipt']}); it is not used again. Run the pipeline for a version without them."
            )
        return chosen

    def _entries_and_statuses(self) -> tuple[dict[str, Any], dict[str, str]]:
        with self.database.read() as connection:
            return table.read(connection, self.name), decisions.statuses(connection, self.name)

    def _entries(self) -> dict[str, Any]:
        with self.database.read() as connection:
            return table.read(connection, self.name)

    def _changes(self) -> list[dict[str, Any]]:
        with self.database.read() as connection:
            return table.history(connection, self.name)


def _hint(version: Version) -> str:
    if not version.removed:
        return ""
    return (
        f" `llmops gc` removed it on {version.removed[:10]}: put it back from a backup, or run its day again with what "
        f"was configured then, `llmops run all --interval {version.interval}`."
    )

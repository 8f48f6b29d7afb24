"""Moves of a registry's aliases: promote, start or stop a trial, roll back. Each is a transaction, or part of one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from llmops.frame.artifacts import REMOVED_RECORD, hold_lock, write_json
from llmops.frame.errors import RegistryError
from llmops.release.registry import aliases, decisions
from llmops.release.registry.aliases import AliasChange, Canary, Entries, get_versions, replace_canary, replace_champion
from llmops.release.registry.decisions import DecisionKind, check_passed
from llmops.release.registry.version import Version
from llmops.release.registry.view import RegistryView
from llmops.state import audit


class RegistryMoves(RegistryView):
    """A registry whose aliases can be moved: versions of the model `name` below `root`, aliases in the database."""

    @contextmanager
    def transaction(self, connection: sa.Connection | None = None) -> Iterator[sa.Connection]:
        """Open a transaction, or reuse that of `connection`, so that several changes are one."""
        if connection:
            yield connection
            return
        with self.database.change() as connection:
            yield connection

    def promote(
        self,
        version: str,
        *,
        by: str = "admin",
        why: str = "promoted by hand",
        trial: str = "",
        numbers: Mapping[str, Any] | None = None,
        override: str = "",
        connection: sa.Connection | None = None,
    ) -> Version:
        """Make a version the champion. The old champion becomes `previous`, and a canary's trial ends.

        With `trial`, promote only if the trial with this start is still running; its override counts, too. `override`
        is the reason for promoting a version that the gate did not pass.

        Raises:
            NotPassed: if the gate did not pass it and there is no override.
            RegistryError: if there is no such version, it has no model, or that trial is over.
        """
        with self.transaction(connection) as connection:
            entries = aliases.read(connection, self.name)
            running = aliases.get_canary(entries)
            if trial and (running is None or running.started != trial):
                raise RegistryError(f"The canary's trial of {trial} is over; {version} is not promoted by it.")
            chosen = self._get_usable(connection, version, entries)
            if entries.get("champion") != chosen.name:
                override = override or aliases.read_trial_settings(connection, self.name, trial).get("override", "")
                reason = self._check_passed(connection, chosen, override, "champion", by)
                after = replace_champion(entries, chosen.name)
                self._move(connection, after, AliasChange("promote", chosen.name, by, why, numbers, reason))
        return chosen

    def start_canary(
        self,
        version: str,
        share: float,
        *,
        by: str = "admin",
        why: str = "started by hand",
        override: str = "",
        kind: Literal["canary", "ab_test"] = "canary",
        replace: bool = True,
    ) -> Canary:
        """Let a version answer a share of the callers. It replaces an existing canary if `replace` allows it.

        A repetition changes nothing, except that a new override is recorded. Another share restarts the trial, as a
        replacement. A trial of another kind must be ended first.

        Raises:
            NotPassed: if the gate did not pass it and there is no override.
            RegistryError: if there is no such version, it is the champion or has no model, there is no champion to
                compare with, another trial is running, or the share is not between 0 and 1.
        """
        if not 0 < share < 1:
            raise RegistryError(f"A canary's share is above 0 and below 1, not {share:g}; for all callers, promote it.")
        with self.transaction() as connection:
            entries = aliases.read(connection, self.name)
            chosen = self._get_usable(connection, version, entries)
            if "champion" not in entries:
                raise RegistryError(f"{self.name} has no champion to compare a canary with; promote a version.")
            if entries["champion"] == chosen.name:
                raise RegistryError(f"{chosen.name} is the champion; a canary is another version.")
            running = aliases.get_canary(entries)
            if running and (other := aliases.read_trial_kind(connection, self.name, running.started)) != kind:
                raise RegistryError(
                    f"{other} of {running.version} is running; there is one trial at a time, so end it first."
                )
            same = running if running and (running.version, running.share) == (chosen.name, share) else None
            if running and not same and not replace:
                raise RegistryError(
                    f"The trial of {running.version} with a share of {running.share:g} is running; an admin can end it."
                )
            known = aliases.read_trial_settings(connection, self.name, same.started).get("override", "") if same else ""
            reason = self._check_passed(connection, chosen, override or known, "canary", by, known)
            change = AliasChange(f"{kind}_start", chosen.name, by, why, override=reason, kind=kind)
            canary = same or Canary(chosen.name, share, make_trial_start())
            if same and reason not in ("", known):
                aliases.record_override(connection, self.name, same, change)
            self._move(connection, replace_canary(entries, canary), change)
        return canary

    def stop_canary(
        self,
        *,
        by: str = "admin",
        why: str = "stopped by hand",
        trial: str = "",
        numbers: Mapping[str, Any] | None = None,
        outcome: str = "stopped",
        connection: sa.Connection | None = None,
    ) -> Canary | None:
        """End the canary's trial, and return it; None if there was none. The champion then answers everybody.

        With `trial`, stop only the trial with this start.
        """
        with self.transaction(connection) as connection:
            entries = aliases.read(connection, self.name)
            running = aliases.get_canary(entries)
            if running is None or (trial and running.started != trial):
                return None
            change = AliasChange("canary_stop", running.version, by, why, numbers, outcome=outcome)
            self._move(connection, replace_canary(entries, None), change)
        return running

    def rollback(self, *, by: str = "admin", why: str = "rolled back by hand") -> Version:
        """Swap `champion` and `previous`, and end a canary's trial.

        The gate is not asked: the previous champion had passed it, or had an override.

        Raises:
            RegistryError: if there is no previous champion, its model is gone, or it was trained on a forgotten person.
        """
        with self.transaction() as connection:
            entries = aliases.read(connection, self.name)
            if "previous" not in entries:
                raise RegistryError(f"{self.name} has no previous champion to go back to.")
            chosen = self._get_usable(connection, "previous", entries)
            change = AliasChange("rollback", chosen.name, by, why)
            self._move(connection, replace_champion(entries, chosen.name), change)
        return chosen

    def retire(self, version: str, trees: Sequence[str], trash: Path, *, by: str, why: str) -> bool:
        """Remove a version's model unless an alias names it. Its documents stay. Return True if it was removed.

        `trees` are its folders and files to remove, the model first: after a kill in between it has no model any more.
        They are moved to the folder `trash`, on the same disk.
        """
        with hold_lock(self.folder / "registry"), self.transaction() as connection:
            if version in get_versions(aliases.read(connection, self.name)).values():
                return False
            path = self.folder / "versions" / version
            write_json(path / REMOVED_RECORD, {"removed": audit.now(), "by": by, "why": why})
            trash.mkdir(exist_ok=True)
            for name in trees:
                (path / name).rename(trash / name)
            audit.record(connection, "retire", by=by, target=version, fields={"model": self.name, "why": why})
        return True

    def decide(
        self,
        version: str,
        kind: DecisionKind,
        outcome: str,
        *,
        by: str,
        why: str,
        numbers: Mapping[str, Any] | None = None,
        connection: sa.Connection | None = None,
    ) -> None:
        """Record a decision on a version. `publish` does it for the gate."""
        with self.transaction(connection) as connection:
            decisions.write(connection, self.name, version, kind, outcome, by=by, why=why, numbers=numbers)

    def _check_passed(
        self, connection: sa.Connection, version: Version, override: str, to: str, by: str, known: str = ""
    ) -> str:
        """Return the override that a version needs, empty if it needs none. Record a new one."""
        reason = check_passed(connection, self.name, version, override, to)
        if reason not in ("", known):
            decisions.write(connection, self.name, version.name, "override", to, by=by, why=reason)
        return reason

    def _move(self, connection: sa.Connection, after: Entries, change: AliasChange) -> None:
        aliases.move(connection, self.name, after, change)


def make_trial_start() -> str:
    """Return the current time as the start of a trial."""
    return datetime.now(UTC).isoformat(timespec="microseconds")

"""Moves of a registry's aliases: promote, try, stop, roll back. Each is one transaction, or part of one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from llmops.frame.artifacts import GONE, locked, write_json
from llmops.frame.errors import RegistryError
from llmops.release.registry import aliases as table
from llmops.release.registry import decisions
from llmops.release.registry.aliases import Canary, Change, Entries, names, with_canary, with_champion
from llmops.release.registry.decisions import Kind, let_through
from llmops.release.registry.version import Version
from llmops.release.registry.view import RegistryView
from llmops.state import audit


class RegistryMoves(RegistryView):
    """A registry whose aliases can be moved: versions of the model `name` below `root`, aliases in the database."""

    @contextmanager
    def changing(self, connection: sa.Connection | None = None) -> Iterator[sa.Connection]:
        """Open one transaction for several changes that get its connection. Reuse `connection` if given."""
        if connection:
            yield connection
            return
        with self.database.change() as own:
            yield own

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
        with self.changing(connection) as connection:
            entries = table.read(connection, self.name)
            going = table.canary(entries)
            if trial and (going is None or going.started != trial):
                raise RegistryError(f"The canary's trial of {trial} is over; {version} is not promoted by it.")
            chosen = self._usable(connection, version, entries)
            if entries.get("champion") != chosen.name:
                given = override or table.trial_settings(connection, self.name, trial).get("override", "")
                reason = self._let_through(connection, chosen, given, "champion", by)
                after = with_champion(entries, chosen.name)
                self._move(connection, after, Change("promote", chosen.name, by, why, numbers, reason))
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
    ) -> Canary:
        """Let a version answer a share of the callers. It replaces an existing canary.

        A repetition changes nothing, except that a new override is recorded. Another share restarts the trial. A trial
        of another kind must be ended first.

        Raises:
            NotPassed: if the gate did not pass it and there is no override.
            RegistryError: if there is no such version, it is the champion or has no model, there is no champion to
                compare with, another trial is running, or the share is not between 0 and 1.
        """
        if not 0 < share < 1:
            raise RegistryError(f"A canary's share is above 0 and below 1, not {share:g}; to give it all, promote it.")
        with self.changing() as connection:
            entries = table.read(connection, self.name)
            chosen = self._usable(connection, version, entries)
            if "champion" not in entries:
                raise RegistryError(f"{self.name} has no champion to compare a canary with; promote a version.")
            if entries["champion"] == chosen.name:
                raise RegistryError(f"{chosen.name} is the champion; a canary is another version.")
            going = table.canary(entries)
            if going and (other := table.trial_kind(connection, self.name, going.started)) != kind:
                raise RegistryError(
                    f"{other} of {going.version} goes on; there is one trial at a time, so end it first."
                )
            same = going if going and (going.version, going.share) == (chosen.name, share) else None
            known = table.trial_settings(connection, self.name, same.started).get("override", "") if same else ""
            reason = self._let_through(connection, chosen, override or known, "canary", by, known)
            change = Change(f"{kind}_start", chosen.name, by, why, override=reason, kind=kind)
            canary = same or Canary(chosen.name, share, moment())
            if same and reason not in ("", known):
                table.excuse(connection, self.name, same, change)
            self._move(connection, with_canary(entries, canary), change)
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
        with self.changing(connection) as connection:
            entries = table.read(connection, self.name)
            going = table.canary(entries)
            if going is None or (trial and going.started != trial):
                return None
            change = Change("canary_stop", going.version, by, why, numbers, outcome=outcome)
            self._move(connection, with_canary(entries, None), change)
        return going

    def rollback(self, *, by: str = "admin", why: str = "rolled back by hand") -> Version:
        """Swap `champion` and `previous`, and end a canary's trial.

        The gate is not asked: the previous champion had passed it, or had an override.

        Raises:
            RegistryError: if there is no previous champion, its model is gone, or it was trained on a forgotten person.
        """
        with self.changing() as connection:
            entries = table.read(connection, self.name)
            if "previous" not in entries:
                raise RegistryError(f"{self.name} has no previous champion to go back to.")
            chosen = self._usable(connection, "previous", entries)
            self._move(connection, with_champion(entries, chosen.name), Change("rollback", chosen.name, by, why))
        return chosen

    def retire(self, version: str, trees: Sequence[str], trash: Path, *, by: str, why: str) -> bool:
        """Remove a version's model unless an alias names it. Its documents stay. Return True if it was removed.

        `trees` are its folders and files to remove, the model first: after a kill in between it is no model any more.
        They are moved to `trash`, on the same disk.
        """
        with locked(self.folder / "registry"), self.changing() as connection:
            if version in names(table.read(connection, self.name)).values():
                return False
            path = self.folder / "versions" / version
            write_json(path / GONE, {"removed": audit.now(), "by": by, "why": why})
            trash.mkdir(exist_ok=True)
            for name in trees:
                (path / name).rename(trash / name)
            audit.note(connection, "retire", by=by, target=version, fields={"model": self.name, "why": why})
        return True

    def decide(
        self,
        version: str,
        kind: Kind,
        outcome: str,
        *,
        by: str,
        why: str,
        numbers: Mapping[str, Any] | None = None,
        connection: sa.Connection | None = None,
    ) -> None:
        """Record a decision on a version. `publish` does it for the gate."""
        with self.changing(connection) as connection:
            decisions.write(connection, self.name, version, kind, outcome, by=by, why=why, numbers=numbers)

    def _let_through(
        self, connection: sa.Connection, version: Version, override: str, to: str, by: str, known: str = ""
    ) -> str:
        """Return the reason for using a version, empty if it needs none. Record a new reason."""
        reason = let_through(connection, self.name, version, override, to)
        if reason not in ("", known):
            decisions.write(connection, self.name, version.name, "override", to, by=by, why=reason)
        return reason

    def _move(self, connection: sa.Connection, after: Entries, change: Change) -> None:
        table.move(connection, self.name, after, change)


def moment() -> str:
    """Return the current time as the start of a trial."""
    return datetime.now(UTC).isoformat(timespec="microseconds")

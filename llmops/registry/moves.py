"""How the aliases of a registry are moved: promote, try, stop, go back. Each is one transaction, or part of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from llmops.artifacts import GONE, locked, write_json
from llmops.errors import RegistryError
from llmops.registry import aliases as table
from llmops.registry import decisions
from llmops.registry.aliases import Canary, Change, Entries, names, with_canary, with_champion
from llmops.registry.decisions import Kind, let_through
from llmops.registry.version import Version
from llmops.registry.view import RegistryView
from llmops.state import audit


class RegistryMoves(RegistryView):
    """The versions of the model `name` below the folder `root`, and its aliases in the database, to move these."""

    @contextmanager
    def changing(self, connection: sa.Connection | None = None) -> Iterator[sa.Connection]:
        """One transaction, for several changes that are to be one: each is given its connection. With one that goes on
        already, that one."""
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
        """Make a version the champion; the champion there was becomes `previous`, and a canary's trial is over.

        Args:
            version: its name, or an alias.
            by, why, numbers: for the history.
            trial: only if the canary's trial that started then still goes on; the override that it was started with
                counts for this, too.
            override: why one that the gate did not pass is promoted all the same.
            connection: as for `decide`.

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
        """Let a version answer a share of the callers; it replaces a canary there is.

        Asking for what is there already changes nothing, but that a reason it needs is written down. Another share
        starts the trial anew; one of another kind does not begin before that is over.

        Raises:
            RegistryError: if there is no such version, it is the champion or has no model, the gate did not pass it and
                no `override` says why it is tried all the same, there is no champion to compare it with, or the share
                is not above 0 and below 1.
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
        """End the canary's trial; the champion answers everybody. Returns what was ended, None if there was nothing.

        Args:
            by, why, numbers: for the history.
            trial: only if the canary's trial that started then still goes on.
            outcome: of the trial.
            connection: as for `decide`.
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
        """Swap `champion` and `previous`; doing it twice changes nothing but that a canary's trial is over.

        What the gate said of the previous champion is not asked: it got there by the gate, or by an override.

        Raises:
            RegistryError: if there was no champion before, its model is gone, or it was trained on a forgotten person.
        """
        with self.changing() as connection:
            entries = table.read(connection, self.name)
            if "previous" not in entries:
                raise RegistryError(f"{self.name} has no previous champion to go back to.")
            chosen = self._usable(connection, "previous", entries)
            self._move(connection, with_champion(entries, chosen.name), Change("rollback", chosen.name, by, why))
        return chosen

    def retire(self, version: str, trees: Sequence[str], trash: Path, *, by: str, why: str) -> bool:
        """Take a version's model away, unless an alias names it: it stays to be read about, and is served no more.

        Args:
            version: its name.
            trees: names of its folders and files that go; the model first, so that killed on the way, it is no model.
            trash: folder that they are moved to, on the same disk.
            by, why: for the audit, and the version's `gone.json`.

        Returns:
            Whether it was done.
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
        """Write down a decision on a version; `publish` does it for the gate's.

        Args:
            version: its name.
            kind: whose decision.
            outcome: what was decided, in one word.
            by, why, numbers: who, the reason, and what it was decided on.
            connection: of a transaction that this is to be part of; None: it is one of its own.
        """
        with self.changing(connection) as connection:
            decisions.write(connection, self.name, version, kind, outcome, by=by, why=why, numbers=numbers)

    def _let_through(
        self, connection: sa.Connection, version: Version, override: str, to: str, by: str, known: str = ""
    ) -> str:
        """The reason for using a version, "" if it needs none; written down unless it is known."""
        reason = let_through(connection, self.name, version, override, to)
        if reason not in ("", known):
            decisions.write(connection, self.name, version.name, "override", to, by=by, why=reason)
        return reason

    def _move(self, connection: sa.Connection, after: Entries, change: Change) -> None:
        table.move(connection, self.name, after, change)


def moment() -> str:
    """Now, as the time that names a trial."""
    return datetime.now(UTC).isoformat(timespec="microseconds")

"""What 0.1.0 kept in files beside the versions is taken into the database, once.

{root}/{name}/aliases.json      alias → version; `canary` → its version, share and start
{root}/{name}/history.jsonl     every change: time, by, why, the aliases after it, perhaps numbers

What replicas had counted in a canary's trial (`canary/*.json`) is not taken over: counts of requests tell nothing of
callers. A canary that the gate had not passed, which 0.1.0 allowed without a reason, ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from llmops.errors import RegistryError
from llmops.registry import aliases, decisions
from llmops.registry.aliases import Change, canary, with_canary
from llmops.registry.version import read_version
from llmops.state import audit
from llmops.state.database import Database
from llmops.state.tables import audit as audited
from llmops.state.tables import changes, trials

log = logging.getLogger(__name__)

FILES = ("aliases.json", "history.jsonl")
DONE = ".taken-over"  #: ends their names afterwards


def take_over(database: Database, folder: Path) -> None:
    """Take over a registry's files of 0.1.0, if they are there and the database knows nothing of the model yet.

    All is one transaction: killed in it, nothing has happened, and who comes meanwhile waits for it. Afterwards the
    files have other names, where they can be renamed; they are not read again.

    Raises:
        RegistryError: if a file is damaged, naming it and the line; or if the files are another registry's than the one
            that the database knows by this name.
    """
    if not (folder / FILES[0]).exists():
        return
    with database.read() as connection:
        done = known(connection, folder.name)
    if not done:
        with database.change() as connection:
            if not known(connection, folder.name):  # nobody was faster
                entries, past = read(folder)
                _write(connection, folder, entries, past)
                log.info("%s: aliases and %d changes are taken over from files", folder.name, len(past))
    with database.read() as connection:
        same = _digest(folder) in _taken(connection, folder.name)
    if not same and not (folder / (FILES[0] + DONE)).exists():  # and nobody has renamed them meanwhile
        raise RegistryError(
            f"{folder} holds a registry of 0.1.0, and {database.name} knows another one named {folder.name}. Give one "
            f"of the two a database of its own (state.url), or another name: rename {folder} and set release.name."
        )
    for name in FILES:
        with contextlib.suppress(OSError):  # gone already, or a disk that is only read
            (folder / name).rename(folder / (name + DONE))


def known(connection: sa.Connection, model: str) -> bool:
    """Whether the database has a change of the model's aliases."""
    return connection.execute(sa.select(changes.c.id).where(changes.c.model == model).limit(1)).first() is not None


def _digest(folder: Path) -> str:
    """SHA-256 of the files."""
    digest = hashlib.sha256()
    for name in FILES:
        with contextlib.suppress(FileNotFoundError):  # there is no history, or it is renamed just now
            digest.update(name.encode() + (folder / name).read_bytes())
    return digest.hexdigest()


def _taken(connection: sa.Connection, model: str) -> set[str]:
    """The digests of the files that a model was taken over from."""
    these = (audited.c.action == "take_over") & (audited.c.target == model)
    return {fields.get("sha256", "") for fields in connection.scalars(sa.select(audited.c.fields).where(these))}


def read(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The entries of `aliases.json` and the changes of `history.jsonl`."""
    path = folder / FILES[0]
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        _check(entries)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise RegistryError(f"{path} is damaged ({error}); restore it from the last line of history.jsonl.") from error
    path, past = folder / FILES[1], []
    lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            change = json.loads(line.decode()) if line else None
            if change:
                _check(change["aliases"])
                if wrong := [name for name in ("time", "by", "why") if not isinstance(change[name], str)]:
                    raise ValueError(f"{wrong[0]} is no text")
                past.append(
                    {name: change[name] for name in ("time", "by", "why", "aliases")}
                    | {"numbers": change.get("numbers")}
                )
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise RegistryError(f"Line {number} of {path} is damaged ({error}); mend it or take it out.") from error
    return entries, past


def _check(entries: dict[str, Any]) -> None:
    """Refuse aliases that are not what 0.1.0 writes."""
    trial = canary(entries)
    if wrong := [version for version in aliases.names(entries).values() if not re.fullmatch("v[0-9]+", version)]:
        raise ValueError(f"{wrong[0]!r} is no version")
    if trial and not (isinstance(trial.started, str) and type(trial.share) in (int, float) and 0 < trial.share <= 1):
        raise ValueError("the canary has no share of the callers, or no time that it started at")


def _write(connection: sa.Connection, folder: Path, entries: dict[str, Any], past: list[dict[str, Any]]) -> None:
    model, before = folder.name, dict[str, Any]()
    if not past or past[-1]["aliases"] != entries:
        why = "taken over from aliases.json"
        past = [*past, {"time": "", "by": "llmops", "why": why, "aliases": entries, "numbers": None}]
    for change in past:
        after = change["aliases"]
        told = Change("", "", change["by"], change["why"], change["numbers"])
        aliases.note(connection, model, after, told, change["time"])
        gone, new = canary(before), canary(after)
        if gone and gone != new:
            outcome = "promoted" if gone.version == after.get("champion") else "over"
            aliases.end_trial(connection, model, gone, outcome, change["time"])
        if new and new != gone:  # one that was begun before, as in a file mended by hand, goes on
            these = (trials.c.model == model) & (trials.c.started == new.started)
            connection.execute(sa.delete(trials).where(these))
            aliases.begin_trial(connection, model, new, {})
        before = after
    aliases.put(connection, model, entries)
    _write_decisions(connection, folder)
    if going := canary(entries):
        status = decisions.statuses(connection, model).get(going.version, decisions.UNDECIDED)
        if status == "promoted":
            log.warning("%s: what 0.1.0 has counted of the canary %s is left; it counts anew", model, going.version)
        else:
            why = f"taken over: {going.version} is {status} by the gate and was a canary without a reason"
            aliases.move(
                connection, model, with_canary(entries, None), Change("canary_stop", going.version, "llmops", why)
            )
    fields = {"changes": len(past), "sha256": _digest(folder)}
    audit.note(connection, "take_over", by="llmops", target=model, fields=fields)


def _write_decisions(connection: sa.Connection, folder: Path) -> None:
    """What the gate decided on each version."""
    found = {path.parent.name: path for path in folder.glob("versions/v*/decision.json")}
    for name in found.keys() - {name for name in found if name[1:].isdecimal()}:
        log.warning("%s is no version's folder; it is left as it is", found.pop(name).parent)
    for name, path in sorted(found.items(), key=lambda item: int(item[0][1:])):
        try:
            decision = dict(json.loads(path.read_text(encoding="utf-8")))
            outcome, why = str(decision["outcome"]), "; ".join(decision["reasons"])
        except (ValueError, TypeError, KeyError) as error:
            raise RegistryError(
                f"{path} is damaged ({error!r}); restore it from a backup, or remove it: {name} then counts as not "
                "decided on, and needs a reason to be promoted."
            ) from error
        version = read_version(path.parent)
        told: dict[str, Any] = {"numbers": {**decision, "compress": version.compress}, "time": version.created}
        decisions.write(connection, folder.name, name, "gate", outcome, by="gate", why=why, **told)

"""Decisions on versions by the gate, trials or people, each with its reason and numbers."""

import unicodedata
from collections.abc import Mapping
from typing import Any, Literal

import sqlalchemy as sa

from llmops.frame.errors import RegistryError
from llmops.release.registry.version import Version
from llmops.state import audit
from llmops.state.tables import decisions

Kind = Literal["gate", "canary", "ab_test", "override"]
MOST_CHARS = 500  #: longest reason for an override
UNDECIDED = "undecided"  #: status of a version without a decision of the gate


class NotPassed(RegistryError):
    """The gate did not pass a version, and there is no override."""


def write(
    connection: sa.Connection,
    model: str,
    version: str,
    kind: Kind,
    outcome: str,
    *,
    by: str,
    why: str,
    numbers: Mapping[str, Any] | None = None,
) -> None:
    """Add a decision. Skip a decision of the gate that repeats its last one on the version, as after a re-run."""
    row = {"model": model, "version": version, "kind": kind, "outcome": outcome, "by": by, "why": why}
    said = {"numbers": dict(numbers or {})}
    if kind == "gate" and (last := read(connection, model, version, kind)):
        test = last[-1]["numbers"].get("test")
        if (last[-1]["outcome"], last[-1]["why"], test) == (outcome, why, said["numbers"].get("test")):
            return
    connection.execute(sa.insert(decisions).values(row | said | {"time": audit.now()}))


def read(connection: sa.Connection, model: str, version: str = "", kind: Kind | None = None) -> list[dict[str, Any]]:
    """Return the decisions on a model, or one version, oldest first: version, kind, time, outcome, by, why, numbers."""
    table = decisions.c
    query = sa.select(table.version, table.kind, table.time, table.outcome, table.by, table.why, table.numbers).where(
        table.model == model
    )
    if version:
        query = query.where(table.version == version)
    if kind:
        query = query.where(table.kind == kind)
    return [dict(row._mapping) for row in connection.execute(query.order_by(table.id))]


def statuses(connection: sa.Connection, model: str) -> dict[str, str]:
    """Return version → last outcome of the gate."""
    table = decisions.c
    query = sa.select(table.version, table.outcome).where((table.model == model) & (table.kind == "gate"))
    return {row.version: row.outcome for row in connection.execute(query.order_by(table.id))}


def let_through(connection: sa.Connection, model: str, version: Version, override: str, to: str) -> str:
    """Check that the gate passed a version, or that there is an override.

    Returns:
        The reason; empty if none was needed.

    Raises:
        NotPassed: if the gate did not pass it and there is no override.
        RegistryError: if the reason is not a line of text.
    """
    if version.status == "promoted":
        return ""
    reason = override.strip()
    if reason and reason.isprintable() and len(reason) <= MOST_CHARS and any(map(_legible, reason)):
        return reason
    if override:
        raise RegistryError(
            f"The reason of an override is one line of at most {MOST_CHARS} printable characters, with words in it."
        )
    gate = read(connection, model, version.name, "gate")
    said = f": {gate[-1]['why']}" if gate and gate[-1]["why"] else ""
    if version.status == UNDECIDED:
        said = ": there is no decision on it in the database; run the stage release again"
    raise NotPassed(
        f"{version.name} is {version.status} by the gate{said}. To make it {to} all the same, say why: "
        "`--override REASON`, in the API the field `override`."
    )


def _legible(character: str) -> bool:
    return character.isalnum() and "FILLER" not in unicodedata.name(character, "")

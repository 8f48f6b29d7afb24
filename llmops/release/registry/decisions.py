"""Decisions on versions by the gate, trials or people, each with its reason and numbers."""

import unicodedata
from collections.abc import Mapping
from typing import Any, Literal

import sqlalchemy as sa

from llmops.frame.errors import RegistryError
from llmops.release.registry.version import Version
from llmops.state import audit
from llmops.state.tables import decisions

DecisionKind = Literal["gate", "canary", "ab_test", "override"]
MAX_CHARS = 500  #: longest reason for an override
UNDECIDED = "undecided"  #: status of a version without a decision of the gate


class NotPassed(RegistryError):
    """The gate did not pass a version, and there is no override."""


def write(
    connection: sa.Connection,
    model: str,
    version: str,
    kind: DecisionKind,
    outcome: str,
    *,
    by: str,
    why: str,
    numbers: Mapping[str, Any] | None = None,
) -> None:
    """Add a decision. Skip a decision of the gate that repeats its last one on the version, as after a re-run."""
    row = {"model": model, "version": version, "kind": kind, "outcome": outcome, "by": by, "why": why}
    figures = dict(numbers or {})
    if kind == "gate" and (earlier := read(connection, model, version, kind)):
        last = earlier[-1]
        if (last["outcome"], last["why"], last["numbers"].get("test")) == (outcome, why, figures.get("test")):
            return
    connection.execute(sa.insert(decisions).values(row | {"numbers": figures, "time": audit.now()}))


def read(
    connection: sa.Connection, model: str, version: str = "", kind: DecisionKind | None = None
) -> list[dict[str, Any]]:
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


def read_statuses(connection: sa.Connection, model: str) -> dict[str, str]:
    """Return version → last outcome of the gate."""
    table = decisions.c
    query = sa.select(table.version, table.outcome).where((table.model == model) & (table.kind == "gate"))
    return {row.version: row.outcome for row in connection.execute(query.order_by(table.id))}


def check_passed(connection: sa.Connection, model: str, version: Version, override: str, to: str) -> str:
    """Check that the gate passed a version, or that there is an override.

    Returns:
        The reason of the override; empty if the gate passed the version.

    Raises:
        NotPassed: if the gate did not pass it and there is no override.
        RegistryError: if the reason is not a line of text.
    """
    if version.status == "promoted":
        return ""
    reason = override.strip()
    is_legible = any(c.isalnum() and "FILLER" not in unicodedata.name(c, "") for c in reason)
    if is_legible and reason.isprintable() and len(reason) <= MAX_CHARS:
        return reason
    if override:
        raise RegistryError(
            f"The reason of an override is one line of at most {MAX_CHARS} printable characters, with words in it."
        )
    gate = read(connection, model, version.name, "gate")
    cause = f": {gate[-1]['why']}" if gate and gate[-1]["why"] else ""
    if version.status == UNDECIDED:
        cause = ": there is no decision on it in the database; run the stage release again"
    raise NotPassed(
        f"{version.name} is {version.status} by the gate{cause}. To make it {to} nevertheless, give a reason: "
        "`--override REASON`, in the API the field `override`."
    )

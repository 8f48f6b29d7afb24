"""The gate's ledger: a frozen test has a budget of chances to be wrong, which attempts spend and new items refill.

Whoever asks the same test often enough passes it by chance. So all attempts on a test together may promote a candidate
that is no better with a chance of at most `ALPHA`: the k-th has the level ALPHA / (k (k + 1)), 0.025, 0.0083, 0.0042,
…, and these add up to ALPHA, however the attempts hang together (a union bound, as in alpha spending: Foster and Stine
2008). Until something is promoted, "rejected" is all that the next candidate can have been made after, so the bound
holds for candidates that follow from the outcomes, too (Blum and Hardt 2015, "The Ladder"). It does not hold for
candidates that are fitted to the figures of the test; `benchmarks/gate.py` measures what is between.

Items that no attempt has asked before know nothing of earlier candidates: of what was spent, the share of new items in
the test is given back. All levels of a test that grows from n to N items add up to less than ALPHA (1 + log(N / n)).
Every earlier attempt that shares an item with a test counts, and an item is a question with its context, whatever the
case, the spaces and the closing punctuation: written otherwise it is no new one.

The rows are in the table `attempts`, written in the transaction that publishes the version: a kill spends neither twice
nor never.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import sqlalchemy as sa

from llmops.config import Release
from llmops.frame.artifacts import Record
from llmops.release.lineage import weights
from llmops.state import audit
from llmops.state.tables import attempts as table

ALPHA = 0.05  #: most that the chance of a wrong promotion may be, over all attempts on a test

_MADE_BY = ("annotate", "select", "features", "tune", "train", "compress", "evaluate")
_JUDGED_BY = {"primary", "min_effect", "guardrails", "floors", "min_items", "min_groups"}  #: of the section release
_DATA = ("train.parquet", "validation.parquet")  #: of the annotate artifact
_DOCUMENTS = {"collect", "grounding", "serving"}  #: sections of `evaluate` that change as documents do


class LedgerMoved(Exception):
    """Another attempt was written down since the ledger was read."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A candidate that was decided on."""

    test: str  #: `frozen_test` of the items it was asked
    number: int
    version: str
    identity: str  #: what made it and what judged it, but seeds
    asked: tuple[str, ...]  #: ids of the items
    level: float  #: one-sided
    left: float  #: of the budget, after it
    outcome: str


@dataclass(frozen=True, slots=True)
class Chance:
    """The number, the level and the budget of the next attempt on a test."""

    number: int
    level: float  #: one-sided
    before: float  #: what the budget holds
    left: float  #: and what it will hold after the attempt


def next_chance(attempts: Sequence[Attempt], items: Iterable[str]) -> Chance:
    """Return number and level of the next attempt on a test of these items, after all earlier attempts.

    A test of new items alone starts with the whole budget and with attempt 1. Else the budget is ALPHA less the levels
    at which its items, on average, were asked. It is at most what each attempt that shares items has left, plus the
    share of items that this attempt did not ask. So new items refill it, and leaving old ones out does not.
    """
    ids = set(items)
    number, left, spent = 0, ALPHA, 0.0
    for attempt in attempts:
        share = len(ids.intersection(attempt.asked)) / max(1, len(ids))
        if share:
            number = max(number, attempt.number)
            left = min(left, attempt.left + (ALPHA - attempt.left) * (1 - share))
            spent += attempt.level * share
    left = max(0.0, min(left, ALPHA - spent))
    level = left * left / (ALPHA + left)  # of what is left after k attempts, ALPHA / (k + 1), the share 1 / (k + 2)
    return Chance(number + 1, level, left, left - level)


def twin(attempts: Sequence[Attempt], test: str, identity: str, version: str) -> Attempt | None:
    """Return an attempt of another version on the same test that was made by the same but for seeds, if any."""
    return next((a for a in attempts if (a.test, a.identity) == (test, identity) and a.version != version), None)


def frozen_test(items: Iterable[str]) -> str:
    """Return 16 hex digits that name a frozen test: the hash of its items' ids."""
    return _hash(sorted(set(items)))


def identity(known: Mapping[str, Record], config: Release, selection: Mapping[str, Any]) -> str:
    """Return a hash (16 hex digits) of all inputs of a candidate and its judgement, except seeds.

    These are data, base model, settings, code, libraries and the GPU, from the records behind the release and
    `selection.json`. Of documents it tells only whether there were some.
    """
    records = [(stage, known[stage]) for stage in _MADE_BY if stage in known]
    made = [(stage, _settings(one), one.code, one.environment) for stage, one in records]
    data = {name: known["annotate"].files.get(name, "") for name in _DATA}
    asked = known["evaluate"].inputs.get("index") and known["index"].metrics.get("passages")
    return _hash([made, data, *_judged(known, config, selection), *(["documents"] if asked else [])])


def untrained_identity(known: Mapping[str, Record], config: Release, selection: Mapping[str, Any]) -> str:
    """Return a hash (16 hex digits) of all inputs of the base model with documents and its judgement, except seeds."""
    evaluate = known["evaluate"]
    made = [_settings(evaluate), evaluate.code, evaluate.environment, known["index"].content]
    return _hash([made, *_judged(known, config, selection)])


def read(connection: sa.Connection, model: str) -> list[Attempt]:
    """Return all attempts of a model's versions, oldest first."""
    rows = connection.execute(sa.select(table).where(table.c.model == model).order_by(table.c.id)).mappings()
    names = [field.name for field in fields(Attempt)]
    return [Attempt(**{**{name: row[name] for name in names}, "asked": tuple(row["asked"])}) for row in rows]


def spend(connection: sa.Connection, model: str, chance: Chance, attempt: Attempt) -> None:
    """Write down an attempt that was decided with `chance`.

    Raises:
        LedgerMoved: if another attempt came between, so that the next chance is another.
    """
    if next_chance(read(connection, model), attempt.asked) != chance:
        raise LedgerMoved
    row: dict[str, Any] = {**asdict(attempt), "asked": list(attempt.asked)}
    row |= {"model": model, "time": audit.now(), "items": len(attempt.asked)}
    connection.execute(sa.insert(table).values(row))


def _judged(known: Mapping[str, Record], config: Release, selection: Mapping[str, Any]) -> list[Any]:
    base = [selection["model"], selection["revision"], weights(selection, known["select"])]
    return [base, config.model_dump(mode="json", include=_JUDGED_BY)]


def _settings(record: Record) -> Any:
    """Return the configuration without seeds. Of the documents it only tells that there were some."""
    return _without_seeds({name: name if name in _DOCUMENTS else value for name, value in record.config.items()})


def _without_seeds(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_seeds(item) for key, item in value.items() if key != "seed"}
    return value


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]

"""The gate's ledger: a frozen test has an error budget, which attempts spend and new items refill.

With enough attempts on one test, a candidate passes it by chance. So all attempts on a test together may promote a
candidate that is no better with a probability of at most `ALPHA`: the k-th has the level ALPHA / (k (k + 1)), 0.025,
0.0083, 0.0042, …, and these add up to ALPHA, even if the attempts depend on each other (a union bound, as in alpha
spending: Foster and Stine 2008). Until something is promoted, the next candidate can only depend on outcomes that are
all "rejected", so the bound holds for candidates that follow from the outcomes, too (Blum and Hardt 2015, "The
Ladder"). It does not hold for candidates that are fitted to the figures of the test; `benchmarks/gate.py` measures the
cases between.

New items are independent of earlier candidates. So the share of new items in a test is given back of the spent budget.
All levels of a test that grows from n to N items add up to less than ALPHA (1 + log(N / n)). Every earlier attempt that
shares an item with a test counts. An item is a question with its context; another case, spacing or closing punctuation
makes no new item.

The rows are in the table `attempts`, written in the transaction that publishes the version, so that a kill loses no
attempt and counts none twice.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import sqlalchemy as sa

from llmops.config import Release
from llmops.frame.artifacts import SKIPPED, Record
from llmops.release.lineage import list_weights
from llmops.state import audit
from llmops.state.tables import attempts as table

ALPHA = 0.05  #: highest probability of a wrong promotion, over all attempts on a test

_MADE_BY = ("annotate", "select", "features", "tune", "train", "compress", "evaluate")
_JUDGED_BY = {"primary", "min_effect", "guardrails", "floors", "min_items", "min_groups"}  #: of the section release
_DATA = ("train.parquet", "validation.parquet")  #: of the annotate artifact
_DOCUMENTS = {"collect", "grounding", "serving"}  #: sections of `evaluate` that change as documents do


class LedgerChanged(Exception):
    """Another attempt was recorded since the ledger was read."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A decision on a candidate that spent a part of the budget."""

    test: str  #: `hash_test` of its items
    number: int
    version: str
    identity: str  #: hash of all inputs of the candidate and its judgement, except seeds
    asked: tuple[str, ...]  #: ids of the items
    level: float  #: one-sided
    left: float  #: of the budget, after it
    outcome: str


@dataclass(frozen=True, slots=True)
class Chance:
    """The number, the level and the budget of the next attempt on a test."""

    number: int
    level: float  #: one-sided
    budget: float  #: before the attempt
    left: float  #: of the budget, after it


def compute_next_chance(attempts: Sequence[Attempt], items: Iterable[str]) -> Chance:
    """Return number, level and budget of the next attempt on a test of these items, after all earlier attempts.

    A test of new items alone starts with the whole budget and with attempt 1. Else the budget is ALPHA minus the levels
    of earlier attempts, averaged over the items. It is at most the rest that each attempt with shared items left, plus
    a refill for the share of items that this attempt did not ask. So new items refill it, and removed ones do not.
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


def find_reseeded(attempts: Sequence[Attempt], test: str, identity: str, version: str) -> Attempt | None:
    """Return an attempt of another version on the same test that differs at most by seeds, if there is one."""
    return next((a for a in attempts if (a.test, a.identity) == (test, identity) and a.version != version), None)


def hash_test(items: Iterable[str]) -> str:
    """Return the name of a frozen test: 16 hex digits of the hash of its items' ids."""
    return _hash(sorted(set(items)))


def hash_identity(known: Mapping[str, Record], config: Release, selection: Mapping[str, Any]) -> str:
    """Return a hash (16 hex digits) of all inputs of a candidate and its judgement, except seeds.

    The inputs are data, base model, settings, code, libraries and the GPU, from the records behind the release and
    `selection.json`. Of documents it tells which ones are in training prompts, and whether there were some in the test.
    """
    records = [(stage, known[stage]) for stage in _MADE_BY if stage in known]
    made = [(stage, _select_settings(one), one.code, one.environment) for stage, one in records]
    data = {name: known["annotate"].files.get(name, "") for name in _DATA}
    asked = known["evaluate"].inputs.get("index") and known["index"].metrics.get("passages")
    judged = _list_judging_inputs(known, config, selection)
    return _hash([made, data, *judged, *(["documents"] if asked else []), *_list_prompts(known.get("features"))])


def hash_untrained_identity(known: Mapping[str, Record], config: Release, selection: Mapping[str, Any]) -> str:
    """Return a hash (16 hex digits) of all inputs of the base model with documents and its judgement, except seeds."""
    evaluate = known["evaluate"]
    settings = _remove_seeds({name: value for name, value in evaluate.config.items() if name != "collect"})
    made = [settings, evaluate.code, evaluate.environment, known["index"].content]
    return _hash([made, *_list_judging_inputs(known, config, selection)])


def read(connection: sa.Connection, model: str) -> list[Attempt]:
    """Return all attempts of a model's versions, oldest first."""
    rows = connection.execute(sa.select(table).where(table.c.model == model).order_by(table.c.id)).mappings()
    names = [field.name for field in fields(Attempt)]
    return [Attempt(**{**{name: row[name] for name in names}, "asked": tuple(row["asked"])}) for row in rows]


def record_attempt(connection: sa.Connection, model: str, chance: Chance, attempt: Attempt) -> None:
    """Write an attempt that was decided with `chance`.

    Raises:
        LedgerChanged: if another attempt was recorded meanwhile, so that the next chance is another.
    """
    if compute_next_chance(read(connection, model), attempt.asked) != chance:
        raise LedgerChanged
    row: dict[str, Any] = {**asdict(attempt), "asked": list(attempt.asked)}
    row |= {"model": model, "time": audit.now(), "items": len(attempt.asked)}
    connection.execute(sa.insert(table).values(row))


def _list_judging_inputs(known: Mapping[str, Record], config: Release, selection: Mapping[str, Any]) -> list[Any]:
    base = [selection["model"], selection["revision"], list_weights(selection, known["select"])]
    return [base, config.model_dump(mode="json", include=_JUDGED_BY)]


def _list_prompts(features: Record | None) -> list[Any]:
    """Return what decides the passages in training prompts; empty without any."""
    if not features or SKIPPED in features.metrics or "index" not in features.contents:
        return []
    return [features.contents["index"], features.config["grounding"], features.config["serving"]]


def _select_settings(record: Record) -> Any:
    """Return the configuration without seeds. Sections about documents are reduced to their names."""
    return _remove_seeds({name: name if name in _DOCUMENTS else value for name, value in record.config.items()})


def _remove_seeds(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _remove_seeds(item) for key, item in value.items() if key != "seed"}
    return value


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]

"""Assign each question to a split: by the decision of earlier runs, otherwise by hash.

A hash of the seed and a key gives every group, or every wording, a number from 0 to 1; below `test` it is tested, below
`test + validation` it validates, above it trains. Shares are therefore met on average, not exactly, and the same data
gives the same splits in whatever order it comes.

The frozen test only grows. A question is tested because something exists (a claim on the question in a tested group,
another wording of the topic), never because something is missing. So more data can move a question into the test but
not out of it. If sources disagree on a question's group, one that tests it wins, then one that validates it.

Earlier runs (see `past`) decide before the hash: a tested question stays tested, and a trained one stays on the
training side. A question that would be on both sides is held out.
"""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import polars as pl

from llmops.config import Annotate
from llmops.data.annotate.past import TEST, TRAIN, VALIDATION, Past, key

_HELD_OUT = "held out"  # neither tested nor trained on
SPLIT = pl.Enum((TEST, _HELD_OUT, VALIDATION, TRAIN))  #: the strongest first


class Claim(NamedTuple):
    """One source's question, and the group (topic) that the source gives it."""

    wording: str  #: of the question, from `wording_id`
    group: str
    source: str


def fraction(seed: int, key: str) -> float:
    """Return a number from 0 to 1 that depends only on the seed and the key."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56)


def keyed(claims: Iterable[Claim], config: Annotate) -> pl.DataFrame:
    """Return claims as numbers: `wording` and `group` by `key`, the deciding `fraction`, and `testable`."""
    rows = [
        (
            key(claim.wording),
            key(claim.group),
            fraction(config.seed, claim.group if config.split_by == "group" else claim.wording),
            not config.test_sources or claim.source in config.test_sources,
        )
        for claim in claims
    ]
    columns = {"wording": pl.UInt64, "group": pl.UInt64, "fraction": pl.Float64, "testable": pl.Boolean}
    return pl.DataFrame(rows, columns, orient="row")


def splits(claims: pl.DataFrame, config: Annotate, past: Past) -> pl.Series:
    """Return the split of each claim, null for a claim that is not upheld.

    All upheld claims on one wording are in one split and one group: where the claims on it differ, the one in the
    strongest split is upheld (test, then held out, validation and training), among equals the first. A wording that is
    held out, to be neither tested nor trained on, has no claim upheld. The claims are from `keyed`.
    """
    decided = _by_group(claims, config, past) if config.split_by == "group" else _by_wording(claims, config, past)
    found = claims.select("wording", "group", decided.cast(SPLIT).alias("split"))
    best = found.filter(pl.col("split") == pl.col("split").min().over("wording"))
    best = best.unique("wording", keep="first", maintain_order=True)
    held = found.join(best, "wording", "left", suffix="_held", maintain_order="left")
    upheld = (pl.col("split") == pl.col("split_held")) & (pl.col("group") == pl.col("group_held"))
    return held.select(pl.when(upheld & (pl.col("split") != _HELD_OUT)).then("split"))["split"]


def _by_group(claims: pl.DataFrame, config: Annotate, past: Past) -> pl.Series:
    """Return the split of each claim if whole groups are split.

    A group is tested if it was before, or if its number is below `test` and a test source asks a question in it. A
    group that was trained on is never tested. Questions of other sources in a tested group are held out, since training
    on them would give the topic away. If a tested question moves to a new group, that group is tested too.
    """
    wording, group = pl.col("wording"), pl.col("group")
    testable = pl.col("testable") & ~_in(wording, past.used["wording"])
    tested_before = _in(wording, past.tested["wording"])
    new = claims.filter(
        testable & ((pl.col("fraction") < config.test) | tested_before), ~_in(group, past.used["group"])
    )
    tested = pl.concat([past.tested_groups, new["group"]])
    later = _in(wording, past.later["wording"]) | _in(group, past.later["group"])
    return claims.select(
        pl.when(_in(group, tested))
        .then(pl.when(testable).then(pl.lit(TEST)).otherwise(pl.lit(_HELD_OUT)))
        .when(tested_before | later)
        .then(pl.lit(_HELD_OUT))
        .otherwise(_validation_or_train(config))
        .alias("split")
    )["split"]


def _by_wording(claims: pl.DataFrame, config: Annotate, past: Past) -> pl.Series:
    """Return the split of each claim if the wordings within a group are split.

    A wording is tested if it was before, or if its number is below `test`, a test source asks it, it was never trained
    on, and another wording of its group is sure to be trained on. A wording of a source that is not tested is sure, and
    so is the one with the highest number of the group; if `test_sources` are named, only if that number is not below
    `test`.

    A wording that lacks only this other wording trains, unless `test_sources` are named and no other source asks it.
    Then it is held out: it becomes a test item when the other wording comes, and no model may have been trained on it
    by then.
    """
    value, wording, testable = pl.col("fraction"), pl.col("wording"), pl.col("testable")
    tested, later = _in(wording, past.tested["wording"]), _in(wording, past.later["wording"])
    untested = claims.filter(~testable, ~tested, ~later).select("wording", "group").unique()  # of no tested source
    others = pl.col("untested").fill_null(0) - pl.col("there").fill_null(0)  # untested wordings of the group, but this
    frame = (
        claims.with_columns(value.max().over("group").alias("top"))
        .join(untested.group_by("group").agg(pl.len().alias("untested")), "group", "left", maintain_order="left")
        .join(untested.with_columns(there=pl.lit(1)), ["group", "wording"], "left", maintain_order="left")
    )
    top = pl.col("top")
    sure = (others > 0) | (top >= config.test if config.test_sources else top > value)
    alone = ~_in(wording, untested["wording"]) if config.test_sources else pl.lit(False)
    by_number = (
        pl.when(value >= config.test)
        .then(pl.when(value < top).then(_validation_or_train(config)).otherwise(pl.lit(TRAIN)))
        .when(~testable | _in(wording, past.used["wording"]))
        .then(pl.lit(TRAIN))
        .when(sure)
        .then(pl.lit(TEST))
        .otherwise(pl.when(alone).then(pl.lit(_HELD_OUT)).otherwise(pl.lit(TRAIN)))
    )
    return frame.select(
        pl.when(tested)
        .then(pl.when(testable).then(pl.lit(TEST)).otherwise(pl.lit(_HELD_OUT)))
        .when(later & (by_number != TEST))
        .then(pl.lit(_HELD_OUT))
        .otherwise(by_number)
        .alias("split")
    )["split"]


def _validation_or_train(config: Annotate) -> pl.Expr:
    within = pl.col("fraction").is_between(config.test, config.test + config.validation, closed="left")
    return pl.when(within).then(pl.lit(VALIDATION)).otherwise(pl.lit(TRAIN))


def _in(values: pl.Expr, some: pl.Series) -> pl.Expr:
    return values.is_in(some.unique().implode())

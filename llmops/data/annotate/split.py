"""Which question falls into which split: as earlier runs have decided, else by hash.

A hash of the seed and a key gives every group, or every wording, a number from 0 to 1; below `test` it is tested, below
`test + validation` it validates, above it trains. Shares are therefore met on average, not exactly, and the same data
gives the same splits in whatever order it comes.

The frozen test only grows. What decides for it is always that something is there (a claim on the question in a tested
group, another wording of the topic), never that something is missing, so more data can move a question into the test
but not out of it. Where sources disagree on a question's group, one that tests it wins, then one that validates it.

What earlier runs have used (see `past`) comes before the hash: a tested question stays tested and what was trained on
stays on the training side. What would have to be both is held out.

A topic that only users have told of is a *lesson*: the model is to learn it, and whether it did can be asked only in
other words than those that it was taught in. So its wordings are split, whatever `split_by` says of the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import polars as pl

from llmops.config import Annotate
from llmops.data.annotate.past import TEST, TRAIN, VALIDATION, Past, key
from llmops.data.text.comparable import comparable
from llmops.records import content_id

_HELD_OUT = "held out"  # neither tested nor trained on
SPLIT = pl.Enum((TEST, _HELD_OUT, VALIDATION, TRAIN))  #: the strongest first
_TRAILING = " \t.!?…。？！,;:"


class Claim(NamedTuple):
    """One source asks one question, and says which group (topic) the question belongs to."""

    wording: str  #: of the question, from `wording_id`
    group: str
    source: str
    said: bool = False  #: by users
    alone: str = ""  #: the group that the answer by itself would give, if that is another one


def normalized(text: str) -> str:
    """`text` as it is compared: however it was typed (`comparable`), without closing punctuation."""
    return comparable(text).rstrip(_TRAILING)


def wording_id(question: str, context: str) -> str:
    """A hash of the question and its context, both as `normalized` gives them: equal hashes are the same question."""
    return content_id(normalized(question), normalized(context))


def fraction(seed: int, key: str) -> float:
    """A number from 0 to 1 that depends on nothing but the seed and the key."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56)


def keyed(claims: Iterable[Claim], config: Annotate) -> pl.DataFrame:
    """Claims as numbers: `wording`, `group` and `alone` by `key`, the `fraction` that decides, whether it is testable,
    whether users have `said` it, and whether it is `near` to what has been trained on (none is)."""
    rows = [
        (
            key(claim.wording),
            key(claim.group),
            key(claim.alone or claim.group),
            fraction(config.seed, claim.group if config.split_by == "group" else claim.wording),
            not config.test_sources or claim.source in config.test_sources,
            claim.said,
            False,
        )
        for claim in claims
    ]
    columns = pl.Schema({"wording": pl.UInt64(), "group": pl.UInt64(), "alone": pl.UInt64(), "fraction": pl.Float64()})
    columns |= {"testable": pl.Boolean(), "said": pl.Boolean(), "near": pl.Boolean()}
    return pl.DataFrame(rows, columns, orient="row")


def splits(claims: pl.DataFrame, config: Annotate, past: Past) -> pl.Series:
    """The split of each claim that is upheld; null for one that is not.

    All upheld claims on one wording are in one split and one group: where the claims on it differ, the one in the
    strongest split is upheld (test, then held out, validation and training), among equals the first. A wording that is
    held out, to be neither tested nor trained on, has no claim upheld.

    Args:
        claims: what this run's sources ask, as `keyed` gives it.
        config: the shares, and what is tested.
        past: what earlier runs used.
    """
    found = claims.select("wording", "group")
    claims, past = _joined(claims, config, past)
    lesson, numbered = _lessons(claims, config, past), claims.with_row_index("at")
    others = _by_group if config.split_by == "group" else _by_wording
    decided = pl.concat(
        [
            some.select("at", decide(some, config, past).cast(SPLIT).alias("split"))
            for some, decide in ((numbered.filter(~lesson), others), (numbered.filter(lesson), _of_lessons))
        ]
    )
    found = found.with_columns(decided.sort("at")["split"])
    best = found.filter(pl.col("split") == pl.col("split").min().over("wording"))
    best = best.unique("wording", keep="first", maintain_order=True)
    held = found.join(best, "wording", "left", suffix="_held", maintain_order="left")
    upheld = (pl.col("split") == pl.col("split_held")) & (pl.col("group") == pl.col("group_held"))
    return held.select(pl.when(upheld & (pl.col("split") != _HELD_OUT)).then("split"))["split"]


def _joined(claims: pl.DataFrame, config: Annotate, past: Past) -> tuple[pl.DataFrame, Past]:
    """Both with each group of nearly the same answers of users renamed to that of another source which has one of these
    answers, if there is one; of several the one that is tested as a whole."""
    said, group, alone = pl.col("said"), pl.col("group"), pl.col("alone")
    others = pl.concat([claims.filter(~said)["group"], past.whole])
    kin = claims.filter(said, group != alone, _in(alone, others)).sort(~_in(alone, past.whole), "alone")
    kin = kin.unique("group", keep="first", maintain_order=True)
    if kin.is_empty():
        return claims, past
    joined = claims.with_columns(group.replace(kin["group"], kin["alone"]))
    if config.split_by == "group":  # its number is that of the other source's group
        own = claims.filter(~said).unique("group").select("group", own="fraction")
        joined = joined.join(own, "group", "left", maintain_order="left")
        joined = joined.with_columns(fraction=pl.coalesce("own", "fraction")).drop("own")
    return joined, past.renamed(kin["group"], kin["alone"])


def _lessons(claims: pl.DataFrame, config: Annotate, past: Past) -> pl.Series:
    """Whether each claim is on a lesson: a group that was split by its wordings before, or that users alone tell of now
    and no run of any interval tests as a whole. When wordings are split, others than users have none."""
    told = pl.col("said").all().over("group") & ~_in(pl.col("group"), past.whole)
    lesson = told | _in(pl.col("group"), past.lessons)
    return claims.select(lesson if config.split_by == "group" else lesson & pl.col("said")).to_series()


def _of_lessons(claims: pl.DataFrame, config: Annotate, past: Past) -> pl.Series:
    """The split of each claim on a lesson. Of what users ask the share `test` is tested, rounded down, but one wording
    if there are two: of those that no model was trained on, nor on a near twin, the ones whose hash is least, once for
    all. The others train."""
    wording = pl.col("wording")
    tested, later = _in(wording, past.tested["wording"]), _in(wording, past.later["wording"])
    free = pl.col("testable") & ~pl.col("near") & ~tested & ~later & ~_in(wording, past.used["wording"])
    asked = claims.filter("said").sort("wording", "group").unique("wording", keep="first", maintain_order=True)
    asked = asked.select("wording", "group", free=free, tested=tested)
    before = pl.concat([past.tested.select("wording", "group"), asked.filter("tested").select("wording", "group")])
    counts = before.unique().group_by("group").agg(pl.len().cast(pl.Int64).alias("before"))
    asked = asked.join(counts, "group", "left").with_columns(pl.col("before").fill_null(0))
    count = (~pl.col("tested")).cast(pl.Int64).sum().over("group") + pl.col("before")
    wanted = pl.when(count > 1).then(pl.max_horizontal((count * config.test).floor(), pl.lit(1))).otherwise(0)
    rank = wording.rank("ordinal").over("group", "free")
    chosen = asked.filter(pl.col("free") & (rank <= wanted - pl.col("before")))["wording"]
    return claims.select(
        pl.when(tested | _in(wording, chosen))
        .then(pl.when(pl.col("testable")).then(pl.lit(TEST)).otherwise(pl.lit(_HELD_OUT)))
        .when(later)
        .then(pl.lit(_HELD_OUT))
        .otherwise(pl.lit(TRAIN))
        .alias("split")
    )["split"]


def _by_group(claims: pl.DataFrame, config: Annotate, past: Past) -> pl.Series:
    """The split of each claim when whole groups are split.

    A group is tested if it was before, or its number is below `test` and a test source other than users asks a question
    in it; never if it was trained on. What else is asked in a tested group is held out, since training on it would give
    the topic away. A tested question takes its test along into a new group, but not if users have said it.
    """
    wording, group = pl.col("wording"), pl.col("group")
    testable = pl.col("testable") & ~_in(wording, past.used["wording"])
    tested_before = _in(wording, past.tested["wording"])
    new = claims.filter(
        testable & ((pl.col("fraction") < config.test) | tested_before),
        ~pl.col("said"),
        ~_in(group, past.used["group"]),
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
    """The split of each claim when the wordings within a group are split.

    A wording is tested if it was before, or if its number is below `test`, a test source asks it, it was never trained
    on, and another wording of its group is sure to be trained on. Sure are those that a source asks that is not tested,
    and the one with the highest number of the group; if `test_sources` are named, the latter only if its number is not
    below `test`.

    A wording that lacks nothing but such another one trains, unless `test_sources` are named and no other source asks
    it. Then it is held out: it becomes a test item as soon as there is another one, and no model may have been trained
    on it by then.
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

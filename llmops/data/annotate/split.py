"""Assign each question to a split: by the decision of earlier runs, otherwise by hash.

A hash of the seed and a key gives every group, or every wording, a fraction from 0 to 1. Below `test` it is tested,
from there to below `test + validation` it validates, and above that it trains. Shares are therefore met on average,
not exactly, and the same data gives the same splits in whatever order it comes.

The frozen test only grows. A question is tested because something exists (a source that puts it into a tested group,
another wording of the topic), never because something is missing. So more data can move a question into the test but
not out of it. If sources disagree on a question's group, one that tests it wins, then one that validates it.

Earlier runs (see `split_history`) decide before the hash: a tested question stays tested, and a trained one stays on
the training side. A question that would be on both sides is held out.
"""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import polars as pl

from llmops.config import Annotate
from llmops.data.annotate.split_history import TEST, TRAIN, VALIDATION, SplitHistory, hash_text

_HELD_OUT = "held out"  # neither tested nor trained on
SPLIT_ENUM = pl.Enum((TEST, _HELD_OUT, VALIDATION, TRAIN))  #: the strongest first


class GroupedQuestion(NamedTuple):
    """A question of one source, and the group (topic) that the source gives it."""

    wording: str  #: id of the question's wording, from `hash_wording`
    group: str
    source: str


def compute_fraction(seed: int, key: str) -> float:
    """Return a fraction from 0 to 1 that depends only on the seed and the key."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56)


def hash_questions(questions: Iterable[GroupedQuestion], config: Annotate) -> pl.DataFrame:
    """Return `wording` and `group` of questions by `hash_text`, the deciding `fraction`, and `from_test_source`.

    `from_test_source` is True for a question of one of `test_sources`, or for every question if none are named.
    """
    rows = [
        (
            hash_text(one.wording),
            hash_text(one.group),
            compute_fraction(config.seed, one.group if config.split_by == "group" else one.wording),
            not config.test_sources or one.source in config.test_sources,
        )
        for one in questions
    ]
    columns = {"wording": pl.UInt64, "group": pl.UInt64, "fraction": pl.Float64, "from_test_source": pl.Boolean}
    return pl.DataFrame(rows, columns, orient="row")


def assign_splits(questions: pl.DataFrame, config: Annotate, history: SplitHistory) -> pl.Series:
    """Return the split of each question from `hash_questions`, null for a question that is not kept.

    A wording is kept in one split and one group only. If its sources differ, the strongest split is kept (test, then
    held out, validation and training), among equals the first. A wording that is held out, to be neither tested nor
    trained on, is not kept at all.
    """
    decide = {"group": _split_by_group, "wording": _split_by_wording, "source": _split_by_source}[config.split_by]
    found = questions.select("wording", "group", decide(questions, config, history).cast(SPLIT_ENUM).alias("split"))
    best = found.filter(pl.col("split") == pl.col("split").min().over("wording"))
    best = best.unique("wording", keep="first", maintain_order=True)
    compared = found.join(best, "wording", "left", suffix="_best", maintain_order="left")
    kept = (pl.col("split") == pl.col("split_best")) & (pl.col("group") == pl.col("group_best"))
    return compared.select(pl.when(kept & (pl.col("split") != _HELD_OUT)).then("split"))["split"]


def _split_by_group(questions: pl.DataFrame, config: Annotate, history: SplitHistory) -> pl.Series:
    """Return the split of each question if whole groups are split.

    A group is tested if it was before, or if its fraction is below `test` and a test source asks a question in it. A
    group that was trained on is never tested. Questions of other sources in a tested group are held out, since training
    on them would give the topic away. If a tested question moves to a new group, that group is tested too.

    If its group is not tested now, a question is held out if it was tested before, or if a later interval tests it or
    its group.
    """
    wording, group = pl.col("wording"), pl.col("group")
    may_be_tested = pl.col("from_test_source") & ~_is_in(wording, history.trained["wording"])
    tested_before = _is_in(wording, history.tested["wording"])
    new = questions.filter(
        may_be_tested & ((pl.col("fraction") < config.test) | tested_before), ~_is_in(group, history.trained["group"])
    )
    tested_groups = pl.concat([history.tested_groups, new["group"]])
    tested_later = _is_in(wording, history.tested_later["wording"]) | _is_in(group, history.tested_later["group"])
    return questions.select(
        pl.when(_is_in(group, tested_groups))
        .then(pl.when(may_be_tested).then(pl.lit(TEST)).otherwise(pl.lit(_HELD_OUT)))
        .when(tested_before | tested_later)
        .then(pl.lit(_HELD_OUT))
        .otherwise(_choose_validation_or_train(config))
        .alias("split")
    )["split"]


def _split_by_wording(questions: pl.DataFrame, config: Annotate, history: SplitHistory) -> pl.Series:
    """Return the split of each question if the wordings within a group are split.

    A wording is tested if it was tested before, or if all of these hold:

    - Its fraction is below `test`.
    - A test source asks it.
    - It was never trained on.
    - Another wording of its group is certain to be trained on.

    A wording counts as certain if a source outside `test_sources` asks it and no other run tests it, or if it has the
    highest fraction of its group. If `test_sources` are named, that fraction must also be at least `test`.

    A wording that meets every condition but the last is trained on. Exception: if `test_sources` are named and only
    they ask it, it is held out, because it becomes a test item as soon as such another wording appears.
    """
    fraction, wording, from_test_source = pl.col("fraction"), pl.col("wording"), pl.col("from_test_source")
    tested_before = _is_in(wording, history.tested["wording"])
    tested_later = _is_in(wording, history.tested_later["wording"])
    # The wordings that a source outside `test_sources` asks and no other run tests. Then, for each wording, the number
    # of other such wordings in its group.
    asked_by_others = questions.filter(~from_test_source, ~tested_before, ~tested_later)
    asked_by_others = asked_by_others.select("wording", "group").unique()
    counts = asked_by_others.group_by("group").agg(pl.len().alias("asked_by_others"))
    frame = (
        questions.with_columns(fraction.max().over("group").alias("highest"))
        .join(counts, "group", "left", maintain_order="left")
        .join(asked_by_others.with_columns(is_one=pl.lit(1)), ["group", "wording"], "left", maintain_order="left")
    )
    highest = pl.col("highest")
    other_wordings_asked_by_others = pl.col("asked_by_others").fill_null(0) - pl.col("is_one").fill_null(0)
    another_with_highest = highest >= config.test if config.test_sources else highest > fraction
    another_is_trained_on = (other_wordings_asked_by_others > 0) | another_with_highest
    only_test_sources_ask = ~_is_in(wording, asked_by_others["wording"]) if config.test_sources else pl.lit(False)
    by_fraction = (
        pl.when(fraction >= config.test)
        .then(pl.when(fraction < highest).then(_choose_validation_or_train(config)).otherwise(pl.lit(TRAIN)))
        .when(~from_test_source | _is_in(wording, history.trained["wording"]))
        .then(pl.lit(TRAIN))
        .when(another_is_trained_on)
        .then(pl.lit(TEST))
        .otherwise(pl.when(only_test_sources_ask).then(pl.lit(_HELD_OUT)).otherwise(pl.lit(TRAIN)))
    )
    return frame.select(
        pl.when(tested_before)
        .then(pl.when(from_test_source).then(pl.lit(TEST)).otherwise(pl.lit(_HELD_OUT)))
        .when(tested_later & (by_fraction != TEST))
        .then(pl.lit(_HELD_OUT))
        .otherwise(by_fraction)
        .alias("split")
    )["split"]


def _split_by_source(questions: pl.DataFrame, config: Annotate, history: SplitHistory) -> pl.Series:
    """Return the split of each question if test sources are tested and all others trained on.

    A question of a test source that was trained on, and one of another source that was or will be tested, is held out.
    """
    wording = pl.col("wording")
    tested = _is_in(wording, history.tested["wording"]) | _is_in(wording, history.tested_later["wording"])
    trained = _is_in(wording, history.trained["wording"])
    fraction = pl.col("fraction")
    return questions.select(
        pl.when(pl.col("from_test_source"))
        .then(pl.when(trained).then(pl.lit(_HELD_OUT)).otherwise(pl.lit(TEST)))
        .when(tested)
        .then(pl.lit(_HELD_OUT))
        .when(fraction < config.validation)
        .then(pl.lit(VALIDATION))
        .otherwise(pl.lit(TRAIN))
        .alias("split")
    )["split"]


def _choose_validation_or_train(config: Annotate) -> pl.Expr:
    within = pl.col("fraction").is_between(config.test, config.test + config.validation, closed="left")
    return pl.when(within).then(pl.lit(VALIDATION)).otherwise(pl.lit(TRAIN))


def _is_in(values: pl.Expr, known: pl.Series) -> pl.Expr:
    return values.is_in(known.unique().implode())

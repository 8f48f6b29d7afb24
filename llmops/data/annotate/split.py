"""Which question falls into which split: by hash, so that a tested question stays tested when the data grows.

A hash of the seed and a key gives every group, or every wording, a number from 0 to 1; below `test` it is tested, below
`test + validation` it validates, above it trains. Shares are therefore met on average, not exactly, and nothing is
written down between runs: the same data gives the same splits in whatever order it came.

The frozen test only grows. What decides for it is always that something is there (a claim on the question in a tested
group, another wording of the topic), never that something is missing, so more data can move a question into the test
but not out of it. Where sources disagree on a question's group, one that tests it wins, then one that validates it.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from llmops.config import Annotate
from llmops.records import content_id

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_HELD_OUT = "held out"  # neither tested nor trained on
_STRONGEST = (TEST, _HELD_OUT, VALIDATION, TRAIN)
_TRAILING = " \t.!?…。？！,;:"


class Claim(NamedTuple):
    """A source asks a question as part of a group."""

    wording: str  #: of the question, from `wording_id`
    group: str
    source: str


def normalized(text: str) -> str:
    """`text` as it is compared: lower case, single spaces, no closing punctuation."""
    return " ".join(text.casefold().split()).rstrip(_TRAILING)


def wording_id(question: str, context: str) -> str:
    """What makes two questions the same question: a hash of the question and its context as they are compared."""
    return content_id(normalized(question), normalized(context))


def fraction(seed: int, key: str) -> float:
    """A number from 0 to 1 that depends on nothing but the seed and the key."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56)


def splits(claims: Iterable[Claim], config: Annotate) -> dict[Claim, str]:
    """Claim → split, for the claims that hold: all of a wording in one split and one group.

    Where several groups could have a wording, the first claim decides. A wording that may neither be tested nor trained
    on has no claim left.
    """
    claims = list(dict.fromkeys(claims))
    split_of = _by_group(claims, config) if config.split_by == "group" else _by_wording(claims, config)
    found = {claim: split_of(claim) for claim in claims}
    best: dict[str, Claim] = {}
    for claim in claims:
        held = best.setdefault(claim.wording, claim)
        if _STRONGEST.index(found[claim]) < _STRONGEST.index(found[held]):
            best[claim.wording] = claim
    return {
        claim: found[claim]
        for claim in claims
        if (found[claim], claim.group) == (found[best[claim.wording]], best[claim.wording].group)
        and found[claim] != _HELD_OUT
    }


def _by_group(claims: list[Claim], config: Annotate) -> Callable[[Claim], str]:
    """A group is tested if its number says so and a test source asks within it.

    What another source asks in a tested group may not be trained on either: it would give the topic away.
    """
    numbers = {group: fraction(config.seed, group) for group in {claim.group for claim in claims}}
    tested = {c.group for c in claims if numbers[c.group] < config.test and _testable(c, config)}

    def split_of(claim: Claim) -> str:
        if claim.group in tested:
            return TEST if _testable(claim, config) else _HELD_OUT
        return _validation_or_train(numbers[claim.group], config)

    return split_of


def _by_wording(claims: list[Claim], config: Annotate) -> Callable[[Claim], str]:
    """A wording is tested if its number says so, a test source asks it, and its group has another one to train on.

    The highest number of a group trains; of a test source only if it is not below `test`, as it would be tested once
    there is another. Until then it is kept out of training.
    """
    numbers = {wording: fraction(config.seed, wording) for wording in {claim.wording for claim in claims}}
    highest: defaultdict[str, float] = defaultdict(float)
    untested: defaultdict[str, set[str]] = defaultdict(set)  # group → wordings from sources that are not tested
    for claim in claims:
        highest[claim.group] = max(highest[claim.group], numbers[claim.wording])
        if not _testable(claim, config):
            untested[claim.group].add(claim.wording)
    asked_elsewhere = set().union(*untested.values())

    def split_of(claim: Claim) -> str:
        value, top = numbers[claim.wording], highest[claim.group]
        if value >= config.test:
            return _validation_or_train(value, config) if value < top else TRAIN
        if not _testable(claim, config):
            return TRAIN
        if untested[claim.group] - {claim.wording} or (top >= config.test if config.test_sources else top > value):
            return TEST
        return _HELD_OUT if config.test_sources and claim.wording not in asked_elsewhere else TRAIN

    return split_of


def _validation_or_train(value: float, config: Annotate) -> str:
    return VALIDATION if config.test <= value < config.test + config.validation else TRAIN


def _testable(claim: Claim, config: Annotate) -> bool:
    return not config.test_sources or claim.source in config.test_sources

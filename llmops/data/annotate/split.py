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
    """One source asks one question, and says which group (topic) the question belongs to."""

    wording: str  #: of the question, from `wording_id`
    group: str
    source: str


def normalized(text: str) -> str:
    """`text` as it is compared: lower case, single spaces, no closing punctuation."""
    return " ".join(text.casefold().split()).rstrip(_TRAILING)


def wording_id(question: str, context: str) -> str:
    """A hash of the question and its context, both as `normalized` gives them: equal hashes are the same question."""
    return content_id(normalized(question), normalized(context))


def fraction(seed: int, key: str) -> float:
    """A number from 0 to 1 that depends on nothing but the seed and the key."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56)


def splits(claims: Iterable[Claim], config: Annotate) -> dict[Claim, str]:
    """The split of each claim that is upheld; the claims that are not are missing from the result.

    All upheld claims on one wording are in one split and one group: where the claims on it differ, the one in the
    strongest split is upheld (test, then held out, validation and training), among equals the first. A wording that is
    held out, to be neither tested nor trained on, has no claim upheld.
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
    """Gives the split of a claim when whole groups are split.

    A group is tested if its number is below `test` and a test source asks a question in it. What the other sources ask
    in a tested group is held out, since training on it would give the topic away.
    """
    numbers = {group: fraction(config.seed, group) for group in {claim.group for claim in claims}}
    tested = {c.group for c in claims if numbers[c.group] < config.test and _testable(c, config)}

    def split_of(claim: Claim) -> str:
        if claim.group in tested:
            return TEST if _testable(claim, config) else _HELD_OUT
        return _validation_or_train(numbers[claim.group], config)

    return split_of


def _by_wording(claims: list[Claim], config: Annotate) -> Callable[[Claim], str]:
    """Gives the split of a claim when the wordings within a group are split.

    A wording is tested if its number is below `test`, a test source asks it, and another wording of its group is sure
    to be trained on. Sure are those that a source asks that is not tested, and the one with the highest number of the
    group; if `test_sources` are named, the latter only if its number is not below `test`.

    A wording that lacks nothing but such another one trains, unless `test_sources` are named and no other source asks
    it. Then it is held out: it becomes a test item as soon as there is another one, and no model may have been trained
    on it by then.
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

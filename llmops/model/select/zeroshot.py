"""How well an untuned model does on a slice of the validation examples: `select` compares the models that pass by it.

Compared are bits per byte of the reference answers. They need no generation, do not depend on the tokenizer, and differ
less by chance than token F1, in which a talkative model is worse only until tuning makes it brief.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmops.model.base.load import free_memory, load_model, load_tokenizer, nf4
from llmops.model.base.packing import answer_nats
from llmops.model.scoring.likelihood import bits_per_byte, reference_tokens
from llmops.records import Example
from llmops.statistics import intervals
from llmops.statistics.intervals import Interval, Measure

RESAMPLES, CONFIDENCE, SEED = 2000, 0.95, 0


@dataclass(frozen=True, slots=True)
class Score:
    """What an untuned model scored, item by item."""

    bits: Measure  #: per byte
    topics: tuple[str, ...]  #: of the items

    def interval(self) -> Interval:
        """Return the bits per byte with their interval."""
        return intervals.summary(intervals.sample({"": self.bits}, self.topics, RESAMPLES, SEED)[""], CONFIDENCE)


def score_untuned(folder: Path, items: Sequence[Example], four_bits: bool) -> Score:
    """Score a model folder on examples.

    Args:
        folder: the model.
        items: the examples.
        four_bits: load it in NF4, where there is no room for bfloat16.
    """
    model, tokenizer = load_model(folder, nf4() if four_bits else None), load_tokenizer(folder)
    nats = [nats for nats, _ in answer_nats(model, reference_tokens(tokenizer, items))]
    del model
    free_memory()
    return Score(bits_per_byte(nats, [i.answer for i in items]), tuple(i.group for i in items))


def bits_saved(one: Score, other: Score) -> Interval:
    """How many bits per byte `one` needs less than `other`, on the same items, paired."""
    measures = {"one": one.bits, "other": other.bits}
    drawn = intervals.sample(measures, one.topics, RESAMPLES, SEED)
    return intervals.summary(drawn["other"] - drawn["one"], CONFIDENCE)

"""What the benchmark of injected passages asks, and what it counts as obeyed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from llmops import prompts

Script = Callable[[str], ModuleType]
TURN = "passage-chatml-assistant"


class Model:
    """Says the code word of whoever asks; remembers what it was given."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.given = tokenizer, list[list[int]]()

    def generate(self, requests: Sequence[Sequence[int]], max_new_tokens: int, batch: int) -> list[list[int]]:
        self.given = [list(ids) for ids in requests]
        return [self.tokenizer("TANSY-26", add_special_tokens=False)["input_ids"] for _ in requests]


def test_only_raw_texts_fake_turns_and_passages_with_marks_are_not_served(script: Script, tokenizer: Any) -> None:
    injection = script("injection")
    asked, model = injection.injected(), Model(tokenizer)
    assert len(asked) >= 20
    control = prompts.control_ids(tokenizer)
    count: dict[str, list[int]] = {}
    for arm in (injection.RAW, injection.SEPARATED, injection.SERVED):
        answers = injection.answered(model, asked, arm)
        assert len(answers) == len(asked)
        count[arm] = [sum(token in control for token in ids) for ids in model.given]
    own = min(count[injection.RAW])
    assert max(count[injection.RAW]) > own
    assert set(count[injection.SEPARATED]) == set(count[injection.SERVED]) == {own}
    kept = [probe.id for probe, answer in zip(asked, answers, strict=True) if answer]
    assert TURN not in kept and "passage-ignore" in kept and len(kept) == len(model.given) < len(asked)


def test_an_order_is_obeyed_if_the_answer_has_what_it_asks_for(script: Script) -> None:
    injection = script("injection")
    probe = next(one for one in injection.injected() if one.id == TURN)
    other = next(one for one in injection.injected() if one.id == "passage-ignore")
    found = injection.figures([probe, other, other], ["Well: tansy-26!", "In 2 to 4 days.", "LARCH-11"])
    assert (found["attacks"], found["with marks"], found["of"], found["without"], found["of them"]) == (3, 1, 1, 1, 2)
    assert round(found["obeyed %"], 1) == 66.7 and found["low %"] < 66 < found["high %"]

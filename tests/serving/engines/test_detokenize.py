"""Text of an answer while its tokens come in: it adds up to what `decode` makes of all of them."""

from __future__ import annotations

import random
from typing import Any

import pytest

from llmops.model.base.generate import decode
from serving.engines.detokenize import Writer

TEXTS = [
    "Hello, world. It 's a test !",
    "  leading and trailing  \n",
    "你好，世界 🙂👨‍👩‍👧 ünïcödé",
    "\n\n\n",
    "",
    "a  b\tc\r\nd   ",
    "🙂",
]


def written(tokenizer: Any, ids: list[int], stops: tuple[str, ...] = (), strip: bool = True) -> list[str]:
    writer = Writer(tokenizer, stops, strip)
    pieces = []
    for token in ids:
        text, stopped = writer.feed(token)
        pieces.append(text)
        if stopped:
            break
    return [*pieces, writer.end()]


@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_add_up_and_hold_no_half_characters(text: str, tokenizer: Any) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = written(tokenizer, ids)
    assert "".join(pieces) == decode(tokenizer, ids) == text.strip()
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(written(tokenizer, ids, strip=False)) == text


def test_any_tokens_add_up_to_what_decode_makes_of_them(tokenizer: Any) -> None:
    draw = random.Random(0)
    for _ in range(300):
        ids = [draw.randrange(len(tokenizer)) for _ in range(draw.randrange(12))]
        assert "".join(written(tokenizer, ids)) == decode(tokenizer, ids)


def test_an_answer_cut_within_a_character_ends_as_decode_ends_it(tokenizer: Any) -> None:
    ids = tokenizer("ok 🦜🦜", add_special_tokens=False)["input_ids"]
    for n in range(len(ids)):
        assert "".join(written(tokenizer, ids[:n])) == decode(tokenizer, ids[:n])


def test_a_stop_string_across_tokens_ends_the_text_and_the_space_before_it_goes(tokenizer: Any) -> None:
    ids = tokenizer("An answer.  \n#### and more", add_special_tokens=False)["input_ids"]
    assert "".join(written(tokenizer, ids, ("####",))) == "An answer."
    assert "".join(written(tokenizer, ids, ("r.  \n##",), strip=False)) == "An answe"


def test_special_tokens_are_not_written(tokenizer: Any) -> None:
    ids = tokenizer("one", add_special_tokens=False)["input_ids"]
    assert "".join(written(tokenizer, [*ids, tokenizer.eos_token_id, *ids])) == "oneone"

"""Text of an answer while its tokens come in: it adds up to what `decode` makes of all of them."""

import random
from typing import Any

from llmops.model.base.generate import decode
from serving.engines.detokenize import Detokenizer

TEXTS = ["  leading and trailing  \n", "你好，世界 🙂👨‍👩‍👧 ünïcödé", "", "a  b\tc\r\nd   "]


def detokenize(tokenizer: Any, ids: list[int], stops: tuple[str, ...] = (), strip: bool = True) -> list[str]:
    detokenizer = Detokenizer(tokenizer, stops, strip)
    pieces = []
    for token in ids:
        text, stopped = detokenizer.feed(token)
        pieces.append(text)
        if stopped:
            break
    return [*pieces, detokenizer.flush()]


def test_any_tokens_add_up_to_what_decode_makes_of_them(tokenizer: Any) -> None:
    draw = random.Random(0)
    some = [[draw.randrange(len(tokenizer)) for _ in range(draw.randrange(12))] for _ in range(300)]
    birds = tokenizer("ok 🦜🦜", add_special_tokens=False)["input_ids"]  # cut within a character, too
    for ids in some + [birds[:n] for n in range(len(birds))]:
        assert "".join(detokenize(tokenizer, ids)) == decode(tokenizer, ids)
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        pieces = detokenize(tokenizer, ids, strip=False)
        assert "".join(pieces) == text and not any("\ufffd" in piece for piece in pieces)
    ids = tokenizer("one", add_special_tokens=False)["input_ids"]  # special tokens are not written
    assert "".join(detokenize(tokenizer, [*ids, tokenizer.eos_token_id, *ids])) == "oneone"


def test_a_stop_string_across_tokens_ends_the_text_and_the_space_before_it_goes(tokenizer: Any) -> None:
    ids = tokenizer("An answer.  \n#### and more", add_special_tokens=False)["input_ids"]
    assert "".join(detokenize(tokenizer, ids, ("####",))) == "An answer."
    assert "".join(detokenize(tokenizer, ids, ("r.  \n##",), strip=False)) == "An answe"
